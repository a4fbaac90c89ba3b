"""The scale laws: regressors from mixture, model size and tokens to metrics, one per file, and this list of them."""

from __future__ import annotations

from mixopt.errors import JobError, did_you_mean
from mixopt.scale_laws.additive import Additive
from mixopt.scale_laws.base import Runs, ScaleLaw
from mixopt.scale_laws.dai_zheng import DaiZheng
from mixopt.scale_laws.multiplicative import Multiplicative
from mixopt.scale_laws.nested import Nested
from mixopt.scale_laws.shukor import Shukor
from mixopt.scale_laws.shukor_joint import ShukorJoint

__all__ = ["SCALE_LAWS", "Runs", "make", "summary"]

SCALE_LAWS: dict[str, type[ScaleLaw]] = {
    "additive": Additive,
    "multiplicative": Multiplicative,
    "nested": Nested,
    "shukor": Shukor,
    "shukor_joint": ShukorJoint,
    "dai_zheng": DaiZheng,
}


def make(name: str) -> ScaleLaw:
    """A scale law with its own defaults. Raises JobError for an unknown name."""
    if name not in SCALE_LAWS:
        raise JobError(f"scale law: unknown law {name!r}; {did_you_mean(name, SCALE_LAWS)}")
    return SCALE_LAWS[name]()


def summary(name: str) -> str:
    """One line about a scale law: the first of its docstring."""
    return (SCALE_LAWS[name].__doc__ or "").partition("\n")[0]
