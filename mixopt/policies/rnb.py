"""R&B's balance step: proportions follow how well each domain's gradient agrees with those of what is evaluated.

    p <- (1 - gamma) softmax(lambda G q / |G q|_2) + gamma / D

G_ij = <g_i, g_j> are the inner products of the domains' mean gradients in the output head, q what each domain weighs in
the evaluation. p is overwritten: it has no memory, and it starts uniform.

The paper accumulates gradients over the steps of a round; here each domain's is that of its next `rows` rows when the
round ends. The floor gamma is no part of the paper's rule: starved domains have noisy gradients, its reviewers said; it is
off unless given. The paper's first half, regrouping documents into domains by their embeddings, is a matter of preparing
the data. UNVERIFIED: which lambda and which length of a round the paper takes.

Shapes: D domains.
Source: Ge et al. 2025, arXiv:2505.00358.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.gradients import Target, check_gradients, target_D
from mixopt.policies.rounds import Round, check_rounds, exponentiated, first_round, smoothed
from mixopt.policy import Feedback, Gram, Signal, beginning, knobs, tuples


@dataclass(frozen=True)
class State:
    """p, and the last G in the order of `names`; no G before the first update."""

    names: tuple[str, ...]
    round: Round
    p: Mixture
    gram: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Balance:
    """Proportions follow how well each domain's gradient agrees with those of what is evaluated.

    `strength` is lambda, `floor` gamma, `target` q: all domains alike unless given.
    """

    rounds: int = 50
    strength: float = 1.0
    floor: float = 0.0
    rows: int = 4
    target: Target | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds)
        check_gradients(self.rows, self.target)
        if not self.strength > 0:
            raise JobError(f"method.strength: must be positive (got {self.strength:g}).")
        if not 0 <= self.floor < 1:
            raise JobError(f"method.floor: must be in [0, 1) (got {self.floor:g}); 1 is the uniform mixture.")

    @property
    def needs(self) -> frozenset[Signal]:
        """Inner products of gradients."""
        return frozenset({Gram(self.rows)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Uniform. Raises JobError for rounds shorter than a step and for targets that are no domain."""
        target_D(self.target, names)
        return State(tuple(names), first_round(self.rounds, start), beginning(None, names))

    def segment(self, state: State) -> Segment:
        """The rest of the round on p."""
        return Segment(state.p, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """A new p, whatever it was; uniform where the gradients say nothing."""
        names, gram_DD = state.names, feedback.signals["gram"]
        agreement_D = gram_DD @ target_D(self.target, names)
        length = float(np.linalg.norm(agreement_D))
        gain_D = self.strength * agreement_D / length if length > 0 else agreement_D
        p = smoothed(exponentiated(beginning(None, names), names, gain_D), self.floor)
        return State(names, state.round.after(feedback), p, tuples(gram_DD.tolist()))

    def matrix(self, state: State) -> FloatArray | None:
        """G: a step along g_j lowers loss i by G_ij."""
        return np.array(state.gram) if state.gram else None

    def load(self, body: Mapping[str, Any]) -> State:
        """The state that was written as plain data."""
        return State(**tuples(body) | {"round": Round(**body["round"]), "p": Mixture(body["p"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "rnb", ...}`."""
        return {"policy": "rnb", **knobs(self)}
