"""DoGE: a domain gets more the better its gradient agrees with that of the target.

With G_ij = <g_i, g_j>, the inner products of the domains' gradients, and target weights t_i:

    code:  1. every g_j longer than 5 is shortened to 5
           2. score_j = n sum_i t_i G_ij, minus |g_j|^2 where the target is all domains alike; n domains have t_i > 0
           3. score_j <- score_j / (mean_k |g_k| + 1e-6), clipped to [0, 5]
    paper: score_j = sum_i t_i G_ij
    both:  alpha_j <- alpha_j exp(eta score_j) / sum_k ...,  answer = mean of alpha over the updates

The paper's exponent is rate * score / mu. Only the quotient counts (the code clips at 5 times the rate), so it is one
knob here: eta = rate / mu. The paper takes mu = 0.01 and a rate that falls from 5e-4, so 0.05 and less at each of 10,000
training steps; here there is one update at the end of each of `rounds` equal rounds, at a constant eta. Negative
alignments count as none in the code: weights shrink only by normalisation.

The gradients are those of the output head alone, each domain's from its next `rows` rows; the code's limit of 5 is on the
gradient of all parameters, so that it binds later here. alpha is what is drawn; the paper weighs gradients.

Shapes: D domains.
Source: Fan et al. 2024, arXiv:2310.15393, and the code Olivia-fsm/DoGE.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment, mean
from mixopt.policies.gradients import Target, check_gradients, shortened, target_D
from mixopt.policies.rounds import Round, check_rounds, exponentiated, first_round
from mixopt.policy import Feedback, Gram, Signal, beginning, knobs, tuples

Variant = Literal["code", "paper"]
LONGEST = 5.0  # norm of a gradient
HIGHEST = 5.0  # score


def scores(gram_DD: FloatArray, t_D: FloatArray, variant: Variant = "code") -> FloatArray:
    """The score [D] of each domain's gradient for target weights [D] that sum to 1."""
    if variant == "paper":
        return gram_DD @ t_D
    gram_DD = shortened(gram_DD, LONGEST)
    score_D = np.count_nonzero(t_D) * gram_DD @ t_D
    if np.allclose(t_D, 1 / len(t_D)):
        score_D = score_D - np.diag(gram_DD)
    return np.clip(score_D / (np.sqrt(np.diag(gram_DD)).mean() + 1e-6), 0, HIGHEST)


@dataclass(frozen=True)
class State:
    """alpha, its mean over the updates, and the last G, in the order of `names`; no G before the first update."""

    names: tuple[str, ...]
    round: Round
    alpha: Mixture
    mean: Mixture
    gram: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Alignment:
    """DoGE's weights. `target` maps domains to what they weigh in the target: all alike unless given, absent ones none."""

    rounds: int = 50
    eta: float = 0.5
    rows: int = 4
    variant: Variant = "code"
    target: Target | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds)
        if not self.eta > 0:
            raise JobError(f"method.eta: must be positive (got {self.eta:g}).")
        check_gradients(self.rows, self.target)

    @property
    def needs(self) -> frozenset[Signal]:
        """Inner products of gradients."""
        return frozenset({Gram(self.rows)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Uniform. Raises JobError for rounds shorter than a step and for targets that are no domain."""
        target_D(self.target, names)
        return State(tuple(names), first_round(self.rounds, start), beginning(None, names), beginning(None, names))

    def segment(self, state: State) -> Segment:
        """The rest of the round on alpha."""
        return Segment(state.alpha, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """One step along the scores."""
        names, gram_DD = state.names, feedback.signals["gram"]
        score_D = scores(gram_DD, target_D(self.target, names), self.variant)
        alpha = exponentiated(state.alpha, names, self.eta * score_D)
        running = mean([(state.round.done, state.mean), (1, alpha)])
        return State(names, state.round.after(feedback), alpha, running, tuples(gram_DD.tolist()))

    def answer(self, state: State) -> Mixture:
        """The mean of alpha over the updates; before the first one, uniform."""
        return state.mean

    def matrix(self, state: State) -> FloatArray | None:
        """G: a step along g_j lowers loss i by G_ij."""
        return np.array(state.gram) if state.gram else None

    def load(self, body: Mapping[str, Any]) -> State:
        """The state that was written as plain data."""
        alpha, running = Mixture(body["alpha"]), Mixture(body["mean"])
        return State(**tuples(body) | {"round": Round(**body["round"]), "alpha": alpha, "mean": running})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "doge", ...}`."""
        return {"policy": "doge", **knobs(self)}
