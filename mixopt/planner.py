"""How many proxies a wanted interval takes: the learning curve of a law on subsets of a pilot, and where it goes.

    err(n)^2 = floor^2 + (a n^-b)^2,    half-width of the 90 % interval = shape * err(n)

err(n) is the root mean square error of the objective for runs that a law fitted to n others has not seen; it holds the
noise of a run, and `floor` is that noise and what the law will never fit. A law is fitted to several random subsets of
several sizes; `shape` is the 90 % quantile of absolute errors in units of err. Of many curves drawn from weak priors
those are kept, in proportion to their likelihood, that agree with the logarithms of the measured errors, whose
covariance is a bootstrap over both subsets and runs. The prior of floor^2 is around the mean of the squared errors
inside and outside of the largest subsets: the first is below the floor, the second above it, for a linear law by the same
amount. Replicates, runs of equal mixtures, are never split between both sides, and bound the floor from below.

Shapes: R runs of the pilot, D domains, M metrics, K sizes of subsets, B subsets of a size, T resamples, S curves.

Source: power laws of learning curves, Cortes et al. 1993, "Learning curves: asymptotic values and rate of convergence",
and Hestness et al. 2017 (arXiv:1712.00409); that training errors approach the floor from below is in the former. Planning
by them, priors and sampling are ours.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import SwarmError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray

LEVEL, NORMAL = 0.9, 1.645
SIZES, SUBSETS, LARGEST = 6, 12, 0.9
SPREAD = 8  # the smallest subset has at least an eighth of the pilot
LEAST_OUTSIDE = 4
RESAMPLES, CURVES, KEPT = 400, 40_000, 4000
POWER = (math.log(0.55), 0.35)  # centre and width of log b; 1/2 is what a law that fits would have
FLOOR, EXCESS = 0.7, 1.0  # widths of log floor^2 and log (a n^-b)^2
MISFIT = 0.05  # of log err^2, beside the bootstrap's: the curve is no law of nature
SMALLEST = 1e-30


@dataclass(frozen=True)
class LearningCurve:
    """What was measured: squared errors [K, B, R] of subsets (NaN for runs learned from) and inside of them [K, B].

    `noise` is the standard deviation of a run's error that replicates show, None without replicates.
    """

    size_K: NDArray[np.int64]
    square_KBR: FloatArray
    inside_KB: FloatArray
    shape: float
    noise: float | None

    @property
    def runs(self) -> int:
        """Runs of the pilot."""
        return self.square_KBR.shape[2]

    @property
    def outside_K(self) -> FloatArray:
        """Mean squared errors [K]."""
        return np.asarray(np.nanmean(self.square_KBR, axis=(1, 2)))


@dataclass(frozen=True)
class Forecast:
    """Curves [S] that the measured errors leave plausible: floor^2, (a n^-b)^2 at the pilot's runs, and b."""

    runs: int
    shape: float
    floor_S: FloatArray
    excess_S: FloatArray
    power_S: FloatArray

    def half_width(self, runs: float) -> tuple[float, float, float]:
        """Half the width of the interval with so many runs: median, and the ends of its own 90 % interval."""
        square_S = self.floor_S + self.excess_S * (runs / self.runs) ** (-2 * self.power_S)
        return _spread(self.shape * np.sqrt(square_S))

    def floor(self) -> tuple[float, float, float]:
        """The half-width that ever more runs approach."""
        return _spread(self.shape * np.sqrt(self.floor_S))

    def needed(self, half_width: float) -> tuple[float, float, float]:
        """Runs that reach this half-width, infinite where none do: median, and the ends of a 90 % interval."""
        left_S = (half_width / self.shape) ** 2 - self.floor_S
        log_S = -np.log(np.maximum(left_S, SMALLEST) / self.excess_S) / (2 * self.power_S)
        log_S = np.where(left_S > 0, log_S + math.log(self.runs), np.inf)
        return _spread(np.ceil(np.exp(np.minimum(log_S, 600))), np.isinf(log_S))


