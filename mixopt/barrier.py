"""Convex programs solved by a log barrier: boxes, rows, equalities and curves, and what each of them costs.

    min f(x)   lower <= x <= upper,   rows x <= limits,   equal x = equal start,   g_i(x) <= 0

Newton's steps on f(x) / mu - the sum of the logarithms of all distances, while mu goes to zero. Rows and curves enter
the linear system beside the equalities and are not squared into the Hessian, which keeps tight ones exact. The price of
a constraint is mu / its distance: what f would fall by if the constraint were loosened by one unit.

Shapes: F unknowns, L rows, E equalities, C curves.

Source: Boyd and Vandenberghe, "Convex Optimization", chapter 11 (barrier, phase one); that the line search looks at
slopes, which do not cancel near the optimum as values do, and how systems are scaled are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs

from mixopt.errors import SwarmError
from mixopt.mixture import FloatArray

Convex = Callable[[FloatArray], tuple[float, FloatArray, FloatArray]]
"""x_F -> (value, gradient_F, hessian_FF)."""

ACCURACY = 1e-9
FACTOR = 12.0
STEPS = 100
HALVINGS = 50
SOLVES = 3
NEARER = 0.2
CENTRED, NEARLY_CENTRED = 1e-4, 1.0
FEASIBLE = 1e-8
INSIDE = 1e-2
CONVEX = 1e-9
ROUGH = 1e-6


@dataclass(frozen=True)
class Program:
    """What x must satisfy. Bounds may be infinite; the equalities are independent and hold where a solver starts."""

    lower_F: FloatArray
    upper_F: FloatArray
    rows_LF: FloatArray
    limits_L: FloatArray
    equal_EF: FloatArray
    curves: tuple[Convex, ...] = ()


@dataclass(frozen=True)
class Solution:
    """Where the objective is smallest, and the price of each constraint there, in units of the objective."""

    x_F: FloatArray
    value: float
    lower_F: FloatArray
    upper_F: FloatArray
    rows_L: FloatArray
    curves_C: FloatArray


@dataclass(frozen=True)
class _Point:
    """A point inside: its distances to the bounds and rows, and objective and curves with their derivatives."""

    x_F: FloatArray
    low_F: FloatArray
    high_F: FloatArray
    rows_L: FloatArray
    value: float
    slope_F: FloatArray
    bend_FF: FloatArray
    curves_C: FloatArray
    slopes_CF: FloatArray
    bends: tuple[FloatArray, ...]

    @property
    def inside(self) -> bool:
        """Whether every curve is below its limit, and everything is finite."""
        return bool((self.curves_C < 0).all()) and bool(np.isfinite(self.slope_F).all())

    def keeps_off(self, before: _Point) -> bool:
        """Whether a point inside is not much nearer to any curve's limit than the one before."""
        return self.inside and bool((self.curves_C < NEARER * before.curves_C).all())

    def slope(self, program: Program, mu: float) -> FloatArray:
        """Gradient [F] of the objective over mu and the barrier."""
        barrier_F = 1 / self.high_F - 1 / self.low_F + program.rows_LF.T @ (1 / self.rows_L)
        return self.slope_F / mu + barrier_F - self.slopes_CF.T @ (1 / self.curves_C)


Enough = Callable[[FloatArray, float], bool]
"""Whether to end at a point x_F that leaves at most so much to gain."""


