"""The laws: one regressor per file, and this list of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mixopt.errors import JobError, did_you_mean
from mixopt.laws.auto import Auto
from mixopt.laws.autoscale import AutoScale
from mixopt.laws.base import ConvexLaw, Law, OwnLaw
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
        raise JobError(f"law: {name!r} is not convex; convex: {', '.join(n for n in LAWS if convex(n))}.")
    return law


def convex(name: str) -> bool:
    """Whether the objective of this law can be minimised exactly."""
    return isinstance(make(name), ConvexLaw)


def summary(name: str) -> str:
    """One line about a law: the first of its docstring."""
    return (LAWS[name].__doc__ or "").partition("\n")[0]
