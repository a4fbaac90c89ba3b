"""GRAPE: domains that help those targets which improve least.

A minimax over domain weights alpha and target weights z. With gradients g_i, and L_i the loss of target i:

    every round:         alpha_j <- alpha_j exp(eta <g_j, sum_i z_i g_i / L_i>) / sum_k ...
    every `slow` rounds: z_i     <- z_i exp(-eta_z <g_i / L_i, sum_j alpha_j g_j>) / sum_k ...      with the new alpha

g_i / L_i is the gradient of log L_i: what counts is the rate of improvement, so that targets with a high loss do not rule.
Each vector of an inner product that is longer than 1 is shortened to 1. All is had from the inner products of the
domains' gradients and their held-out losses: the targets are the domains.

In the code eta = rate / mu_alpha and eta_z = rate / mu_z with mu_alpha = 1e-3, mu_z = 1e-4 and the learning rate at that
step, alpha every 10 and z every 100 steps: hence eta_z = 10 eta and slow = 10. Here eta is constant, and a run has
`rounds` updates whatever its length; a rate of 5e-4 makes 0.5 of it. The code draws a batch by z and takes the gradient
of the log of its mean loss, which is sum z_i g_i / sum z_i L_i; ours is the sum of the paper.
UNVERIFIED: the limit of 1 (the default of the code's training library), the learning rate and the number of steps of the
paper's runs, and in which order the paper updates alpha and z (the order here is the code's).

Shapes: D domains.
Source: Fan et al. 2025, arXiv:2505.20380, and the code Olivia-fsm/multi-target-data-mixing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.gradients import check_gradients
from mixopt.policies.rounds import Round, check_rounds, exponentiated, first_round
from mixopt.policy import Feedback, Gram, Signal, Valid, beginning, knobs, tuples


def inner(gram_DD: FloatArray, scale_D: FloatArray, mix_D: FloatArray) -> FloatArray:
    """Inner products [D] of each scale_i g_i with sum_j mix_j g_j, none of these vectors longer than 1."""
    length_D = scale_D * np.sqrt(np.diag(gram_DD))
    length = np.sqrt(np.maximum(mix_D @ gram_DD @ mix_D, 0))
    return scale_D * (gram_DD @ mix_D) / (np.maximum(length_D, 1) * np.maximum(length, 1))


@dataclass(frozen=True)
class State:
    """alpha, z, and the last G in the order of `names`; no G before the first update."""

    names: tuple[str, ...]
    round: Round
    alpha: Mixture
    z: Mixture
    gram: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Grape:
    """Domains that help those targets which improve least.

    `slow` is how many rounds z waits, `rows` are those of a gradient, `part` is that of the held-out text.
    """

    rounds: int = 50
    eta: float = 0.5
    eta_z: float = 5.0
    slow: int = 10
    rows: int = 4
    part: float = 0.25

    def __post_init__(self) -> None:
        """Check the knobs."""
        check_rounds(self.rounds)
        check_gradients(self.rows, None)
        for name, value in (("eta", self.eta), ("eta_z", self.eta_z)):
            if not value > 0:
                raise JobError(f"method.{name}: must be positive (got {value:g}).")
        if self.slow < 1:
            raise JobError(f"method.slow: must be at least 1 (got {self.slow}).")
        if not 0 < self.part <= 1:
            raise JobError(f"method.part: must be in (0, 1] (got {self.part:g}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """Inner products of gradients, and held-out losses."""
        return frozenset({Gram(self.rows), Valid(self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Uniform. Raises JobError for rounds shorter than a step."""
        return State(tuple(names), first_round(self.rounds, start), beginning(None, names), beginning(None, names))

    def segment(self, state: State) -> Segment:
        """The rest of the round on alpha."""
        return Segment(state.alpha, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """A step of alpha, and in every `slow`-th round one of z."""
        names, gram_DD, losses_D = state.names, feedback.signals["gram"], feedback.signals["valid"]
        z = state.z
        helped_D = inner(gram_DD, np.ones(len(names)), z.array(names) / losses_D)
        alpha = exponentiated(state.alpha, names, self.eta * helped_D)
        if (state.round.done + 1) % self.slow == 0:
            improved_D = inner(gram_DD, 1 / losses_D, alpha.array(names))
            z = exponentiated(z, names, -self.eta_z * improved_D)
        return State(names, state.round.after(feedback), alpha, z, tuples(gram_DD.tolist()))

    def matrix(self, state: State) -> FloatArray | None:
        """G: a step along g_j lowers loss i by G_ij."""
        return np.array(state.gram) if state.gram else None

    def load(self, body: Mapping[str, Any]) -> State:
        """The state that was written as plain data."""
        alpha, z = Mixture(body["alpha"]), Mixture(body["z"])
        return State(**tuples(body) | {"round": Round(**body["round"]), "alpha": alpha, "z": z})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "grape", ...}`."""
        return {"policy": "grape", **knobs(self)}