def minimise(
    objective: Convex, program: Program, start_F: FloatArray, enough: Enough | None = None, accuracy: float = ACCURACY
) -> Solution:
    """The optimum from a start strictly inside; left to gain is that part of the gradient's spread at the start.

    Ends early at the first point that is `enough`, or where rounding leaves no better one and ROUGH is reached. Raises
    SwarmError for curves that are not convex or not finite.
    """
    rows_L = program.limits_L - program.rows_LF @ start_F
    point = _at(objective, program, start_F, (start_F - program.lower_F, program.upper_F - start_F, rows_L))
    if not point.inside or not _convex(point.bend_FF):
        raise _failed()
    bounds = np.isfinite(program.lower_F).sum() + np.isfinite(program.upper_F).sum()
    constraints = int(bounds) + len(program.limits_L) + len(program.curves)
    first = mu = max(float(np.ptp(point.slope_F)), 1e-6)
    last = mu * accuracy / max(constraints, 1)
    while True:
        centred = CENTRED if mu == last else NEARLY_CENTRED
        point, lost = _centre(objective, program, point, mu, centred)
        if lost and mu * constraints > ROUGH * first:
            raise _failed()
        stopped = lost or (enough is not None and enough(point.x_F, 2 * mu * constraints))
        if stopped or mu == last:
            return Solution(
                point.x_F, point.value, mu / point.low_F, mu / point.high_F, mu / point.rows_L, -mu / point.curves_C
            )
        mu = max(mu / FACTOR, last)


def phase_one(program: Program, elastic: tuple[Convex, ...], sizes_C: FloatArray, start_F: FloatArray) -> Solution:
    """Minimise the largest of curve / size over the `elastic` curves; the value says whether all can be below zero.

    Ends as soon as all are below -INSIDE. The prices of the elastic curves stand last in `curves_C`; times their sizes
    they sum to 1.
    """
    if not elastic:
        return minimise(_nothing, program, start_F)
    worst = max(curve(start_F)[0] / size for curve, size in zip(elastic, sizes_C, strict=True))
    lifted = replace(
        program,
        lower_F=np.append(program.lower_F, min(-1.0, worst - 1)),
        upper_F=np.append(program.upper_F, abs(worst) + 2),
        rows_LF=np.column_stack([program.rows_LF, np.zeros(len(program.rows_LF))]),
        equal_EF=np.column_stack([program.equal_EF, np.zeros(len(program.equal_EF))]),
        curves=(
            *(_lifted(curve, 0.0) for curve in program.curves),
            *(_lifted(curve, float(size)) for curve, size in zip(elastic, sizes_C, strict=True)),
        ),
    )
    unit_F = np.append(np.zeros(len(start_F)), 1.0)
    flat_FF = np.zeros((len(unit_F), len(unit_F)))
    found = minimise(
        lambda x_F: (float(x_F[-1]), unit_F, flat_FF),
        lifted,
        np.append(start_F, worst + 0.5 + 0.1 * abs(worst)),
        enough=lambda x_F, left: bool(x_F[-1] < -max(FEASIBLE, min(INSIDE, left))),
        accuracy=ROUGH / 10,
    )
    worst = max(curve(found.x_F[:-1])[0] / size for curve, size in zip(elastic, sizes_C, strict=True))
    return replace(found, x_F=found.x_F[:-1], value=worst, lower_F=found.lower_F[:-1], upper_F=found.upper_F[:-1])


def _convex(bend_FF: FloatArray) -> bool:
    if not np.isfinite(bend_FF).all():
        return False
    curvature_F = np.linalg.eigvalsh(bend_FF)
    return bool(curvature_F[0] >= -CONVEX * max(np.abs(curvature_F).max(), CONVEX))


