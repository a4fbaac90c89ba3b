"""One run on its way: what its policy said, what it has drawn, what was measured.

A policy is pure and a batch is a function of (seed, step, mixtures so far): so what the policy was told, the step and
the measurements are enough to go on from.

Shapes: D domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixopt.mixture import Segment
from mixopt.policy import Feedback
from mixopt.runs import RunSpec
from proxies.tokens import IntArray, Sampler

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Course:
    """What all runs of a stack share: their domains, their length, and when they are measured (in steps)."""

    names: Sequence[str]
    steps: int
    step_tokens: int
    marks: frozenset[int]


@dataclass
class Member:
    """A run of a stack. `segment` is what it trains on now, `until` the step at which that ends."""

    spec: RunSpec
    course: Course
    sampler: Sampler
    step: int = 0
    heard: list[Feedback] = field(default_factory=list)
    trace: list[Segment] = field(default_factory=list)
    trajectory: list[tuple[int, Metrics]] = field(default_factory=list)
    horizons: list[tuple[int, Metrics]] = field(default_factory=list)
    error: str = ""
    seconds: float = 0.0
    extra_tokens: int = 0  # trained on branches

    def __post_init__(self) -> None:
        """Ask the policy for its first segment."""
        self._state = self.spec.feed.init(self.course.names, self._feedback(0, {}))
        self.drawn_D: IntArray = np.zeros(len(self.course.names), dtype=np.int64)
        self._enter(0)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train."""
        return bool(self.error) or self.step >= self.course.steps

    @property
    def traced(self) -> tuple[Segment, ...]:
        """What it went through, up to where it is."""
        left = self.step * self.course.step_tokens - sum(segment.tokens for segment in self.trace)
        return (*self.trace, *([Segment(self.segment.mixture, left)] if left else []))

    def blocks(self, steps: int) -> tuple[IntArray, IntArray]:
        """Block numbers [T, B] of the coming steps, and the rows [D] drawn after them. Changes nothing."""
        w_D = self.segment.mixture.array(self.course.names)
        return self.sampler.blocks(w_D, self.step, steps, self.drawn_D)

    def hear(self, signals: Mapping[str, Any]) -> None:
        """End the segment: tell the policy what was measured, and ask it what comes next."""
        self._hear(self._feedback(self.step, signals))

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `resume` goes on."""
        heard = [[f.seen, {name: np.asarray(s).tolist() for name, s in f.signals.items()}] for f in self.heard]
        return {
            "step": self.step,
            "heard": heard,
            "trajectory": self.trajectory,
            "horizons": self.horizons,
            "seconds": self.seconds,
            "extra_tokens": self.extra_tokens,
        }

    def resume(self, body: Mapping[str, Any]) -> None:
        """Bring a fresh member to where `to_json` saw it: its policy hears everything again."""
        for seen, signals in body["heard"]:
            step = seen // self.course.step_tokens
            self._hear(self._feedback(step, {name: np.array(values) for name, values in signals.items()}))
        self.step = body["step"]
        self.trajectory = [(tokens, metrics) for tokens, metrics in body["trajectory"]]
        self.horizons = [(tokens, metrics) for tokens, metrics in body["horizons"]]
        self.seconds, self.extra_tokens = body["seconds"], body["extra_tokens"]
        past = [(s.mixture.array(self.course.names), s.tokens // self.course.step_tokens) for s in self.trace]
        now = self.step - sum(steps for _, steps in past)
        self.drawn_D = self.sampler.drawn([*past, (self.segment.mixture.array(self.course.names), now)])

    def _hear(self, feedback: Feedback) -> None:
        done = sum(segment.tokens for segment in self.trace)
        self.trace.append(Segment(self.segment.mixture, feedback.seen - done))
        self.heard.append(feedback)
        self._state = self.spec.feed.update(self._state, feedback)
        if feedback.seen < feedback.total:
            self._enter(feedback.seen // self.course.step_tokens)

    def _enter(self, step: int) -> None:
        """Read the policy's segment: at least one step long, at most to the end."""
        self.segment = self.spec.feed.segment(self._state)
        length = max(1, round(self.segment.tokens / self.course.step_tokens))
        self.until = min(self.course.steps, step + length)

    def _feedback(self, step: int, signals: Mapping[str, Any]) -> Feedback:
        return Feedback(step * self.course.step_tokens, self.course.steps * self.course.step_tokens, signals)
