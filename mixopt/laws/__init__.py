"""The laws: one regressor per file, and this list of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mixopt.errors import JobError, did_you_mean
from mixopt.laws.auto import Auto
from mixopt.laws.autoscale import AutoScale
from mixopt.laws.base import ConvexLaw, Law, OwnLaw, PosteriorLaw, SmoothLaw, SometimesConvexLaw
from mixopt.laws.bimix import BiMix
from mixopt.laws.effdata import EffData
from mixopt.laws.gp import GP
from mixopt.laws.implicit import ImplicitMixingLaw
from mixopt.laws.lightgbm import LightGBM
from mixopt.laws.linear import Linear
from mixopt.laws.loglinear import LogLinear
from mixopt.laws.mixinglaws import MixingLaws
from mixopt.laws.quadratic import Quadratic
from mixopt.laws.sparse_quadratic import SparseQuadratic

LawName = Literal[
    "auto",
    "autoscale",
    "bimix",
    "effdata",
    "gp",
    "implicit",
    "lightgbm",
    "linear",
    "loglinear",
    "mixinglaws",
    "quadratic",
    "sparse_quadratic",
]

LAWS: dict[str, type[Law]] = {
    "effdata": EffData,
    "lightgbm": LightGBM,
    "linear": Linear,
    "loglinear": LogLinear,
    "gp": GP,
    "auto": Auto,
    "autoscale": AutoScale,
    "bimix": BiMix,
    "implicit": ImplicitMixingLaw,
    "mixinglaws": MixingLaws,
    "quadratic": Quadratic,
    "sparse_quadratic": SparseQuadratic,
}


@dataclass(frozen=True)
class Capabilities:
    """What a law offers beside `fit` and `predict`.

    `convex`: its objective can be minimised exactly always, sometimes (`exact` finds out after the fit) or never;
    `smooth`: it has `gradient`; `posterior`: it has `draw`; `min_runs`: the fewest good runs for so many domains. Runs
    are of one size and one number of tokens; laws that know of both, and of repetition, are in `scale_laws`.
    """

    convex: Literal["always", "sometimes", "never"]
    smooth: bool
    posterior: bool
    min_runs: int


def make(name: str, own: Sequence[int | None] | None = None) -> Law:
    """A law with its own defaults; `own` is each metric's own domain, for laws that can use it.

    Raises JobError for an unknown name.
    """
    if name not in LAWS:
        raise JobError(f"law: unknown law {name!r}; {did_you_mean(name, LAWS)}")
    law = LAWS[name]()
    if isinstance(law, OwnLaw):
        law.own = own
    return law


def make_convex(name: str, own: Sequence[int | None] | None = None) -> ConvexLaw:
    """A law whose objective can be minimised exactly. Raises JobError for any other."""
    law = make(name, own)
    if not isinstance(law, ConvexLaw):
        always = ", ".join(other for other in LAWS if capabilities(make(other)).convex == "always")
        raise JobError(f"law: {name!r} is not convex; convex: {always}.")
    return law


def capabilities(law: Law, domains: int = 10) -> Capabilities:
    """What this law offers, read off the methods that it has."""
    always = isinstance(law, ConvexLaw)
    return Capabilities(
        convex="always" if always else "sometimes" if isinstance(law, SometimesConvexLaw) else "never",
        smooth=isinstance(law, SmoothLaw),
        posterior=isinstance(law, PosteriorLaw),
        min_runs=law.min_runs(domains),
    )


def summary(name: str) -> str:
    """One line about a law: the first of its docstring."""
    return (LAWS[name].__doc__ or "").partition("\n")[0]
