"""Another policy, watched: the run takes the policy's own way, and on it A* is measured beside the policy's A.

Where a segment that reaches a point of `at` ends, or the next one that is no shorter than a probe, `Drops(part, weight)` says what a probe of each domain would do,
and the inner policy's `matrix` what the policy believes. The segments that follow, for about a probe's length, are kept
with what they did to the held-out losses: a check of the linear dynamic law on mixtures that no probe had. Segments are
never split, so the inner policy is told what it would have been told, and no more.

Shapes: D domains, in the order of the run's names.

Source: LMO's comparison of A with A* on a method's own trajectory, arXiv:2411.05735.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic

from mixopt.errors import JobError
from mixopt.mixture import Segment
from mixopt.policy import Drops, Feedback, OnlinePolicy, S, Signal, Valid, asked, probe_steps, tuples

Row = tuple[float, ...]


@dataclass(frozen=True)
class Stretch:
    """A segment after a sweep: its proportions [D], its tokens, and by how much each held-out loss fell in it [D]."""

    mixture: Row
    tokens: int
    drops: Row


@dataclass(frozen=True)
class Sweep:
    """What was measured for the point `at`: the policy's A [D, D] (None: it has none), drops of probes [D, D], what followed.

    `seen` are the run's tokens until then. A probe trained so many tokens with proportion `weight` on its own domain.
    """

    at: float
    seen: int
    probe: int
    weight: float
    matrix: tuple[Row, ...] | None
    drops: tuple[Row, ...]
    after: tuple[Stretch, ...] = ()

    @property
    def open(self) -> bool:
        """Whether less than a probe's length has followed."""
        return sum(stretch.tokens for stretch in self.after) < self.probe


@dataclass(frozen=True)
class State(Generic[S]):
    """The inner policy's state; where the run is; its last held-out losses; points still to come; what was measured."""

    inner: S
    names: tuple[str, ...]
    seen: int
    total: int
    step: int
    losses: Row
    left: Row
    sweeps: tuple[Sweep, ...] = ()