def learning_curve(
    law: Law,
    X_RD: FloatArray,
    Y_RM: FloatArray,
    weights_M: FloatArray,
    rng: np.random.Generator,
    gain: bool = False,
) -> LearningCurve:
    """Measure how the law's error of the objective falls with runs.

    With `gain` the error is that of the difference between two runs, as a gain over the prior is; what is wrong with
    both alike then does not count, and the noise of both does. Raises SwarmError for too few runs.
    """
    size_K, group_R = _sizes(law, *X_RD.shape), _groups(X_RD)
    y_R, times = Y_RM @ weights_M, 2 if gain else 1
    square_KBR, inside_KB = np.full((len(size_K), SUBSETS, len(y_R)), np.nan), np.empty((len(size_K), SUBSETS))
    scaled = []
    for k, size in enumerate(size_K):
        for b in range(SUBSETS):
            order_R = np.argsort(rng.permutation(group_R.max() + 1)[group_R], kind="stable")
            inside_N, outside_N = order_R[:size], order_R[size:]
            outside_N = outside_N[~np.isin(group_R[outside_N], group_R[inside_N])]
            fitted = copy.deepcopy(law).fit(X_RD[inside_N], Y_RM[inside_N])
            error_R = y_R - fitted.predict(X_RD) @ weights_M
            outside_error_N = error_R[outside_N] - (np.roll(error_R[outside_N], 1) if gain else 0.0)
            square_KBR[k, b, outside_N] = outside_error_N**2
            inside_KB[k, b] = times * np.mean(error_R[inside_N] ** 2)
        error_N = np.sqrt(square_KBR[k][~np.isnan(square_KBR[k])])
        scaled.append(error_N / max(math.sqrt(float(np.mean(error_N**2))), SMALLEST))
    noise, shape = _noise(y_R, group_R), float(np.quantile(np.concatenate(scaled), LEVEL))
    return LearningCurve(size_K, square_KBR, inside_KB, shape, None if noise is None else math.sqrt(times) * noise)


def forecast(curve: LearningCurve, rng: np.random.Generator) -> Forecast:
    """Where the curve goes. Raises SwarmError for errors of zero, which say nothing."""
    outside_K = curve.outside_K
    if not (np.isfinite(outside_K).all() and outside_K.min() > SMALLEST):
        raise SwarmError("plan: the law's errors are zero or not finite, so they say nothing about more runs.")
    covariance_KK = _covariance(curve, rng)
    known = (curve.noise or 0.0) ** 2
    last, inside = float(outside_K[-1]), float(curve.inside_KB[-1].mean())
    middle = (last + min(inside, last)) / 2
    centre = np.log([max(middle - known, 0.1 * middle), max(last - middle, 0.1 * last), math.exp(POWER[0])])
    drawn_3S = np.exp(centre[:, None] + np.array([[FLOOR], [EXCESS], [POWER[1]]]) * rng.standard_normal((3, CURVES)))
    drawn_3S[0] += known
    size_K1 = (curve.size_K / curve.runs)[:, None]
    left_KS = np.log(drawn_3S[0] + drawn_3S[1] * size_K1 ** (-2 * drawn_3S[2])) - np.log(outside_K)[:, None]
    score_S = -(left_KS * np.linalg.solve(covariance_KK, left_KS)).sum(axis=0) / 2
    weight_S = np.exp(score_S - score_S.max())
    floor_S, excess_S, power_S = drawn_3S[:, rng.choice(CURVES, KEPT, p=weight_S / weight_S.sum())]
    return Forecast(curve.runs, curve.shape, floor_S, excess_S, power_S)


