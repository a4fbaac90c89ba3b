"""How good a law is on runs it has not seen, and how wide that makes the interval of its answer.

Shapes: R runs, D domains, M metrics in the order of `objective.metrics`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import rankdata

from mixopt.errors import SwarmError
from mixopt.laws.base import CrossValidatedLaw, Law
from mixopt.mixture import FloatArray
from mixopt.runs import Objective

LEVEL = 0.9
OBJECTIVE = "objective"


@dataclass(frozen=True)
class Fit:
    """Observed against predicted; None where a number has no meaning (constant values, no interval)."""

    spearman: float | None
    mae: float
    r2: float | None
    coverage90: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def out_of_fold(law: Law, X_RD: FloatArray, Y_RM: FloatArray, folds: int = 10) -> FloatArray:
    """Predictions [R, M] for each run of a law fitted to these, by a copy of the law that has not seen it.

    A law that was cross-validated by its own fit has them. For others run r is left out with fold r modulo `folds`. Where so many runs left out would be too many for the law, fewer are
    left out at a time, down to one. Raises SwarmError if even that leaves too few.
    """
    runs, needed = len(X_RD), law.min_runs(X_RD.shape[1])
    if runs <= needed:
        raise SwarmError(
            f"out of fold: {runs} good runs, and {type(law).__name__} needs {needed} besides those left out. "
            f"Ask for at least {needed + 1} (proxies.count)."
        )
    if isinstance(law, CrossValidatedLaw) and law.out_of_fold_[0].shape == Y_RM.shape:
        return law.out_of_fold_[0]
    folds = min(runs, max(folds, math.ceil(runs / (runs - needed))))
    fold_R = np.arange(runs) % folds
    P_RM = np.empty_like(Y_RM, dtype=float)
    for fold in range(folds):
        kept_R = fold_R != fold
        P_RM[~kept_R] = copy.deepcopy(law).fit(X_RD[kept_R], Y_RM[kept_R]).predict(X_RD[~kept_R])
    return P_RM


def measure(
    observed_RM: FloatArray,
    predicted_RM: FloatArray,
    objective: Objective,
    widths: Mapping[str, float | None] | None = None,
) -> dict[str, Fit]:
    """The fit of "objective" and of each of its metrics; where half the width of an interval is given, its coverage."""
    observed, predicted, known = _columns(observed_RM, objective), _columns(predicted_RM, objective), widths or {}
    return {name: _fit(observed[name], predicted[name], known.get(name)) for name in observed}


def describe(
    observed_RM: FloatArray,
    predicted_RM: FloatArray,
    objective: Objective,
    widths: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """`measure` as plain data: "targets" by metric, the "mean" of these, and the objective as "mean_loss"."""
    fits = {name: fit.to_json() for name, fit in measure(observed_RM, predicted_RM, objective, widths).items()}
    mean_loss = fits.pop(OBJECTIVE)
    known = {key: [fit[key] for fit in fits.values() if fit[key] is not None] for key in mean_loss}
    mean = {key: fmean(values) if values else None for key, values in known.items()}
    return {"targets": fits, "mean": mean, "mean_loss": mean_loss}


def interval(observed_RM: FloatArray, out_of_fold_RM: FloatArray, objective: Objective) -> float | None:
    """Half the width of the objective's 90 % interval; None below 9 runs."""
    return half_widths(observed_RM, out_of_fold_RM, objective)[OBJECTIVE]


def half_widths(observed_RM: FloatArray, out_of_fold_RM: FloatArray, objective: Objective) -> dict[str, float | None]:
    """Half the widths of 90 % intervals of "objective" and each metric: quantiles of absolute out-of-fold residuals.

    The quantile is the ceil(0.9 (R + 1))-th smallest of R; below 9 runs there is no such residual, hence None. It
    covers a new run drawn like the swarm's in 90 % of cases, an optimum that was searched for perhaps less.
    Source: the quantile of split conformal prediction, Lei et al. 2018, "Distribution-free predictive inference for
    regression", on cross-validated residuals.
    """
    rank = math.ceil(LEVEL * (len(observed_RM) + 1))
    residuals = _columns(observed_RM - out_of_fold_RM, objective)
    return {name: float(np.sort(abs(r_R))[rank - 1]) if rank <= len(r_R) else None for name, r_R in residuals.items()}


def own_proportion(
    X_RD: FloatArray, Y_RM: FloatArray, names: Sequence[str], metrics: Sequence[str]
) -> dict[str, float | None]:
    """How well each metric is ranked by its own domain's proportion alone: the baseline of every law.

    Minus Spearman's correlation, so that 1 is a loss which always falls as its domain grows; a metric without an own
    domain is left out.
    """
    own = zip(metrics, own_domains(names, metrics), Y_RM.T, strict=True)
    return {metric: spearman(-X_RD[:, j], y_R) for metric, j, y_R in own if j is not None}


def own_domains(names: Sequence[str], metrics: Sequence[str]) -> tuple[int | None, ...]:
    """The place of each metric's own domain among the names, None for a metric without one.

    The own domain of "bpb/code" or "code" is `code`.
    """
    place = {name: j for j, name in enumerate(names)}
    return tuple(place.get(metric.rpartition("/")[2]) for metric in metrics)


def spearman(a_R: FloatArray, b_R: FloatArray) -> float | None:
    """Spearman's rank correlation; None where one side is constant."""
    if len(a_R) < 2 or np.ptp(a_R) == 0 or np.ptp(b_R) == 0:
        return None
    return float(np.corrcoef(rankdata(a_R), rankdata(b_R))[0, 1])


def r2(observed_R: FloatArray, predicted_R: FloatArray) -> float | None:
    """The share of the variance that the predictions explain, below 0 if they are worse than the mean; None where there is none."""
    if not len(observed_R) or np.ptp(observed_R) == 0:
        return None
    return 1 - float(np.mean((observed_R - predicted_R) ** 2) / np.var(observed_R))


def _columns(Y_RM: FloatArray, objective: Objective) -> dict[str, FloatArray]:
    """The objective and each metric [R], by name."""
    return {OBJECTIVE: Y_RM @ objective.weights_M, **dict(zip(objective.metrics, Y_RM.T, strict=True))}


def _fit(observed_R: FloatArray, predicted_R: FloatArray, half_width: float | None) -> Fit:
    error_R = np.abs(observed_R - predicted_R)
    return Fit(
        spearman=spearman(observed_R, predicted_R),
        mae=float(error_R.mean()),
        r2=r2(observed_R, predicted_R),
        coverage90=float(np.mean(error_R <= half_width)) if half_width is not None else None,
    )
