"""One mixture from the first token to the last, with the held-out losses before and after: how much a run taught.

Shapes: D domains, in the order of the run's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mixopt.mixture import Mixture, Segment
from mixopt.policy import Feedback, Signal, Valid, tuples


@dataclass(frozen=True)
class State:
    """Tokens still to train, the domains, and their held-out losses before the first token and now."""

    left: int
    names: tuple[str, ...]
    before: tuple[float, ...]
    now: tuple[float, ...]


@dataclass(frozen=True)
class Watched:
    """The constant policy, measured at both ends on the `part` of the held-out text: its last state has the losses."""

    mixture: Mixture
    part: float = 1.0

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses."""
        return frozenset({Valid(self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """The losses of the untrained model."""
        self.mixture.array(names)
        before = tuples(start.signals["valid"].tolist())
        return State(start.total, tuple(names), before, before)

    def segment(self, state: State) -> Segment:
        """All that is left, on the one mixture."""
        return Segment(self.mixture, state.left)

    def update(self, state: State, feedback: Feedback) -> State:
        """The losses now."""
        return replace(state, left=feedback.total - feedback.seen, now=tuples(feedback.signals["valid"].tolist()))

    def load(self, body: Any) -> State:
        """The state of which `plain` made this."""
        return State(**tuples(body))

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "watched", "mixture": {...}, "part": 1.0}`."""
        return {"policy": "watched", "mixture": dict(self.mixture), "part": self.part}
