"""DoReMi's proxy run: Group DRO gives more to the domains in which a reference run is still ahead.

    lambda_i = mean over the tokens of domain i of max(loss - loss of the reference, 0)
    alpha'   = alpha * exp(eta lambda)
    alpha    = (1 - c) alpha' / sum_k alpha'_k + c / D
    answer   = mean of alpha over the updates

The maximum is taken token by token: tokens that are better than the reference's do not make up for those that are
worse. `clip: domain` takes it of the domain's mean difference instead, as the reimplementation does that the
paper of Aioli (arXiv:2411.05735) compares with; the two disagree. A domain of which nothing was drawn keeps its lambda.

The paper samples all domains alike, weighs their losses by alpha and updates at every step. Here alpha is what is drawn,
and it is updated at the end of each of `rounds` equal rounds, by the mean over the round.

Shapes: D domains, T tokens.
Source: Xie et al. 2023, arXiv:2305.10429, and the code sangmichaelxie/doremi, whose c is 1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment, mean
from mixopt.policies.rounds import Round, check_rounds, exponentiated, first_round, smoothed
from mixopt.policy import Excess, Feedback, Signal, beginning, knobs, tuples

Clip = Literal["token", "domain"]


def excess(differences: Sequence[FloatArray], clip: Clip = "token") -> FloatArray:
    """The lambda [D] of each domain's differences [T] to the reference, as a trainer measures it; NaN without tokens."""
    return np.array([_excess(d_T, clip) if len(d_T) else np.nan for d_T in differences])


def _excess(d_T: FloatArray, clip: Clip) -> float:
    return float(np.maximum(d_T, 0).mean() if clip == "token" else max(d_T.mean(), 0))


@dataclass(frozen=True)
class State:
    """alpha, its mean over the updates, and lambda in the order of `names`."""

    names: tuple[str, ...]
    round: Round
    alpha: Mixture
    mean: Mixture
    excess: tuple[float, ...]


@dataclass(frozen=True)
class GroupDRO:
    """Group DRO against the run whose id is `reference`. `smoothing` is c."""

    reference: str
    rounds: int = 50
    eta: float = 1.0
    smoothing: float = 1e-3
    clip: Clip = "token"

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds)
        if not self.eta > 0:
            raise JobError(f"method.eta: must be positive (got {self.eta:g}).")
        if not 0 <= self.smoothing < 1:
            raise JobError(f"method.smoothing: must be in [0, 1) (got {self.smoothing:g}); 1 is the uniform mixture.")

    @property
    def needs(self) -> frozenset[Signal]:
        """Excess losses."""
        return frozenset({Excess(self.reference, self.clip)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Uniform. Raises JobError for rounds shorter than a step."""
        even = beginning(None, names)
        return State(tuple(names), first_round(self.rounds, start), even, even, (0.0,) * len(names))

    def segment(self, state: State) -> Segment:
        """The rest of the round on alpha."""
        return Segment(state.alpha, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """One step of Group DRO."""
        excess_D, last_D = feedback.signals["excess"], np.array(state.excess)
        lambda_D = np.where(np.isnan(excess_D), last_D, excess_D)
        alpha = smoothed(exponentiated(state.alpha, state.names, self.eta * lambda_D), self.smoothing)
        running = mean([(state.round.done, state.mean), (1, alpha)])
        return State(state.names, state.round.after(feedback), alpha, running, tuple(lambda_D.tolist()))

    def answer(self, state: State) -> Mixture:
        """The mean of alpha over the updates; before the first one, uniform."""
        return state.mean

    def matrix(self, state: State) -> FloatArray | None:
        """Only a domain's own training helps it, by its excess."""
        return np.diag(state.excess) if state.round.done else None

    def load(self, body: Mapping[str, Any]) -> State:
        """The state that was written as plain data."""
        alpha, running = Mixture(body["alpha"]), Mixture(body["mean"])
        return State(**tuples(body) | {"round": Round(**body["round"]), "alpha": alpha, "mean": running})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "doremi", "reference": ..., ...}`."""
        return {"policy": "doremi", **knobs(self)}
