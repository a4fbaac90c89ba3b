"""DynamixSFT: a bandit that rewards the domains from which a step teaches the most, and never strays far from the prior.

    r_k = (L_pre - L_post) / (L_pre + eps)           a look-ahead: one step on domain k alone, then back
    Q_k <- memory Q_k + (1 - memory) r~_k            r~: rewards moved and scaled to [0, 1] over the domains
    p_k = (1 - gamma) p0_k exp(beta Q_k) / sum_j p0_j exp(beta Q_j) + gamma / K

L is the held-out loss of domain k itself.

Shapes: K domains.

Source: DynamixSFT (arXiv:2508.12116); docs/differences.md says how we differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.rounds import Round, check_rounds, first_round, given
from mixopt.policy import Drops, Feedback, Signal, Valid, beginning, knobs, tuples

EPS = 1e-8
STEP = 1e-4  # part of a run that a look-ahead trains; the trainer takes a whole step at least


def proportions(Q_K: FloatArray, prior_K: FloatArray, beta: float, gamma: float) -> FloatArray:
    """The proportions p [K]. Domains without a prior have only the even part, whatever their Q."""
    below_K = np.minimum(Q_K - Q_K[prior_K > 0].max(), 0.0)
    e_K = prior_K * np.exp(beta * below_K)
    return np.asarray((1 - gamma) * e_K / e_K.sum() + gamma / len(Q_K))


def rewards(before_K: FloatArray, drop_K: FloatArray) -> FloatArray:
    """Relative drops between 0 and 1 over the domains; 0 for all where they are equal."""
    r_K = drop_K / (before_K + EPS)
    span = np.ptp(r_K)
    return np.asarray((r_K - r_K.min()) / span if span > 0 else np.zeros_like(r_K))


@dataclass(frozen=True)
class State:
    """`value` is Q, `prior` p0, `now` p."""

    names: tuple[str, ...]
    round: Round
    prior: tuple[float, ...]
    value: tuple[float, ...]
    now: Mixture


@dataclass(frozen=True)
class DynamixSFT:
    """Train on what a step just taught the most about, within reach of the prior.

    `prior` is p0, the study's unless given; `rounds` how often a run looks ahead, `beta` how sharply it prefers,
    `gamma` the part that all domains share evenly, `memory` that of the rewards before, `part` that of the held-out text
    which is read once a round and once more for every domain.
    """

    prior: Mapping[str, float] | None = None
    rounds: int = 60
    beta: float = 4.0
    gamma: float = 0.3
    memory: float = 0.95
    part: float = 0.25

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds, 2)
        given("prior", self.prior)
        if not self.beta >= 0:
            raise JobError(f"method.beta: must be at least 0 (got {self.beta}).")
        if not 0 < self.part <= 1:
            raise JobError(f"method.part: must be above 0 and at most 1 (got {self.part}).")
        for knob in ("gamma", "memory"):
            if not 0 <= getattr(self, knob) <= 1:
                raise JobError(f"method.{knob}: must be between 0 and 1 (got {getattr(self, knob)}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses, and by how much a step on each domain lowers them."""
        return frozenset({Valid(self.part), Drops(STEP, text=self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """The prior with its even part, which is all that zeros of the prior ever get.

        Raises JobError for rounds shorter than a step.
        """
        p0_K = beginning(given("prior", self.prior), names, recovers=True).array(names)
        zero_K = np.zeros(len(names))
        now = Mixture.from_array(names, proportions(zero_K, p0_K, self.beta, self.gamma))
        prior, value = tuple(p0_K.tolist()), tuple(zero_K.tolist())
        return State(tuple(names), first_round(self.rounds, start), prior, value, now)

    def segment(self, state: State) -> Segment:
        """The rest of the round on p."""
        return Segment(state.now, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """Look ahead, remember, prefer. After the last token there is no look-ahead, and nothing to prefer for."""
        if "drops" not in feedback.signals:
            return replace(state, round=state.round.after(feedback))
        r_K = rewards(feedback.signals["valid"], np.diag(feedback.signals["drops"]))
        Q_K = self.memory * np.array(state.value) + (1 - self.memory) * r_K
        p_K = proportions(Q_K, np.array(state.prior), self.beta, self.gamma)
        now = Mixture.from_array(state.names, p_K / p_K.sum())
        return replace(state, round=state.round.after(feedback), value=tuple(Q_K.tolist()), now=now)

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"round": Round(**body["round"]), "now": Mixture(body["now"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "dynamixsft", ...}`."""
        return {"policy": "dynamixsft", **knobs(self)}
