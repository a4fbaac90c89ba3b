"""One run on its way: where its policy is, what it has drawn, what was measured.

A policy's state is a value and a batch is a function of (seed, step, mixture, rows drawn): so these, the step and the
measurements are enough to go on from.

Shapes: D domains, T steps, B batch rows.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mixopt.errors import JobError, MixoptError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policy import Drops, Excess, Feedback, Train, asked, plain, probe_steps
from mixopt.runs import RunSpec
from proxies.optim import Horizon
from proxies.tokens import IntArray, Sampler

Metrics = Mapping[str, float]


def said(e: Exception) -> str:
    """What a record says of an exception: the message of our own errors, which is meant to be read; else where it was raised."""
    return str(e) if isinstance(e, MixoptError) else "".join(traceback.format_exception(e))


@dataclass(frozen=True)
class Course:
    """What all runs of a stack share: their domains, their length, and when they are measured (in steps)."""

    names: Sequence[str]
    steps: int
    step_tokens: int
    marks: frozenset[int]


class Tally:
    """The mean of something over a segment's training rows, by domain.

    Rows are added one by one in the order in which they were trained on: where training paused leaves no trace.
    """

    def __init__(self, rows_D: Iterable[int], sums_D: Iterable[float]) -> None:
        self.rows_D, self.sums_D = np.array(rows_D, dtype=np.int64), np.array(sums_D, dtype=float)

    def add(self, domains_TB: IntArray, values_TB: FloatArray) -> None:
        """More rows: their domains, and what is averaged."""
        np.add.at(self.rows_D, domains_TB.ravel(), 1)
        np.add.at(self.sums_D, domains_TB.ravel(), values_TB.ravel())

    @property
    def mean_D(self) -> FloatArray:
        """Means [D]; NaN for a domain without rows."""
        return np.divide(self.sums_D, self.rows_D, out=np.full(len(self.rows_D), np.nan), where=self.rows_D > 0)


@dataclass
class Member:
    """A run of a stack, to be begun or resumed.

    `state` is its policy's, `segment` what it trains on now, `until` the step at which that ends, `asked` what is
    measured then, `drawn_D` the rows drawn. `crashed` says that `error` is not the training's but the policy's.
    """

    spec: RunSpec
    course: Course
    sampler: Sampler
    step: int = 0
    trace: list[Segment] = field(default_factory=list)
    trajectory: list[tuple[int, Metrics]] = field(default_factory=list)
    horizons: list[tuple[int, Metrics]] = field(default_factory=list)
    error: str = ""
    crashed: bool = False
    seconds: float = 0.0
    extra_tokens: int = 0  # trained on branches
    read_tokens: int = 0  # that went forward through a model only: to evaluate it, or a reference

    def begin(self, signals: Mapping[str, FloatArray]) -> None:
        """Ask the policy for its first segment."""
        self.drawn_D: IntArray = np.zeros(len(self.course.names), dtype=np.int64)
        with self._alone():
            self.state = self.spec.feed.init(self.course.names, self._feedback(signals))
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
        return self.sampler.blocks(self.w_D, self.step, steps, self.drawn_D)

    def hear(self, signals: Mapping[str, FloatArray]) -> None:
        """End the segment: tell the policy what was measured, and ask it what comes next."""
        self.trace = list(self.traced)
        with self._alone():
            self.state = self.spec.feed.update(self.state, self._feedback(signals))
            if self.step < self.course.steps:
                self._enter(self.step)

    def to_json(self) -> dict[str, Any]:
        """Plain data from which `resume` goes on."""
        return {
            "step": self.step,
            "state": plain(self.state),
            "drawn": self.drawn_D.tolist(),
            "tallies": {name: [t.rows_D.tolist(), t.sums_D.tolist()] for name, t in self.tallies.items()},
            "trace": [[dict(segment.mixture), segment.tokens] for segment in self.trace],
            "trajectory": self.trajectory,
            "horizons": self.horizons,
            "seconds": self.seconds,
            "extra_tokens": self.extra_tokens,
            "read_tokens": self.read_tokens,
        }

    def resume(self, body: Mapping[str, Any]) -> None:
        """Bring a fresh member to where `to_json` saw it."""
        self.drawn_D = np.array(body["drawn"], dtype=np.int64)
        self.trace = [Segment(Mixture(mixture), tokens) for mixture, tokens in body["trace"]]
        with self._alone():
            self.state = self.spec.feed.load(body["state"])
            self._enter(sum(segment.tokens for segment in self.trace) // self.course.step_tokens)
        self.tallies = {name: Tally(*both) for name, both in body["tallies"].items()}
        self.step = body["step"]
        self.trajectory = [(tokens, metrics) for tokens, metrics in body["trajectory"]]
        self.horizons = [(tokens, metrics) for tokens, metrics in body["horizons"]]
        self.seconds = body["seconds"]
        self.extra_tokens, self.read_tokens = body["extra_tokens"], body["read_tokens"]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """What its policy raises ends this run and no other."""
        try:
            yield
        except Exception as e:  # noqa: BLE001 - a policy is anybody's program
            self.error, self.crashed = said(e), True

    def _enter(self, step: int) -> None:
        """Read the policy's segment: at least one step long, at most to the end."""
        self.segment = self.spec.feed.segment(self.state)
        self.w_D = self.segment.mixture.array(self.course.names)
        length = max(1, round(self.segment.tokens / self.course.step_tokens))
        self.until = min(self.course.steps, step + length)
        self.asked = asked(self.spec.feed, self.state, last=self.until == self.course.steps)
        none = [0] * len(self.course.names)
        self.tallies = {s.name: Tally(none, none) for s in self.asked if isinstance(s, Train | Excess)}
        if undeclared := self.asked - self.spec.feed.needs:
            raise JobError(f"its policy asks for what it does not declare: {', '.join(sorted(map(repr, undeclared)))}.")
        for signal in self.asked:
            if isinstance(signal, Drops):
                self._check_probe(probe_steps(signal, self.course.steps), length)

    def _check_probe(self, steps: int, length: int) -> None:
        if steps > length:
            raise JobError(
                f"its policy probes for {steps} of {self.course.steps} steps after a segment of {length}. "
                "Ask for shorter probes, for fewer and longer segments, or for a longer run (proxies.tokens)."
            )

    def _feedback(self, signals: Mapping[str, FloatArray]) -> Feedback:
        each = self.course.step_tokens
        return Feedback(self.step * each, self.course.steps * each, signals, each)


@dataclass(frozen=True)
class Branch:
    """How a member trains aside from where it is: on which mixture, and at the pace of a schedule from which step."""

    member: Member
    w_D: FloatArray
    horizon: Horizon
    start: int

    def blocks(self, done: int, steps: int, drawn_D: IntArray) -> tuple[IntArray, IntArray]:
        """Block numbers [T, B] of the steps after `done` ones, and the rows [D] drawn after them."""
        return self.member.sampler.blocks(self.w_D, self.member.step + done, steps, drawn_D)
