"""Mirror descent from several starts, for laws with derivatives of any shape.

First every start descends by exponentiated gradients, all in one batch, floors as penalties. Then the best ones go on by
exact steps: p+ is the optimum, under all constraints, of models that lie above the functions once L is large enough,

    f(p) + grad f(p) . d + d' H d / 2 + L B(p+, p),    d = p+ - p,  B = KL of proportions + 1e-4, so that none is stuck at 0

of the objective and of each floor; H is the Hessian by differences of gradients, without its negative part. Then p+ keeps
the floors and is no worse than p; L grows until that is so. What the floors of the last step cost is their price. A start
that breaks floors first descends in the largest relative miss.

Shapes: D domains, K starts, N candidates, M metrics, C metrics with a floor.

Source: mirror descent with relative smoothness: Lu, Freund, Nesterov (arXiv:1610.05708); models of constraints: the moving
balls of Auslender, Shefi, Teboulle 2010; starts, penalties, curvature and their combination are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mixopt.constraints import Prices, divergence, total
from mixopt.errors import InfeasibleSpace, SwarmError
from mixopt.laws.base import Curve, SmoothLaw
from mixopt.mixture import FloatArray, divergences
from mixopt.proposers.exact import inside, within
from mixopt.proposers.proposal import TOLERANCE, Guard, Proposal, caps
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

DRAWN, FINISHED = 24, 3
EXPLORING, STEPS, DOUBLINGS = 60, 50, 24
PENALTY = 100.0
SHIFT = 1e-4
STALLED = 1e-6
DIFFERENCE = 1e-5
FINE, ROUGH = 1e-9, 1e-7  # a descent ends when a step gains less than this part of the objective


@dataclass(frozen=True)
class Question:
    """What is minimised where: sum_m w_m f_m(p) + kl * KL(p || prior) over the space, under the floors."""

    law: SmoothLaw
    objective: Objective
    space: MixtureSpace
    guard: Guard
    kl: float
    accuracy: float = FINE

    def value_N(self, X_ND: FloatArray, P_NM: FloatArray) -> FloatArray:
        """The objective [N] and the pull."""
        pull_N = self.kl * divergences(X_ND, self.space.prior_D) if self.kl else np.zeros(len(X_ND))
        return P_NM @ self.objective.weights_M + pull_N

    def metrics(self, X_ND: FloatArray) -> FloatArray:
        """Predictions [N, M]. Raises SwarmError if one is not finite."""
        P_NM = self.law.predict(X_ND)
        if not np.isfinite(P_NM).all():
            raise SwarmError("descent: the law predicts values that are not finite; check its fit.")
        return P_NM

    def worst_N(self, P_NM: FloatArray) -> FloatArray:
        """The largest relative miss [N] of a floor; -1 without floors."""
        return self.guard.excess_NC(P_NM).max(axis=1, initial=-1.0)


def descent(
    law: SmoothLaw,
    objective: Objective,
    space: MixtureSpace,
    rng: np.random.Generator,
    kl: float = 0.0,
    starts_ND: FloatArray | None = None,
) -> Proposal:
    """The best point that descents from the prior, from draws and from `starts_ND` end in.

    Raises InfeasibleSpace, naming floors, if none of them reaches a mixture that keeps all floors.
    """
    question = Question(law, objective, space, Guard.of(law, objective, space), kl)
    prior_D = space.nearest(space.prior_D).array(space.names)
    drawn_ND = rng.dirichlet(np.maximum(space.prior_D, 1e-3 / len(prior_D)) * 4, DRAWN)
    given_ND = np.empty((0, len(prior_D))) if starts_ND is None else starts_ND
    explored_KD = _explore(question, space.project(np.vstack([prior_D[None], given_ND, drawn_ND])))
    ends = [_finish(question, p_D) for p_D in [*_distinct(explored_KD), prior_D]]
    ends.sort(key=lambda end: (end.worst if end.worst > TOLERANCE else 0.0, end.value))
    return _answer(question, ends[0])


def descent_near(
    p_D: FloatArray, law: SmoothLaw, objective: Objective, space: MixtureSpace, kl: float = 0.0
) -> Proposal:
    """The point that one descent from `p_D` ends in, roughly; from the prior if that keeps no floors."""
    question = Question(law, objective, space, Guard.of(law, objective, space), kl, ROUGH)
    end = _finish(question, p_D)
    return _answer(question, end if end.worst <= TOLERANCE else _finish(question, space.prior_D))


def _answer(question: Question, end: _End) -> Proposal:
    """Raises InfeasibleSpace, naming floors, where they are not kept."""
    guard, P_M = question.guard, question.metrics(end.p_D[None])[0]
    if not guard.kept(P_M[None])[0]:
        missed = np.flatnonzero(guard.excess_NC(P_M[None])[0] > 0).tolist()
        raise InfeasibleSpace(
            f"no allowed mixture was found that keeps the floors; the nearest misses {guard.misses(P_M, missed)}. "
            "Allow a larger fraction in objective.floors."
        )
    value, floors = float(question.objective.weights_M @ P_M), guard.said(P_M, list(end.prices.curves_C))
    return Proposal(end.p_D, value, "descent", floors, caps(question.space, end.p_D, end.prices))


@dataclass(frozen=True)
class _End:
    """Where a descent ended: objective and pull, largest relative miss, prices of the last step."""

    p_D: FloatArray
    value: float
    worst: float
    prices: Prices


def _distinct(explored_KD: FloatArray) -> list[FloatArray]:
    """The first FINISHED that differ."""
    kept: list[FloatArray] = []
    for p_D in explored_KD:
        if len(kept) < FINISHED and all(np.abs(p_D - other_D).sum() > 0.02 for other_D in kept):
            kept.append(p_D)
    return kept


def _explore(question: Question, p_KD: FloatArray) -> FloatArray:
    """The starts after a batch of exponentiated gradient steps within bounds, the best first."""
    merit_K, slope_KD = _merit(question, p_KD)
    step_K1 = 1 / np.maximum(np.ptp(slope_KD, axis=1, keepdims=True), 1e-12)
    for _ in range(EXPLORING):
        fall_KD = step_K1 * (slope_KD.min(axis=1, keepdims=True) - slope_KD)
        trial_KD = question.space.project((p_KD + SHIFT) * np.exp(fall_KD))
        trial_K, trial_slope_KD = _merit(question, trial_KD)
        better_K = trial_K < merit_K
        merit_K = np.where(better_K, trial_K, merit_K)
        p_KD, slope_KD = (
            np.where(better_K[:, None], new, old) for new, old in ((trial_KD, p_KD), (trial_slope_KD, slope_KD))
        )
        step_K1 = np.where(better_K[:, None], 1.5 * step_K1, 0.4 * step_K1)
    return p_KD[np.argsort(merit_K, kind="stable")]


def _merit(question: Question, p_KD: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Objective, pull and PENALTY times the squared relative misses [K], and the gradient [K, D]."""
    guard, places = question.guard, list(question.guard.places)
    P_KM, slopes_KMD = question.metrics(p_KD), question.law.gradient(p_KD)
    weight_KM = np.tile(question.objective.weights_M, (len(p_KD), 1))
    miss_KC = np.maximum(guard.excess_NC(P_KM), 0)
    weight_KM[:, places] += 2 * PENALTY * miss_KC / guard.sizes_C
    slope_KD = np.einsum("km,kmd->kd", weight_KM, slopes_KMD)
    if question.kl:
        slope_KD += question.kl * np.log(
            np.maximum(p_KD, 1e-12) / np.where(question.space.prior_D > 0, question.space.prior_D, 1e-12)
        )
    return question.value_N(p_KD, P_KM) + PENALTY * (miss_KC**2).sum(axis=1), slope_KD


