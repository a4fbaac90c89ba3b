"""How sure the answer is: what follows from the laws that the runs leave plausible.

    f_b, b = 1..B      plausible laws: values of the objective, lower is better
    p*, p_b            the answer; the answer that f_b would have given
    gain               f_b(prior) - f_b(p*)
    regret             max(0, f_b(p*) - f_b(p_b)): what is lost if f_b is the truth and p* is taken
    margin             90 % quantile of the regret
    region             { p : mean_b f_b(p) <= mean_b f_b(p*) + margin }: what these runs cannot tell from the answer
    effect of j        f_b(p*) - f_b(p* with p_j five points up or down, the others in proportion): Cox's direction

Gains and effects are positive where the loss falls. Intervals hold 90 % of the draws; their ends are order statistics
at ranks 0.05 (B + 1) and 0.95 (B + 1), so that a truth which is one more draw lies inside with probability 0.9.

Shapes: B draws, D domains in the order of `space.names`, M metrics, N mixtures, E = 2 D effects.

Source: Cox 1971, "A note on polynomial response functions for mixtures" (the direction); ranks: as in conformal
prediction. The region is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from mixopt.errors import InfeasibleSpace, SwarmError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray
from mixopt.plausible import LEAST
from mixopt.proposers.proposal import Guard
from mixopt.quality import LEVEL
from mixopt.region import AT_BOUND, Region, search
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

STEP = 0.05

Optimum = Callable[[Any], FloatArray]
"""The answer [D] that the method would give from another fitted law of the same kind."""


@dataclass(frozen=True)
class Answer:
    """The mixture [D] that was found in this space with this fitted law, and the plausible ones with theirs [B, D].

    `unanswered` counts the plausible laws that have none: no mixture keeps their floors, or they are not finite.
    """

    space: MixtureSpace
    objective: Objective
    law: Law
    p_D: FloatArray
    laws: Sequence[Law]
    optima_BD: FloatArray
    unanswered: int = 0

    @classmethod
    def of(
        cls,
        space: MixtureSpace,
        objective: Objective,
        law: Law,
        p_D: FloatArray,
        laws: Sequence[Law],
        optimum: Optimum,
    ) -> Answer:
        """Find the answers that the plausible laws would have given. Raises SwarmError if too few have one."""
        answered, optima, refused = [], [], ""
        for other in laws:
            try:
                optima.append(optimum(other))
                answered.append(other)
            except (SwarmError, InfeasibleSpace) as e:
                refused = str(e)
        if len(answered) < min(LEAST, len(laws)):
            raise SwarmError(
                f"uncertainty: only {len(answered)} of {len(laws)} plausible laws have an answer (needs {LEAST}). "
                f"Loosen floors or bounds, or ask for more runs. The last refusal: {refused}"
            )
        return cls(space, objective, law, p_D, answered, np.array(optima), len(laws) - len(answered))

    @cached_property
    def prior_D(self) -> FloatArray:
        """The prior as near as the space allows it: what validation compares with."""
        return self.space.nearest(self.space.prior_D).array(self.space.names)

    def metrics(self, X_ND: FloatArray) -> FloatArray:
        """What the plausible laws predict [B, N, M]."""
        return np.array([law.predict(X_ND) for law in self.laws])

    @cached_property
    def guard(self) -> Guard:
        """The floors, as the fitted law sees them."""
        return Guard.of(self.law, self.objective, self.space)

    def value(self, X_ND: FloatArray) -> FloatArray:
        """The objective [N], mean over the plausible laws; infinite where a constraint or a floor is broken."""
        allowed_N = self.space.allowed(X_ND)
        if self.guard.metrics:
            allowed_N = allowed_N & self.guard.kept(self.law.predict(X_ND))
        return np.where(allowed_N, self.metrics(X_ND).mean(axis=0) @ self.objective.weights_M, np.inf)


def measure(answer: Answer, rng: np.random.Generator) -> dict[str, Any]:
    """All that is known of the answer's uncertainty, as plain data."""
    names, space = answer.space.names, answer.space
    low_D, high_D = interval(answer.optima_BD)
    regret_B = regrets(answer)
    margin = float(np.quantile(regret_B, LEVEL, method="weibull"))
    found = search(space, answer.value, answer.p_D, answer.prior_D, answer.optima_BD, margin, rng)
    return {
        "level": LEVEL,
        "draws": len(answer.laws),
        "unanswered": answer.unanswered,
        "proportions": dict(zip(names, np.column_stack([low_D, high_D]).tolist(), strict=True)),
        "gain": gain(answer, answer.p_D),
        "caps": caps(answer),
        "regret": {"mean": float(regret_B.mean()), "quantile": margin},
        "region": region(answer, found),
        "effects": effects(answer),
    }


