"""Skill-It: train more on what teaches the domains whose losses are high, as a graph of who teaches whom says.

Source: Chen et al. 2023, arXiv:2307.14430, and its reference code; docs/differences.md says how we differ.

    given G_ji, how much training on domain j lowers the loss of domain i
        1. p_j ~ exp(eta sum_i G_ji)
        2. for each of `rounds` rounds: train on p, measure L;
           p_j ~ exp(eta sum_i G_ji S_i) with S the sum of the last `window` measured L

Each round begins at ones again: nothing is multiplied up. In the linear dynamic law A_ij = L_i G_ji.

Shapes: D domains; G_DD [trained j, evaluated i], transposed to [evaluated, trained] in `matrix`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.rounds import Round, first_round
from mixopt.policy import Feedback, Signal, Valid, knobs, tuples


@dataclass(frozen=True)
class State:
    """`losses` are those of the last rounds, at most `window`, the newest last."""

    names: tuple[str, ...]
    round: Round
    losses: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class SkillIt:
    """Proportions follow a graph of domains and the losses of the last rounds.

    `graph` maps a domain to train to the domains to evaluate: graph["web"]["code"] is what web teaches code. Losses are
    measured on the `part` of the held-out text.
    """

    graph: Mapping[str, Mapping[str, float]]
    eta: float = 0.2
    window: int = 3
    rounds: int = 10
    part: float = 1.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        check(self.eta, self.window, self.rounds, self.part)

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses."""
        return frozenset({Valid(self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Before the first round. Raises JobError for another set of domains, or rounds of less than a step."""
        for said in (self.graph, *self.graph.values()):
            if set(said) != set(names):
                raise JobError(f"skillit: the graph has domains {', '.join(said)}, the run {', '.join(names)}.")
        return State(tuple(names), first_round(self.rounds, start))

    def segment(self, state: State) -> Segment:
        """The rest of the round on p."""
        S_D = np.sum(state.losses, axis=0) if state.losses else np.ones(len(state.names))
        p_D = proportions(self._graph(state), S_D, self.eta)
        return Segment(Mixture.from_array(state.names, p_D), state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """Remember the losses."""
        losses = (*state.losses, tuples(feedback.signals["valid"].tolist()))[-self.window :]
        return replace(state, round=state.round.after(feedback), losses=losses)

    def load(self, body: Any) -> State:
        """The state of which `plain` made this."""
        return State(**tuples(body) | {"round": Round(**body["round"])})

    def to_json(self) -> dict[str, Any]:
        """The policy's name and its knobs."""
        return {"policy": "skillit", **knobs(self)}

    def matrix(self, state: State) -> FloatArray | None:
        """A_ij = L_i G_ji [D, D] at the newest losses, evaluated domains in rows; None before there are any."""
        return np.array(state.losses[-1])[:, None] * self._graph(state).T if state.losses else None

    def _graph(self, state: State) -> FloatArray:
        return np.array([[self.graph[j][i] for i in state.names] for j in state.names])


def check(eta: float, window: int, rounds: int, part: float) -> None:
    """Raises JobError for knobs that make no policy."""
    if min(window, rounds) < 1:
        raise JobError(f"method.window, method.rounds: must be at least 1 (got {window}, {rounds}).")
    if not eta > 0:
        raise JobError(f"method.eta: must be above 0 (got {eta:g}).")
    if not 0 < part <= 1:
        raise JobError(f"method.part: must be above 0 and at most 1 (got {part:g}).")


def proportions(G_DD: FloatArray, S_D: FloatArray, eta: float) -> FloatArray:
    """p_j ~ exp(eta sum_i G_ji S_i) [D]."""
    z_D = eta * (G_DD @ S_D)
    p_D = np.exp(z_D - z_D.max())
    return p_D / p_D.sum()