def _finish(question: Question, start_D: FloatArray) -> _End:
    """The end of exact steps from this start, first to the floors and then along them."""
    space, guard = question.space, question.guard
    p_D = space.nearest(start_D).array(space.names)
    limits = np.full(1 + len(guard.metrics), 1e-2)
    end = _judged(question, p_D, None)
    for _ in range(STEPS):
        about = _About.of(question, end.p_D)
        for _ in range(DOUBLINGS):
            trial = _stepped(question, about, limits)
            too_low = about.too_low(question, trial.p_D, limits)
            if not too_low.any() or np.abs(trial.p_D - end.p_D).sum() < STALLED:
                break
            limits = np.where(too_low, 8 * limits, limits)
        kept = guard.kept(question.metrics(end.p_D[None]))[0]
        better = trial.value < end.value if kept else trial.worst < end.worst
        if not better or (kept and not guard.kept(question.metrics(trial.p_D[None]))[0]):
            return replace(end, prices=trial.prices) if kept else end
        moved = float(np.abs(trial.p_D - end.p_D).sum())
        gained, end = end.value - trial.value, trial
        limits = limits / 8
        if kept and (moved < STALLED or abs(gained) < question.accuracy * max(abs(end.value), 1e-3)):
            break
    return end


def _judged(question: Question, p_D: FloatArray, prices: Prices | None) -> _End:
    P_NM = question.metrics(p_D[None])
    none = Prices(np.zeros(len(p_D)), np.zeros(len(p_D)), {}, np.zeros(len(question.guard.metrics)))
    return _End(p_D, float(question.value_N(p_D[None], P_NM)[0]), float(question.worst_N(P_NM)[0]), prices or none)


