"""ODM: EXP3, a bandit whose arms are the domains and whose reward is a domain's training loss.

    eps_t = min(1 / K, sqrt(ln K / (K t)))
    pi_t = (1 - K eps_t) softmax(eps_(t-1) R) + eps_t                  train a step; R_j += r_j / pi_j,  r = loss / 10

A turn t is a training step. A step of ours draws every domain, j in the proportion pi_j: the mean of EXP3's importance
weighted rewards over what it may draw is r_j, and that is what R_j gets for each step of a round.

It follows how high a loss is, not how fast it falls: where a domain's entropy is high and little of it can be learnt,
it may end further from the optimum than the uniform mixture, as on the toy.

Shapes: K domains.

Source: Albalak et al. 2023, Efficient Online Data Mixing (arXiv:2312.02406), and its reference code; docs/differences.md
says how we differ.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.rounds import Round, check_rounds, first_round, given
from mixopt.policy import Feedback, Signal, Train, beginning, knobs, tuples


def exploration(K: int, t: float) -> float:
    """eps_t: what every domain gets at least."""
    return min(1 / K, math.sqrt(math.log(K) / (K * max(t, 1.0))))


def proportions(R_K: FloatArray, t: float) -> FloatArray:
    """Proportions [K] for turn t, after the rewards of all turns before."""
    K = len(R_K)
    z_K = exploration(K, t - 1) * R_K
    e_K = np.exp(z_K - z_K.max())
    return np.asarray((1 - K * exploration(K, t)) * e_K / e_K.sum() + exploration(K, t))


@dataclass(frozen=True)
class State:
    """`rewards` is R, `now` pi."""

    names: tuple[str, ...]
    round: Round
    rewards: tuple[float, ...]
    now: Mixture


@dataclass(frozen=True)
class ODM:
    """A bandit over domains that rewards high training losses.

    `start` is the mixture of the first round, `rounds` how often a run looks again, `scale` what losses are divided by.
    """

    start: Mapping[str, float] | None = None
    rounds: int = 60
    scale: float = 10.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds, 2)
        given("start", self.start)
        if not self.scale > 0:
            raise JobError(f"method.scale: must be above 0 (got {self.scale}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """Training losses."""
        return frozenset({Train()})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """No rewards. Zeros of the first mixture recover: every domain is explored.

        Raises JobError for rounds shorter than a step.
        """
        now = beginning(given("start", self.start), names, recovers=True)
        return State(tuple(names), first_round(self.rounds, start), (0.0,) * len(names), now)

    def segment(self, state: State) -> Segment:
        """The rest of the round on pi."""
        return Segment(state.now, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """Reward each step of the round; a domain that was not drawn gets nothing."""
        r_K = np.nan_to_num(feedback.signals["train"], nan=0.0) / self.scale
        R_K = np.array(state.rewards) + r_K * (feedback.seen - state.round.seen) / feedback.step
        pi_K = proportions(R_K, feedback.seen / feedback.step + 1)
        now = Mixture.from_array(state.names, pi_K / pi_K.sum())
        return State(state.names, state.round.after(feedback), tuple(R_K.tolist()), now)

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"round": Round(**body["round"]), "now": Mixture(body["now"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "odm", ...}`."""
        return {"policy": "odm", **knobs(self)}