@dataclass(frozen=True)
class Audited(Generic[S]):
    """`policy`, with a sweep of probes at each part of the run in `at`.

    A policy that measures drops itself is audited with those. Probes stay within the run: where its end is too near, a
    point is left out.
    """

    policy: OnlinePolicy[S]
    at: tuple[float, ...]
    part: float
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the points."""
        if not self.at or list(self.at) != sorted(set(self.at)) or not 0 < self.at[0] <= self.at[-1] < 1:
            raise JobError(f"audit: points must increase between 0 and 1 (got {list(self.at)}).")
        if not 0 < self.part < 1:
            raise JobError(f"audit: a probe must be a part of the run between 0 and 1 (got {self.part:g}).")

    @property
    def needs(self) -> frozenset[Signal]:
        """The inner policy's signals, drops, and held-out losses."""
        return self.policy.needs | {self._drops, self._valid}

    @property
    def _drops(self) -> Drops:
        return next(
            (signal for signal in self.policy.needs if isinstance(signal, Drops)), Drops(self.part, self.weight)
        )

    @property
    def _valid(self) -> Valid:
        return next((signal for signal in self.policy.needs if isinstance(signal, Valid)), Valid())

    def init(self, names: Sequence[str], start: Feedback) -> State[S]:
        """The inner policy's start. Raises JobError for probes of less than a step, unless they are the policy's own."""
        if self._drops not in self.policy.needs and self.part * start.total < start.step:
            raise JobError(
                f"audit: a probe of {self.part:g} of {start.total:,} tokens is less than a step of {start.step:,}. "
                f"Give at least {start.step / start.total:.3g}."
            )
        inner = self.policy.init(names, _only(self.policy.needs, start))
        return State(inner, tuple(names), 0, start.total, start.step, _row(start.signals["valid"]), self.at)

    def segment(self, state: State[S]) -> Segment:
        """The inner policy's."""
        return self.policy.segment(state.inner)

    def asks(self, state: State[S]) -> frozenset[Signal]:
        """What the inner policy asks for, held-out losses while it is watched, drops where a point is reached."""
        signals = asked(self.policy, state.inner)
        if self._due(state):
            return signals | {self._drops, self._valid}
        return signals | ({self._valid} if _watched(state) else set())

    def update(self, state: State[S], feedback: Feedback) -> State[S]:
        """The inner policy's next state, and what was measured."""
        inner = self.policy.update(state.inner, _only(asked(self.policy, state.inner), feedback))
        losses, sweeps, left = state.losses, state.sweeps, state.left
        if "valid" in feedback.signals:
            losses = _row(feedback.signals["valid"])
        if _watched(state):
            fell = tuple(before - after for before, after in zip(state.losses, losses, strict=True))
            mixture = _row(self.segment(state).mixture.array(state.names))
            stretch = Stretch(mixture, feedback.seen - state.seen, fell)
            sweeps = (*sweeps[:-1], replace(sweeps[-1], after=(*sweeps[-1].after, stretch)))
        if self._due(state):
            sweeps, left = (*sweeps, self._sweep(state, inner, feedback)), left[len(self._reached(state)) :]
        return replace(state, inner=inner, seen=feedback.seen, losses=losses, left=left, sweeps=sweeps)

    def load(self, body: Any) -> State[S]:
        """The state of which `plain` made this."""
        fields = {key: tuples(value) for key, value in body.items() if key not in ("inner", "sweeps")}
        return State(self.policy.load(body["inner"]), sweeps=tuple(map(_load, body["sweeps"])), **fields)

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "audited", "inner": {...}, "at": [...], "part": ..., "weight": ...}`."""
        inner = self.policy.to_json()
        return {"policy": "audited", "inner": inner, "at": list(self.at), "part": self.part, "weight": self.weight}

    def _tokens(self, state: State[S]) -> int:
        """Tokens of the segment, as the trainer rounds it to steps."""
        return max(1, round(self.segment(state).tokens / state.step)) * state.step

    def _probe(self, state: State[S]) -> int:
        """Tokens of a probe, as the trainer counts its steps."""
        return probe_steps(self._drops, state.total // state.step) * state.step

    def _reached(self, state: State[S]) -> Row:
        """The points that the segment reaches, or that are waiting for one which is long enough."""
        return tuple(point for point in state.left if point * state.total <= state.seen + self._tokens(state))

    def _due(self, state: State[S]) -> bool:
        """Whether the segment reaches a point, is no shorter than a probe, and leaves room for one."""
        tokens, probe = self._tokens(state), self._probe(state)
        return probe <= tokens and state.seen + tokens + probe <= state.total and bool(self._reached(state))

    def _sweep(self, state: State[S], inner: S, feedback: Feedback) -> Sweep:
        at = self._reached(state)[-1]
        matrix = getattr(self.policy, "matrix", lambda _: None)(inner)
        rows = None if matrix is None else tuple(map(_row, matrix))
        drops = tuple(map(_row, feedback.signals["drops"]))
        return Sweep(at, feedback.seen, self._probe(state), self._drops.weight, rows, drops)


def _only(signals: frozenset[Signal], feedback: Feedback) -> Feedback:
    """What a policy that reads these signals is told."""
    names = {signal.name for signal in signals}
    return replace(feedback, signals={name: value for name, value in feedback.signals.items() if name in names})


def _watched(state: State[Any]) -> bool:
    return bool(state.sweeps) and state.sweeps[-1].open


def _row(values: Any) -> Row:
    return tuple(float(value) for value in values)


def _load(body: Mapping[str, Any]) -> Sweep:
    fields = tuples(body)
    return Sweep(**{**fields, "after": tuple(Stretch(**stretch) for stretch in fields["after"])})