@dataclass(frozen=True)
class _About:
    """The objective and then each floor's metric around a mixture: values [F], slopes [F, D], convex bends [F, D, D]."""

    p_D: FloatArray
    value_F: FloatArray
    slope_FD: FloatArray
    bend_FDD: FloatArray

    @classmethod
    def of(cls, question: Question, p_D: FloatArray) -> _About:
        """From gradients at the mixture and at one a little off it in each proportion."""
        rows_FM = _rows(question)
        near_ND = np.vstack([p_D[None], p_D + DIFFERENCE * np.eye(len(p_D))])
        slope_NFD = np.einsum("fm,nmd->nfd", rows_FM, question.law.gradient(near_ND))
        bend_FDD = (slope_NFD[1:] - slope_NFD[0]).transpose(1, 0, 2) / DIFFERENCE
        value_FD, vector_FDD = np.linalg.eigh((bend_FDD + bend_FDD.transpose(0, 2, 1)) / 2)
        convex_FDD = (vector_FDD * np.maximum(value_FD, 0)[:, None]) @ vector_FDD.transpose(0, 2, 1)
        return cls(p_D, rows_FM @ question.metrics(p_D[None])[0], slope_NFD[0], convex_FDD)

    def model(self, i: int, limit: float) -> Curve:
        """The i-th, from above: value + slope . d + d' bend d / 2 + limit * B(p, here)."""
        shifted_D, slope_D, bend_DD = self.p_D + SHIFT, self.slope_FD[i], self.bend_FDD[i]

        def curve(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            move_D, odds_D = p_D - self.p_D, np.log((p_D + SHIFT) / shifted_D)
            bent_D = bend_DD @ move_D
            divergence = float((p_D + SHIFT) @ odds_D - move_D.sum())
            value = self.value_F[i] + float((slope_D + bent_D / 2) @ move_D) + limit * divergence
            return float(value), slope_D + bent_D + limit * odds_D, bend_DD + np.diag(limit / (p_D + SHIFT))

        return curve

    def too_low(self, question: Question, to_D: FloatArray, limits: FloatArray) -> np.ndarray:
        """Which models are below what they stand for at another mixture."""
        after_F = _rows(question) @ question.metrics(to_D[None])[0]
        said_F = np.array([self.model(i, float(limit))(to_D)[0] for i, limit in enumerate(limits)])
        return after_F > said_F + 1e-9 * np.abs(self.value_F)


def _rows(question: Question) -> FloatArray:
    """The weights [F, M] that make the objective and each floor's metric of the metrics."""
    metrics = np.eye(len(question.objective.metrics))
    return np.vstack([question.objective.weights_M, metrics[list(question.guard.places)]])


def _stepped(question: Question, about: _About, limits: FloatArray) -> _End:
    """The optimum of the models, or the point where their largest relative miss is smallest if they keep no floor."""
    guard, region = question.guard, question.space.region
    limited = within([about.model(i, float(limits[i])) for i in range(1, len(limits))], guard)
    start_F = inside(region, limited, guard.sizes_C)
    if start_F is None:
        return _judged(question, region.feasible(limited, guard.sizes_C)[1], None)
    curve = about.model(0, float(limits[0]))
    if question.kl:
        curve = total(curve, divergence(question.space.prior_D, question.kl))
    p_D, prices = region.minimise(curve, limited, start_F)
    return _judged(question, p_D, prices)
