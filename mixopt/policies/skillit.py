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
from mixopt.policy import Feedback, Signal, Valid, knobs, tuples


@dataclass(frozen=True)
class State:
    """`losses` are those of the last rounds, at most `window`, the newest last."""

    names: tuple[str, ...]
    total: int
    step: int
    round: int = 0
    seen: int = 0
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

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses."""
        return frozenset({Valid(self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Before the first round. Raises JobError for another set of domains, or rounds of less than a step."""
        for said in (self.graph, *self.graph.values()):
            if set(said) != set(names):
                raise JobError(f"skillit: the graph has domains {', '.join(said)}, the run {', '.join(names)}.")
        if start.total < self.rounds * start.step:
            raise JobError(
                f"method.rounds: {self.rounds} rounds of a run of {start.total:,} tokens are less than a step each "
                f"({start.step:,}). Take fewer rounds or more tokens."
            )
        return State(tuple(names), start.total, start.step)

    def segment(self, state: State) -> Segment:
        """A round."""
        S_D = np.sum(state.losses, axis=0) if state.losses else np.ones(len(state.names))
        p_D = proportions(self._graph(state), S_D, self.eta)
        steps = -(-state.total // state.step)
        end = min(state.total, (state.round + 1) * steps // self.rounds * state.step)
        return Segment(Mixture.from_array(state.names, p_D), end - state.seen)

    def update(self, state: State, feedback: Feedback) -> State:
        """Remember the losses."""
        losses = (*state.losses, tuples(feedback.signals["valid"].tolist()))[-self.window :]
        return replace(state, round=state.round + 1, seen=feedback.seen, losses=losses)

    def load(self, body: Any) -> State:
        """The state of which `plain` made this."""
        return State(**tuples(body))

    def to_json(self) -> dict[str, Any]:
        """The policy's name and its knobs."""
        return {"policy": "skillit", **knobs(self)}

    def matrix(self, state: State) -> FloatArray | None:
        """A_ij = L_i G_ji [D, D] at the newest losses, evaluated domains in rows; None before there are any."""
        return np.array(state.losses[-1])[:, None] * self._graph(state).T if state.losses else None

    def _graph(self, state: State) -> FloatArray:
        return np.array([[self.graph[j][i] for i in state.names] for j in state.names])


def proportions(G_DD: FloatArray, S_D: FloatArray, eta: float) -> FloatArray:
    """p_j ~ exp(eta sum_i G_ji S_i) [D]."""
    z_D = eta * (G_DD @ S_D)
    p_D = np.exp(z_D - z_D.max())
    return p_D / p_D.sum()
