"""From a law and a space to a mixture: exactly where the law is convex, by simulation where it is not.

Shapes: D domains in the order of `space.names`, F those whose bounds leave a choice, N candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import JobError, SwarmError
from mixopt.laws.base import Curve
from mixopt.mixture import FloatArray
from mixopt.space import SLACK, MixtureSpace

ACCURACY = 1e-9
BARRIERS = 13
STEPS = 100
CENTRED = 1e-4
BLOCK = 10_000
SMALLEST = 1e-12


def minimise(curve: Curve, space: MixtureSpace, kl: float = 0.0) -> FloatArray:
    """The mixture [D] of the space with the smallest curve(p) + kl * KL(p || prior), for a convex curve.

    An interior point method: Newton's steps on

        (curve(p) + kl * KL(p || prior)) / barrier - sum_j log(p_j - lower_j) - sum_j log(upper_j - p_j),  sum_j p_j = 1

    while the barrier goes to zero. What is left to gain in the end is at most 1e-9 of the gradient's spread at the
    start. Domains whose bounds leave no choice keep them; a prior of zero counts as 1e-12.

    Raises SwarmError for a curve that is not convex or not finite.
    Source: Boyd and Vandenberghe, "Convex Optimization", chapter 11; the objective is Olmix's (arXiv:2602.12237),
    which hands it to a general solver.
    """
    p_D, free_F = _inside(space)
    if not len(free_F):
        return p_D
    p_F, prior_F = p_D[free_F], np.maximum(space.prior_D[free_F], SMALLEST)

    def objective(p_F: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        p_D[free_F] = p_F
        value, gradient_D, hessian_DD = curve(p_D)
        odds_F = np.log(p_F / prior_F)
        gradient_F, hessian_FF = gradient_D[free_F], hessian_DD[np.ix_(free_F, free_F)]
        return value + kl * float(p_F @ odds_F), gradient_F + kl * odds_F, hessian_FF + np.diag(kl / p_F)

    scale = max(float(np.ptp(objective(p_F)[1])), 1e-6)
    point_3F = np.array([p_F, p_F - space.lower_D[free_F], space.upper_D[free_F] - p_F])
    for barrier in scale * np.geomspace(1, ACCURACY / (2 * len(free_F)), BARRIERS):
        point_3F = _centre(objective, point_3F, barrier)
    p_D[free_F] = point_3F[0]
    return p_D


def _centre(objective: Curve, point_3F: FloatArray, barrier: float) -> FloatArray:
    """The optimum under this barrier; a point is p and its distances to the lower and the upper bounds."""

    def slope(point_3F: FloatArray) -> FloatArray:
        return objective(point_3F[0])[1] / barrier - 1 / point_3F[1] + 1 / point_3F[2]

    for _ in range(STEPS):
        hessian_FF = objective(point_3F[0])[2] / barrier + np.diag((point_3F[1:] ** -2).sum(axis=0))
        slope_F, level_F = slope(point_3F), np.linalg.solve(hessian_FF, np.ones(len(hessian_FF)))
        price = slope_F @ level_F / level_F.sum()
        newton_F = np.linalg.solve(hessian_FF, price - slope_F)
        gain = float((price - slope_F) @ newton_F)
        if not gain >= 0:
            break
        move_3F = np.array([newton_F, newton_F, -newton_F])
        length = 0.99 / max(0.99, float((-move_3F[1:] / point_3F[1:]).max()))
        while gain > CENTRED and (slope(point_3F + length * move_3F) - price) @ newton_F > 0.1 * gain:
            length /= 2
        point_3F = point_3F + length * move_3F
        if gain <= CENTRED:
            return point_3F
    raise SwarmError("minimise: no optimum found: the law's curve is not convex or not finite. Check the law's fit.")


def _inside(space: MixtureSpace) -> tuple[FloatArray, NDArray[np.intp]]:
    """A mixture [D] equally far between all its bounds, and the domains F that may move from it."""
    width_D = space.upper_D - space.lower_D
    share = float(np.clip((1 - space.lower_D.sum()) / max(width_D.sum(), SLACK), 0, 1))
    free_F = np.flatnonzero(width_D > SLACK) if SLACK < share < 1 - SLACK else np.array([], dtype=np.intp)
    return space.lower_D + share * width_D, free_F


def simulate(
    score: Callable[[FloatArray], FloatArray],
    space: MixtureSpace,
    rng: np.random.Generator,
    candidates: int = 100_000,
    keep: int = 128,
) -> FloatArray:
    """The mean mixture [D] of the `keep` candidates with the lowest score, for any law.

    Candidates are draws from Dirichlet(prior), RegMix's concentration of 1; one outside the space is moved to the
    point of the space that keeps its proportions wherever a bound allows it, so that no draw is lost and optima on a
    bound are found. The mean of allowed mixtures is allowed. `score` maps [N, D] to [N]; equal scores keep the order
    of drawing.

    Raises JobError if fewer are drawn than kept, SwarmError if a score is not finite.
    Source: RegMix (arXiv:2407.01492), reference notebook `regression.ipynb`; the bounds are ours.
    """
    if not 1 <= keep <= candidates:
        raise JobError(f"method.keep: must be between 1 and method.candidates, {candidates} (got {keep}).")
    best_ND, best_N = np.empty((0, len(space.names))), np.empty(0)
    for start in range(0, candidates, BLOCK):
        w_ND = rng.dirichlet(np.maximum(space.prior_D, SMALLEST), min(BLOCK, candidates - start))
        outside_N = ((w_ND < space.lower_D) | (w_ND > space.upper_D)).any(axis=1)
        w_ND[outside_N] = space.project(w_ND[outside_N])
        best_ND, best_N = np.vstack([best_ND, w_ND]), np.append(best_N, score(w_ND))
        if not np.isfinite(best_N).all():
            raise SwarmError("simulate: the law predicts values that are not finite; check its fit.")
        order_N = np.argsort(best_N, kind="stable")[:keep]
        best_ND, best_N = best_ND[order_N], best_N[order_N]
    return best_ND.mean(axis=0)
