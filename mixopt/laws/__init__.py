"""The laws: one regressor per file, and this list of them."""

from __future__ import annotations

from mixopt.errors import JobError, did_you_mean
from mixopt.laws.base import ConvexLaw, Law
from mixopt.laws.lightgbm import LightGBM
from mixopt.laws.linear import Linear
from mixopt.laws.loglinear import LogLinear

LAWS: dict[str, type[Law]] = {"lightgbm": LightGBM, "linear": Linear, "loglinear": LogLinear}


def make(name: str) -> Law:
    """A law with its own defaults. Raises JobError for an unknown name."""
    if name not in LAWS:
        raise JobError(f"law: unknown law {name!r}; {did_you_mean(name, LAWS)}")
    return LAWS[name]()


def make_convex(name: str) -> ConvexLaw:
    """A law whose objective can be minimised exactly. Raises JobError for any other."""
    law = make(name)
    if not isinstance(law, ConvexLaw):
        raise JobError(f"law: {name!r} is not convex; convex: {', '.join(n for n in LAWS if convex(n))}.")
    return law


def convex(name: str) -> bool:
    """Whether the objective of this law can be minimised exactly."""
    return isinstance(make(name), ConvexLaw)


def summary(name: str) -> str:
    """One line about a law: the first of its docstring."""
    return (LAWS[name].__doc__ or "").partition("\n")[0]