def interval(values_B: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The ends of the interval that holds `LEVEL` of the draws, along the first axis."""
    ends = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    low, high = np.quantile(values_B, ends, axis=0, method="weibull")
    return low, high


def gain(answer: Answer, p_D: FloatArray) -> dict[str, Any]:
    """By how much this mixture [D] is predicted to be better than the prior: the objective, and each metric."""
    pair_2D = np.array([answer.prior_D, p_D])
    said_2M, drawn_B2M = answer.law.predict(pair_2D), answer.metrics(pair_2D)
    return _change(answer.objective, said_2M[0] - said_2M[1], drawn_B2M[:, 0] - drawn_B2M[:, 1])


def regrets(answer: Answer) -> FloatArray:
    """What following the answer loses under each plausible law [B], against that law's own answer."""
    weights_M = answer.objective.weights_M
    both_B2M = [
        law.predict(np.array([answer.p_D, p_D])) for law, p_D in zip(answer.laws, answer.optima_BD, strict=True)
    ]
    both_B2 = np.array(both_B2M) @ weights_M
    return np.maximum(both_B2[:, 0] - both_B2[:, 1], 0.0)


def caps(answer: Answer) -> dict[str, float]:
    """The share of plausible answers that each domain's cap or upper bound stops; without domains that have neither."""
    upper_D = answer.space.upper_D
    share_D = (answer.optima_BD >= upper_D * (1 - AT_BOUND)).mean(axis=0)
    return {n: float(s) for n, s, u in zip(answer.space.names, share_D, upper_D, strict=True) if u < 1}


def region(answer: Answer, found: Region) -> dict[str, Any]:
    """The region in plain data: a range for each domain, and its member nearest to the prior."""
    names = answer.space.names
    return {
        "margin": found.margin,
        "ranges": dict(zip(names, np.column_stack([found.low_D, found.high_D]).tolist(), strict=True)),
        "effective_domains": list(found.effective),
        "simplest": {
            "mixture": dict(zip(names, found.simplest_D.tolist(), strict=True)),
            "kl": found.kl_simplest,
            "kl_recommended": found.kl_answer,
            "gain": gain(answer, found.simplest_D),
        },
    }


def effects(answer: Answer) -> dict[str, dict[str, Any]]:
    """What moving each domain does, "up" and "down" by five points; None where a constraint forbids the move."""
    moved = {
        (name, way): cox(answer.space, answer.p_D, j, step)
        for j, name in enumerate(answer.space.names)
        for way, step in (("up", STEP), ("down", -STEP))
    }
    points_ED = np.array([answer.p_D, *(q_D for q_D in moved.values() if q_D is not None)])
    said_EM, drawn_BEM = answer.law.predict(points_ED), answer.metrics(points_ED)
    found: dict[str, dict[str, Any]] = {name: {} for name in answer.space.names}
    row = 0
    for (name, way), q_D in moved.items():
        row += q_D is not None
        change = (said_EM[0] - said_EM[row], drawn_BEM[:, 0] - drawn_BEM[:, row])
        found[name][way] = None if q_D is None else _change(answer.objective, *change)
    return found


def cox(space: MixtureSpace, p_D: FloatArray, j: int, step: float) -> FloatArray | None:
    """The mixture [D] with p_j + step and the others in proportion; None where a constraint forbids it."""
    if p_D[j] >= 1 or p_D[j] + step < 0:
        return None
    q_D = p_D * (1 - p_D[j] - step) / (1 - p_D[j])
    q_D[j] = p_D[j] + step
    return q_D if space.allowed(q_D[None])[0] else None


def verdict(gain: Mapping[str, Any], unit: str) -> str:
    """What the law alone says of the gain over the prior, in one sentence."""
    low, high = gain["low"], gain["high"]
    span = f"{100 * LEVEL:g} % interval {low:+.4f} to {high:+.4f}"
    if low <= 0 <= high:
        return f"The predicted gain is inside the noise: {gain['value']:+.4f} {unit} against the prior ({span})."
    what = "gain" if low > 0 else "loss"
    return f"The law predicts a {what} of {abs(gain['value']):.4f} {unit} against the prior ({span})."


def _change(objective: Objective, said_M: FloatArray, drawn_BM: FloatArray) -> dict[str, Any]:
    """The law's word on a change and its interval over the draws: of the objective, and of each metric."""
    said = [float(said_M @ objective.weights_M), *said_M.tolist()]
    low, high = interval(np.column_stack([drawn_BM @ objective.weights_M, drawn_BM]))
    rows = [{"value": value, "low": float(a), "high": float(b)} for value, a, b in zip(said, low, high, strict=True)]
    return rows[0] | {"metrics": dict(zip(objective.metrics, rows[1:], strict=True))}
