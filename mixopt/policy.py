"""What feeds a run: an online policy says what to train on next and learns from what was measured.

A policy is pure: its state is a value, `segment` reads it and `update` returns the next one. A static mixture is the
constant policy, a schedule one that looks only at the fraction of training that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from mixopt.errors import DataError, did_you_mean
from mixopt.mixture import FloatArray, Mixture, Schedule, Segment

S = TypeVar("S")


@dataclass(frozen=True)
class Feedback:
    """What the trainer measured after a segment.

    `seen` and `total` are tokens of this run; `signals` holds arrays [D] in the order of the run's domains, and only
    those signals that the policy named in `needs`.
    """

    seen: int
    total: int
    signals: Mapping[str, FloatArray]


class OnlinePolicy(Protocol[S]):
    """The seam for online methods. `needs` names the signals the trainer must measure ("valid": held-out loss)."""

    @property
    def needs(self) -> frozenset[str]:
        """Signals that `update` reads."""

    def init(self, names: Sequence[str], start: Feedback) -> S:
        """The state before the first token."""

    def segment(self, state: S) -> Segment:
        """What to train on now; reading it changes nothing."""

    def update(self, state: S, feedback: Feedback) -> S:
        """The state after a segment."""

    def to_json(self) -> dict[str, Any]:
        """Plain data that names the policy and its knobs; the run's identity."""


@dataclass(frozen=True)
class Fixed:
    """The same mixture from the first token to the last."""

    mixture: Mixture
    needs: frozenset[str] = frozenset()

    def init(self, names: Sequence[str], start: Feedback) -> int:
        """State: tokens still to train."""
        self.mixture.array(names)
        return start.total

    def segment(self, state: int) -> Segment:
        """All that is left, on the one mixture."""
        return Segment(self.mixture, state)

    def update(self, state: int, feedback: Feedback) -> int:
        """Tokens still to train."""
        return feedback.total - feedback.seen

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "fixed", "mixture": {...}}`."""
        return {"policy": "fixed", "mixture": dict(self.mixture)}


@dataclass(frozen=True)
class Scheduled:
    """Planned phases by fraction of training."""

    schedule: Schedule
    needs: frozenset[str] = frozenset()

    def init(self, names: Sequence[str], start: Feedback) -> tuple[int, int]:
        """State: (tokens seen, tokens of the run)."""
        for _, mixture in self.schedule.phases:
            mixture.array(names)
        return (start.seen, start.total)

    def segment(self, state: tuple[int, int]) -> Segment:
        """The phase under way, to its end."""
        seen, total = state
        ends = [round(start * total) for start, _ in self.schedule.phases[1:]] + [total]
        for end, (_, mixture) in zip(ends, self.schedule.phases, strict=True):
            if seen < end:
                return Segment(mixture, end - seen)
        return Segment(self.schedule.phases[-1][1], 0)

    def update(self, state: tuple[int, int], feedback: Feedback) -> tuple[int, int]:
        """(tokens seen, tokens of the run)."""
        return (feedback.seen, feedback.total)

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "scheduled", "phases": [[start, {...}], ...]}`."""
        return {"policy": "scheduled", "phases": [[start, dict(m)] for start, m in self.schedule.phases]}


def policy_from_json(body: Mapping[str, Any]) -> OnlinePolicy[Any]:
    """The policy that `to_json` described. Raises DataError for an unknown one."""
    kind = body.get("policy")
    if kind == "fixed":
        return Fixed(Mixture(body["mixture"]))
    if kind == "scheduled":
        return Scheduled(Schedule(tuple((start, Mixture(m)) for start, m in body["phases"])))
    raise DataError(f"run record: unknown policy {kind!r}; {did_you_mean(str(kind), ('fixed', 'scheduled'))}")
