"""The mean of the best of many drawn mixtures: for any law.

Shapes: D domains in the order of `space.names`, N candidates, M metrics.

Source: RegMix (arXiv:2407.01492), reference notebook `regression.ipynb`; constraints and floors are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mixopt.errors import InfeasibleSpace, JobError, SwarmError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray, divergences
from mixopt.proposers.proposal import Guard, Proposal
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

CANDIDATES, KEEP = 100_000, 128
BLOCK = 10_000
SMALLEST = 1e-12
HALVINGS = 30
ANCHORED = 0.1

Score = Callable[[FloatArray], FloatArray]
"""[N, D] -> [N], lower is better; infinite for a candidate that is out of the question."""


def simulate(
    score: Score, space: MixtureSpace, rng: np.random.Generator, candidates: int = CANDIDATES, keep: int = KEEP
) -> FloatArray:
    """The mean mixture [D] of the `keep` candidates with the lowest score, for any law.

    Candidates are draws from Dirichlet(prior), RegMix's concentration of 1; one outside the bounds is moved to the
    point that keeps its proportions wherever a bound allows it, one outside a group or trust region straight towards
    the prior until it is inside (groups are scaled into their limits first), so that no draw is lost and optima on a
    bound are found. The mean of allowed mixtures is allowed. Equal scores keep the order of drawing.

    Raises JobError if fewer are drawn than kept, SwarmError if a score is not finite.
    """

    def finite(X_ND: FloatArray) -> FloatArray:
        score_N = score(X_ND)
        if not np.isfinite(score_N).all():
            raise SwarmError("simulate: the law predicts values that are not finite; check its fit.")
        return score_N

    return _best(finite, space, rng, candidates, keep).mean(axis=0)


def simulation(
    law: Law,
    objective: Objective,
    space: MixtureSpace,
    rng: np.random.Generator,
    kl: float = 0.0,
    candidates: int = CANDIDATES,
    keep: int = KEEP,
) -> Proposal:
    """The mean of the best candidates that keep all floors, or the best of them where their mean breaks one.

    Where floors leave few candidates, the same share of these is kept as `keep` is of all.
    Raises InfeasibleSpace if no candidate keeps the floors, else as `simulate` does.
    """
    guard, weights_M = Guard.of(law, objective, space), objective.weights_M
    nearest: tuple[float, FloatArray] = (np.inf, np.zeros(len(weights_M)))
    in_question = 0

    def score(X_ND: FloatArray) -> FloatArray:
        nonlocal nearest, in_question
        P_NM = law.predict(X_ND)
        if not np.isfinite(P_NM).all():
            raise SwarmError("simulate: the law predicts values that are not finite; check its fit.")
        score_N = P_NM @ weights_M + (kl * divergences(X_ND, space.prior_D) if kl else 0.0)
        if not guard.metrics:
            return score_N
        worst_N = guard.excess_NC(P_NM).max(axis=1)
        least = int(worst_N.argmin())
        if worst_N[least] < nearest[0]:
            nearest = float(worst_N[least]), P_NM[least]
        kept_N = guard.kept(P_NM)
        in_question += int(kept_N.sum())
        return np.where(kept_N, score_N, np.inf)

    first_ND = space.nearest(space.prior_D).array(space.names)[None] if guard.metrics else None
    best_ND = _best(score, space, rng, candidates, keep, first_ND)
    if not len(best_ND):
        broken = np.flatnonzero(guard.excess_NC(nearest[1][None])[0] > 0).tolist()
        raise InfeasibleSpace(
            f"none of {candidates:,} allowed mixtures keeps the floors; the nearest breaks "
            f"{guard.misses(nearest[1], broken)}. Allow a larger fraction in objective.floors."
        )
    if guard.metrics:
        best_ND = best_ND[: max(1, round(keep * in_question / candidates))]
    p_D, notes = best_ND.mean(axis=0), []
    if not guard.kept(law.predict(p_D[None]))[0]:
        p_D = best_ND[0]
        notes.append(f"The mean of the {len(best_ND)} best candidates breaks a floor; this is the best one itself.")
    P_M = law.predict(p_D[None])[0]
    return Proposal(p_D, float(weights_M @ P_M), "simulation", guard.said(P_M, None), notes=tuple(notes))


def _best(
    score: Score,
    space: MixtureSpace,
    rng: np.random.Generator,
    candidates: int,
    keep: int,
    first_ND: FloatArray | None = None,
) -> FloatArray:
    """The `keep` candidates [N, D] with the lowest finite scores, the best first; `first_ND` are candidates too."""
    if not 1 <= keep <= candidates:
        raise JobError(f"method.keep: must be between 1 and method.candidates, {candidates} (got {keep}).")
    best_ND = np.empty((0, len(space.names))) if first_ND is None else first_ND
    best_N = np.empty(0) if first_ND is None else score(first_ND)
    move = _mover(space)
    for start in range(0, candidates, BLOCK):
        w_ND = move(rng.dirichlet(np.maximum(space.prior_D, SMALLEST), min(BLOCK, candidates - start)))
        best_ND, best_N = np.vstack([best_ND, w_ND]), np.append(best_N, score(w_ND))
        order_N = np.argsort(best_N, kind="stable")[:keep]
        order_N = order_N[np.isfinite(best_N[order_N])]
        best_ND, best_N = best_ND[order_N], best_N[order_N]
    return best_ND


def _mover(space: MixtureSpace) -> Callable[[FloatArray], FloatArray]:
    """Drawn mixtures [N, D] to allowed ones."""
    away = bool(space.groups) or space.trust.kl is not None or space.trust.l1 is not None
    anchor_D = np.zeros(0)
    if away:
        inner_D = space.region.mixture(space.region.start_F)
        anchor_D = (1 - ANCHORED) * space.nearest(space.prior_D).array(space.names) + ANCHORED * inner_D

    def move(w_ND: FloatArray) -> FloatArray:
        w_ND = space.expand(space.collapse(w_ND))
        outside_N = ((w_ND < space.lower_D) | (w_ND > space.upper_D)).any(axis=1)
        w_ND[outside_N] = space.project(w_ND[outside_N])
        w_ND = _rescaled(w_ND, space) if space.groups else w_ND
        return _pulled(w_ND, anchor_D, space) if away else w_ND

    return move


def _rescaled(w_ND: FloatArray, space: MixtureSpace) -> FloatArray:
    """Groups one after another scaled into their limits and the other domains to the rest, then moved within bounds."""
    for group in space.groups.values():
        member_D = np.isin(space.names, group.domains)
        sum_N1 = w_ND[:, member_D].sum(axis=1, keepdims=True)
        wanted_N1 = np.clip(sum_N1, group.lower, group.upper)
        inner_N1, outer_N1 = (
            wanted_N1 / np.maximum(sum_N1, SMALLEST),
            (1 - wanted_N1) / np.maximum(1 - sum_N1, SMALLEST),
        )
        scaled_ND = w_ND * np.where(member_D, inner_N1, outer_N1)
        w_ND = np.where(
            wanted_N1 == sum_N1, w_ND, scaled_ND / np.maximum(scaled_ND.sum(axis=1, keepdims=True), SMALLEST)
        )
    outside_N = ((w_ND < space.lower_D) | (w_ND > space.upper_D)).any(axis=1)
    w_ND[outside_N] = space.project(w_ND[outside_N])
    return w_ND


def _pulled(w_ND: FloatArray, anchor_D: FloatArray, space: MixtureSpace) -> FloatArray:
    """Each row moved straight towards the anchor, which is allowed, until groups and trust region hold (bisection)."""
    w_ND = space.expand(space.collapse(w_ND))
    far_N = ~_holds(w_ND, space)
    low_N1, high_N1 = np.zeros((far_N.sum(), 1)), np.ones((far_N.sum(), 1))
    for _ in range(HALVINGS):
        middle_N1 = (low_N1 + high_N1) / 2
        holds_N1 = _holds(anchor_D + middle_N1 * (w_ND[far_N] - anchor_D), space)[:, None]
        low_N1, high_N1 = np.where(holds_N1, middle_N1, low_N1), np.where(holds_N1, high_N1, middle_N1)
    moved_ND = w_ND.copy()
    moved_ND[far_N] = anchor_D + low_N1 * (w_ND[far_N] - anchor_D)
    return moved_ND


def _holds(w_ND: FloatArray, space: MixtureSpace) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether groups and trust region hold [N]."""
    holds_N = np.ones(len(w_ND), dtype=bool)
    for group in space.groups.values():
        sum_N = w_ND[:, np.isin(space.names, group.domains)].sum(axis=1)
        slack = 1e-9 if group.upper - group.lower <= 1e-9 else 0.0
        holds_N &= (sum_N >= group.lower - slack) & (sum_N <= group.upper + slack)
    if space.trust.kl is not None:
        holds_N &= divergences(w_ND, space.prior_D) <= space.trust.kl
        holds_N &= (w_ND[:, space.prior_D == 0] == 0).all(axis=1)
    if space.trust.l1 is not None:
        holds_N &= np.abs(w_ND - space.prior_D).sum(axis=1) <= space.trust.l1
    return holds_N