def verdict(curve: LearningCurve, found: Forecast, wanted: float) -> str:
    """What the numbers mean for a wanted half-width, in sentences."""
    now, (floor, *_) = found.half_width(found.runs), found.floor()
    middle, low, high = found.needed(wanted)
    if curve.noise is not None and NORMAL * curve.noise >= wanted:
        return (
            f"Not reachable by more proxies: replicates differ so much that the noise of runs alone makes "
            f"+-{NORMAL * curve.noise:.4g}, and +-{wanted:.4g} is wanted. Train longer or larger proxies, or average replicates."
        )
    if now[0] <= wanted:
        return f"The pilot's {found.runs} runs are enough: they reach about +-{now[0]:.4g}."
    if math.isinf(middle):
        least = "" if math.isinf(low) else f" At best {low:,.0f} would do."
        return (
            f"Probably not reachable by more proxies: they approach about +-{floor:.4g}, the noise of runs and what the law "
            f"cannot fit, and +-{wanted:.4g} is wanted.{least} Train longer or larger proxies, replicate some runs to know "
            f"their noise, or try another law."
        )
    most = "it may never be reached" if math.isinf(high) else f"{high:,.0f}"
    return (
        f"About {middle:,.0f} proxies, {middle / found.runs:.3g} times the pilot's tokens, reach +-{wanted:.4g} "
        f"(90 % interval: {low:,.0f} to {most})."
    )


def _sizes(law: Law, runs: int, domains: int) -> NDArray[np.int64]:
    least, most = max(law.min_runs(domains), math.ceil(runs / SPREAD)), math.floor(LARGEST * runs)
    most = min(most, runs - LEAST_OUTSIDE)
    if most < 1.3 * least:
        raise SwarmError(
            f"plan: {runs} good runs are too few for a learning curve: {type(law).__name__} needs {law.min_runs(domains)} "
            f"and subsets must differ in size. Make a pilot of at least {math.ceil(max(1.5 * least, 1.3 * least + 4))}."
        )
    return np.unique(np.geomspace(least, most, SIZES).round().astype(np.int64))


def _groups(X_RD: FloatArray) -> NDArray[np.int64]:
    """A number for each mixture [R], equal for replicates, in order of appearance."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault((x_D.round(9) + 0.0).tobytes(), len(numbers)) for x_D in X_RD])


def _noise(y_R: FloatArray, group_R: NDArray[np.int64]) -> float | None:
    """Standard deviation of replicates around their means, pooled; None without replicates."""
    count_G = np.bincount(group_R)
    free = len(y_R) - len(count_G)
    mean_G = np.bincount(group_R, y_R) / count_G
    return math.sqrt(float(((y_R - mean_G[group_R]) ** 2).sum()) / free) if free else None


def _covariance(curve: LearningCurve, rng: np.random.Generator) -> FloatArray:
    """Of the logarithms of the mean squared errors [K, K]: subsets and runs drawn with replacement."""
    sizes, subsets, runs = curve.square_KBR.shape
    times_TB = rng.multinomial(subsets, np.full(subsets, 1 / subsets), (sizes, RESAMPLES)).astype(float)
    times_TR = rng.multinomial(runs, np.full(runs, 1 / runs), RESAMPLES).astype(float)

    def total(values_KBR: FloatArray) -> FloatArray:
        return np.asarray(np.einsum("ktb,kbt->kt", times_TB, values_KBR @ times_TR.T))

    weight_KT = np.maximum(total((~np.isnan(curve.square_KBR)).astype(float)), SMALLEST)
    log_KT = np.log(np.maximum(total(np.nan_to_num(curve.square_KBR)) / weight_KT, SMALLEST))
    log_KT = np.maximum(log_KT, np.log(curve.outside_K)[:, None] - 5)
    return np.asarray(np.atleast_2d(np.cov(log_KT)) + MISFIT**2 * np.eye(sizes))


def _spread(values_S: FloatArray, never_S: NDArray[np.bool_] | None = None) -> tuple[float, float, float]:
    """Median, 5 % and 95 % quantile by rank, so that values of infinity are allowed."""
    sorted_S = np.sort(values_S if never_S is None else np.where(never_S, np.inf, values_S))
    places = (0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2)
    middle, low, high = (float(sorted_S[min(len(sorted_S) - 1, int(place * len(sorted_S)))]) for place in places)
    return middle, low, high
