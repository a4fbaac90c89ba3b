"""Do two settings of the proxies put the same mixtures in the same order?

Shapes: R runs (one per mixture, the same in every array), M metrics in the order of `objective.metrics`, B resamples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from mixopt.mixture import FloatArray
from mixopt.quality import spearman
from mixopt.runs import Objective

IntArray = NDArray[np.int64]
LEVEL = 0.95
RESAMPLES = 2000
TOP = (1, 3, 5)
GOOD = 0.8  # rank correlation from which ranks are said to agree ...
LEAST = 0.5  # ... if the low end of its interval is at least this


@dataclass(frozen=True)
class Agreement:
    """How well the ranks of one setting, `own`, tell those of another.

    `spearman` and its 95 % `interval` are of the objective, `metrics` of each metric; None where all values are
    equal. `pairwise` is the share of pairs of mixtures in the same order. `regret` by k: the best of the k mixtures
    which `own` ranks first, minus the best of all, in the other's objective; `spread` is the other's worst minus its
    best, for scale.
    """

    spearman: float | None
    interval: tuple[float, float] | None
    pairwise: float
    regret: Mapping[int, float]
    spread: float
    metrics: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the least and the median of the metrics' correlations."""
        known = [value for value in self.metrics.values() if value is not None]
        return asdict(self) | {
            "interval": list(self.interval) if self.interval else None,
            "regret": {str(k): value for k, value in self.regret.items()},
            "metrics_min": min(known, default=None),
            "metrics_median": median(known) if known else None,
        }


def resamples(runs: int, rng: np.random.Generator, count: int = RESAMPLES) -> IntArray:
    """Mixtures drawn with replacement: indices [B, R]. The same for every comparison, which makes these paired."""
    return rng.integers(0, runs, (count, runs))


def agreement(own_RM: FloatArray, other_RM: FloatArray, objective: Objective, index_BR: IntArray) -> Agreement:
    """Compare the metrics of the same mixtures under two settings.

    Source: the interval is the percentile bootstrap, Efron 1979 (Annals of Statistics 7, 1).
    """
    a_R, b_R = own_RM @ objective.weights_M, other_RM @ objective.weights_M
    columns = zip(objective.metrics, own_RM.T, other_RM.T, strict=True)
    return Agreement(
        spearman=spearman(a_R, b_R),
        interval=_interval(_spearman_B(a_R[index_BR], b_R[index_BR])),
        pairwise=pairwise(a_R, b_R),
        regret={k: regret(a_R, b_R, k) for k in TOP if k <= len(a_R)},
        spread=float(np.ptp(b_R)),
        metrics={metric: spearman(own_R, other_R) for metric, own_R, other_R in columns},
    )


def shortfall(
    own_RM: FloatArray, again_RM: FloatArray, other_RM: FloatArray, objective: Objective, index_BR: IntArray
) -> tuple[float, float] | None:
    """95 % interval of how far own-other correlation stays below own-again, that of another seed of the same setting.

    Where zero lies inside, the disagreement is no more than noise.
    """
    a_BR, c_BR, b_BR = ((Y_RM @ objective.weights_M)[index_BR] for Y_RM in (own_RM, again_RM, other_RM))
    return _interval(_spearman_B(a_BR, c_BR) - _spearman_B(a_BR, b_BR))


def pairwise(a_R: FloatArray, b_R: FloatArray) -> float:
    """Share of pairs of runs that both put in the same order; a pair that is equal on one side counts half."""
    first, second = np.triu_indices(len(a_R), 1)
    same = np.sign(a_R[first] - a_R[second]) * np.sign(b_R[first] - b_R[second])
    return float((same + 1).mean() / 2)


def regret(a_R: FloatArray, b_R: FloatArray, k: int) -> float:
    """How much worse in b the best of a's first k is than b's own best; lower is better, 0 is best."""
    first = np.argsort(a_R, kind="stable")[:k]
    return float(b_R[first].min() - b_R.min())


def verdict(
    found: Agreement | None, noise: Agreement, lost: tuple[float, float] | None, other: str
) -> tuple[bool | None, str]:
    """Whether to trust the ranks (None: too few mixtures to say), and a sentence that says why.

    `found` is the agreement with the setting called `other`, `noise` that with another seed of the same setting,
    `lost` their `shortfall`. Without `found` it is about the seeds.
    """
    if found is None:
        return _verdict_on_seeds(noise)
    trusted, said, ceiling = _trusted(found), _said(found), _number(noise.spearman)
    beyond = lost is not None and lost[0] > 0
    if trusted:
        tail = " What is missing is more than noise." if beyond else ""
        return True, f"Ranks agree with {other}: {said}; another seed of the same proxies reaches {ceiling}.{tail}"
    if trusted is None:
        return None, (
            f"Not sure: ranks agree with {other} at {said}, another seed of the same proxies at {ceiling}; "
            "the interval is too wide. Compare more mixtures (--mixtures)."
        )
    if not beyond and not _trusted(noise):
        return False, (
            f"Do not trust these ranks: they agree with {other} at only {said}, and another seed of the same proxies "
            f"reaches only {ceiling}: noise hides the order. Train longer or larger proxies."
        )
    cause = "" if beyond else ", though with so few mixtures noise is not ruled out as the cause"
    return False, (
        f"Do not trust these proxies in place of {other}: ranks agree at only {said}, where another seed of the same "
        f"proxies reaches {ceiling}{cause}."
    )


def _verdict_on_seeds(noise: Agreement) -> tuple[bool | None, str]:
    trusted, said = _trusted(noise), _said(noise)
    if trusted:
        return True, f"Seeds agree: {said}. The order of these mixtures is more than the noise of one seed."
    if trusted is None:
        return None, f"Not sure: seeds agree at {said}; the interval is too wide. Compare more mixtures (--mixtures)."
    return False, (
        f"Do not trust these ranks: seeds agree at only {said}: noise hides the order. Train longer or larger proxies."
    )


def _trusted(found: Agreement) -> bool | None:
    if found.spearman is None or found.interval is None or found.spearman < GOOD:
        return False
    return True if found.interval[0] >= LEAST else None


def _said(found: Agreement) -> str:
    span = " ({:.2f} to {:.2f})".format(*found.interval) if found.interval else ""
    return f"{_number(found.spearman)}{span}"


def _number(value: float | None) -> str:
    return "no correlation at all" if value is None else f"{value:.2f}"


def _spearman_B(a_BR: FloatArray, b_BR: FloatArray) -> FloatArray:
    """Spearman's correlation of each row [B]; NaN where one side is constant."""
    a_BR, b_BR = rankdata(a_BR, axis=1), rankdata(b_BR, axis=1)
    a_BR, b_BR = a_BR - a_BR.mean(1, keepdims=True), b_BR - b_BR.mean(1, keepdims=True)
    scale_B = np.sqrt((a_BR**2).sum(1) * (b_BR**2).sum(1))
    return np.divide((a_BR * b_BR).sum(1), scale_B, out=np.full(len(a_BR), np.nan), where=scale_B > 0)


def _interval(value_B: FloatArray) -> tuple[float, float] | None:
    known = value_B[np.isfinite(value_B)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