def _nothing(x_F: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    return 0.0, np.zeros(len(x_F)), np.zeros((len(x_F), len(x_F)))


def _lifted(curve: Convex, size: float) -> Convex:
    """curve(x) - size * t as a curve of (x, t)."""

    def value(x_F: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        value, slope_F, bend_FF = curve(x_F[:-1])
        wide_FF = np.zeros((len(x_F), len(x_F)))
        wide_FF[:-1, :-1] = bend_FF
        return value - size * float(x_F[-1]), np.append(slope_F, -size), wide_FF

    return value


def _at(
    objective: Convex, program: Program, x_F: FloatArray, distances: tuple[FloatArray, FloatArray, FloatArray]
) -> _Point:
    value, slope_F, bend_FF = objective(x_F)
    found = [curve(x_F) for curve in program.curves]
    curves_C = np.array([one[0] for one in found])
    slopes_CF = np.array([one[1] for one in found]).reshape(-1, len(x_F))
    return _Point(x_F, *distances, value, slope_F, bend_FF, curves_C, slopes_CF, tuple(one[2] for one in found))


def _centre(objective: Convex, program: Program, point: _Point, mu: float, centred: float) -> tuple[_Point, bool]:
    """The optimum under this mu, or the last point from which Newton's steps still went down, and whether it is lost."""
    for _ in range(STEPS):
        newton_F, tied_F = _newton(program, point, mu, point.slope(program, mu))
        gain = -float((point.slope(program, mu) + tied_F) @ newton_F)
        moved = _step(objective, program, point, mu, (newton_F, tied_F, gain)) if gain >= -centred else None
        if moved is None:
            return point, abs(gain) > NEARLY_CENTRED
        point = moved
        if gain <= centred:
            return point, False
    return point, True


def _newton(program: Program, point: _Point, mu: float, slope_F: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Newton's step [F], and what the equalities add to the slope [F]: it cancels most of it near the optimum.

    The system (hessian, rows; rows', -distances^2) is scaled to a unit diagonal, and solved again for what
    rounding leaves.
    """
    hessian_FF = point.bend_FF / mu
    for bend_FF, curve in zip(point.bends, point.curves_C, strict=True):
        hessian_FF = hessian_FF - bend_FF / curve
    unknowns, tied = len(slope_F), len(program.equal_EF)
    hessian_FF[range(unknowns), range(unknowns)] += point.low_F**-2 + point.high_F**-2
    rows_KF = np.vstack([program.equal_EF, program.rows_LF, point.slopes_CF])
    square_K = np.concatenate([np.zeros(tied), point.rows_L**2, point.curves_C**2])
    scale_F = 1 / np.sqrt(np.maximum(np.diag(hessian_FF), 1e-12))
    rows_KF = rows_KF * scale_F
    scale_K = 1 / np.sqrt(np.maximum((rows_KF**2).sum(axis=1) + square_K, 1e-300))
    rows_KF *= scale_K[:, None]
    system = np.zeros((unknowns + len(square_K), unknowns + len(square_K)))
    system[:unknowns, :unknowns] = hessian_FF * scale_F * scale_F[:, None]
    system[unknowns:, :unknowns], system[:unknowns, unknowns:] = rows_KF, rows_KF.T
    system[range(unknowns, len(system)), range(unknowns, len(system))] = -square_K * scale_K**2
    factors, pivots, singular = dgetrf(system)
    if singular:
        raise _failed()
    right, found = np.append(-slope_F * scale_F, np.zeros(len(square_K))), np.zeros(len(system))
    for _ in range(SOLVES):
        found = found + dgetrs(factors, pivots, right - system @ found)[0]
    tied_F = (found[unknowns:] * scale_K)[:tied] @ program.equal_EF
    return found[:unknowns] * scale_F, tied_F


def _step(
    objective: Convex, program: Program, point: _Point, mu: float, newton: tuple[FloatArray, FloatArray, float]
) -> _Point | None:
    """The point along Newton's step at which the slope has not turned much; None where none is inside."""
    newton_F, tied_F, gain = newton
    move_L = -program.rows_LF @ newton_F
    nearest = max(
        float(np.max(-newton_F / point.low_F, initial=0)),
        float(np.max(newton_F / point.high_F, initial=0)),
        float(np.max(-move_L / point.rows_L, initial=0)),
    )
    length = 0.99 / max(0.99, nearest)
    for _ in range(HALVINGS):
        move_F = length * newton_F
        distances = point.low_F + move_F, point.high_F - move_F, point.rows_L + length * move_L
        trial = _at(objective, program, point.x_F + move_F, distances)
        if trial.keeps_off(point) and (gain <= CENTRED or (trial.slope(program, mu) + tied_F) @ newton_F <= 0.1 * gain):
            return trial
        length /= 2
    return None


def _failed() -> SwarmError:
    return SwarmError("minimise: no optimum found: the law's curve is not convex or not finite. Check the law's fit.")
