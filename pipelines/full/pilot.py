"""Steers a full run: which mixture comes next, what the policy hears, what is written down. Every worker has one, all alike.

Losses of training rows stay on the device until they are needed, then they are added up by domain over all workers: the
same sums everywhere, hence the same proportions. All that a restart needs is in `state`, which goes into checkpoints.

Shapes: D domains, N rows of this worker.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from mixopt.errors import RunFailed
from mixopt.mixture import FloatArray, Mixture
from mixopt.policy import Feedback, Signal, Valid, asked, plain
from pipelines.full.course import Course
from pipelines.full.derived import mfu
from pipelines.full.evaluate import HeldOut, RowLosses
from pipelines.full.events import Events
from pipelines.full.ranks import Ranks
from pipelines.full.stream import Batch, Stream
from proxies.tokens import IntArray


@dataclass(frozen=True)
class Heard:
    """A step as one worker knows it: losses [N] of its rows on the device, what was drawn, and the learning rate."""

    losses_N: Tensor
    batch: Batch
    learning_rate: float


@dataclass
class Tally:
    """Sums [D] of row losses and their numbers [D], in the order in which steps were trained."""

    rows_D: IntArray
    sums_D: FloatArray

    @classmethod
    def none(cls, domains: int) -> Tally:
        """Nothing yet."""
        return cls(np.zeros(domains, dtype=np.int64), np.zeros(domains))

    def add(self, rows_D: IntArray, sums_D: FloatArray) -> None:
        """One more step."""
        self.rows_D, self.sums_D = self.rows_D + rows_D, self.sums_D + sums_D

    @property
    def mean_D(self) -> FloatArray:
        """Means [D]; NaN for a domain without rows."""
        return np.divide(self.sums_D, self.rows_D, out=np.full(len(self.rows_D), np.nan), where=self.rows_D > 0)

    def to_json(self) -> list[list[Any]]:
        """Plain data."""
        return [self.rows_D.tolist(), self.sums_D.tolist()]

    @classmethod
    def of(cls, body: list[list[Any]]) -> Tally:
        """What `to_json` made this of."""
        return cls(np.array(body[0], dtype=np.int64), np.array(body[1], dtype=float))


@dataclass
class Pilot:
    """Where the run is. `row_losses` evaluates the model; `hold` steps stay unread at most; `peak` is a device's FLOP/s."""

    course: Course
    stream: Stream
    events: Events
    ranks: Ranks
    held_out: HeldOut
    row_losses: RowLosses
    hold: int = 1
    peak: float | None = None
    step: int = 0
    policy: Any = None
    trace: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    trajectory: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    seconds: float = 0.0
    unread: list[Heard] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing measured yet."""
        self.segment_tally, self.line_tally = Tally.none(self.domains), Tally.none(self.domains)
        self.since, self.waited = time.perf_counter(), 0.0
        self.speed: dict[str, float | None] = {}

    @property
    def domains(self) -> int:
        """Their number."""
        return len(self.course.names)

    @property
    def tokens(self) -> int:
        """Tokens trained so far."""
        return self.step * self.course.step_tokens

    def begin(self) -> None:
        """Before the first step."""
        self.events.cut(0, None)
        self._start(resumed=False)
        valid = [signal for signal in self.course.feed.needs if isinstance(signal, Valid)]
        told = {signal.name: self._valid(signal.part) for signal in valid}
        self.policy = self.course.feed.init(self.course.names, self._feedback(told))
        self._enter()
        self.since = time.perf_counter()

    def resume(self) -> None:
        """After a checkpoint was loaded: `load` has heard what it says."""
        saved = {"kind": "checkpoint", "step": self.step, "tokens": self.tokens, "path": self._path(self.step)}
        self.events.cut(self.step, saved)
        self._start(resumed=True)
        self.since = time.perf_counter()

    def hear(self, losses_N: Tensor, batch: Batch, learning_rate: float) -> None:
        """A step was trained. Where something is due it is done here: lines, held-out losses, the policy's next word."""
        self.unread.append(Heard(losses_N, batch, learning_rate))
        self.step += 1
        last, ends = self.step == self.course.steps, self.step == self.stream.until
        every, full = self.course.every, self.course.full
        valid = last or self.step % every(full.valid_every) == 0
        saves = self.step % every(full.checkpoint.every) == 0
        if not (last or ends or valid or saves or len(self.unread) >= self.hold):
            return
        self._read()
        whole = self._measure() if valid else None
        if ends:
            self._turn(whole, last)
        if valid or ends:
            self.seconds += time.perf_counter() - self.since
            self.since = time.perf_counter()  # the next lines tell the speed of training, not of this

    def saved(self, step: int) -> None:
        """A checkpoint is complete."""
        self.events.append("checkpoint", step, step * self.course.step_tokens, {"path": self._path(step)})

    def settle(self) -> None:
        """Leave nothing unread: a checkpoint is about to be made. All workers must call."""
        if self.unread:
            self._read()

    def state(self) -> dict[str, Any]:
        """Plain data from which `load` goes on."""
        return {
            "step": self.step,
            "policy": plain(self.policy),
            "segment": self.segment_tally.to_json(),
            "line": self.line_tally.to_json(),
            "trace": self.trace,
            "trajectory": self.trajectory,
            "seconds": self.seconds,
        }

    def load(self, body: Mapping[str, Any]) -> None:
        """Go to where `state` was taken; the stream is there already."""
        self.step, self.seconds = body["step"], body["seconds"]
        self.policy = self.course.feed.load(body["policy"])
        self.segment_tally, self.line_tally = Tally.of(body["segment"]), Tally.of(body["line"])
        self.trace = [(at, dict(mixture)) for at, mixture in body["trace"]]
        self.trajectory = [(at, dict(metrics)) for at, metrics in body["trajectory"]]
        self.asked = self._asked()

    def record(self) -> dict[str, Any]:
        """What the finished run leaves behind, but for the machine."""
        course = self.course
        tokens_D = self.stream.drawn_D * course.sequence
        drawn = {name: int(n) for name, n in zip(course.names, tokens_D, strict=True)}
        supply = course.sampler.supply_D * course.sequence
        return {
            "schema": "mixopt.full/v1",
            "mixture_id": course.mixture_id,
            "model": course.full.model,
            "parameters": course.parameters,
            "tokens": self.tokens,
            "metrics": dict(self.trajectory[-1][1]),
            "trajectory": [[at, dict(metrics)] for at, metrics in self.trajectory],
            "trace": [[at, mixture] for at, mixture in self.trace],
            "drawn": drawn,
            "epochs": {name: drawn[name] / int(n) for name, n in zip(course.names, supply, strict=True)},
            "state": plain(self.policy),
            "seconds": self.seconds,
        }

    def _path(self, step: int) -> str:
        """Of a checkpoint, relative to the run's folder where it is in there."""
        path, folder = self.course.checkpoints / f"step{step}", self.course.folder.absolute()
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def _start(self, *, resumed: bool) -> None:
        course = self.course
        rest = {
            "target_tokens": course.tokens,
            "domains": list(course.names),
            "model": course.full.model,
            "parameters": course.parameters,
            "world_size": self.ranks.world,
            "batch_tokens": course.step_tokens,
            "flops_per_token": course.flops_per_token,
            "peak_flops": self.peak,
            "resumed": resumed,
        }
        self.events.append("start", self.step, self.tokens, rest)

    def _enter(self) -> None:
        """Read the policy's segment: at least one step long, at most to the end."""
        segment = self.course.feed.segment(self.policy)
        length = max(1, round(segment.tokens / self.course.step_tokens))
        mixture = Mixture.from_array(self.course.names, segment.mixture.array(self.course.names))
        self.stream.follow(mixture.array(self.course.names), min(length, self.course.steps - self.step))
        self.segment_tally = Tally.none(self.domains)
        if not self.trace or self.trace[-1][1] != dict(mixture):
            self.trace.append((self.tokens, dict(mixture)))
        self.asked = self._asked()

    def _asked(self) -> frozenset[Signal]:
        return asked(self.course.feed, self.policy, last=self.stream.until == self.course.steps)

    def _turn(self, whole_D: FloatArray | None, last: bool) -> None:
        """End the segment: tell the policy what was measured, and go on with what it says."""
        told = {}
        for signal in sorted(self.asked, key=repr):
            if isinstance(signal, Valid):
                known = whole_D if signal.part == 1 else None
                told[signal.name] = self._valid(signal.part) if known is None else known
            else:
                told[signal.name] = self.segment_tally.mean_D
        self.policy = self.course.feed.update(self.policy, self._feedback(told))
        self.ranks.agree(plain(self.policy), f"the policy's state after step {self.step}")
        if not last:
            self._enter()

    def _feedback(self, told: Mapping[str, FloatArray]) -> Feedback:
        return Feedback(self.tokens, self.course.tokens, told, self.course.step_tokens)

    def _valid(self, part: float) -> FloatArray:
        losses_D = self.held_out.losses_D(self.row_losses, part)
        self._refuse_unbounded(losses_D, "held-out loss", self.step)
        return losses_D

    def _measure(self) -> FloatArray:
        """Held-out losses [D] at this point of the run, written down."""
        losses_D = self._valid(1.0)
        metrics = self.held_out.metrics(losses_D)
        self.trajectory.append((self.tokens, metrics))
        self.events.append("valid", self.step, self.tokens, {"metrics": metrics})
        return losses_D

    def _read(self) -> None:
        """Take the losses of the unread steps from the device, add them up over all workers, and write lines."""
        sums_TD = np.zeros((len(self.unread), self.domains))
        for sums_D, heard in zip(sums_TD, self.unread, strict=True):
            np.add.at(sums_D, heard.batch.domains_N, heard.losses_N.double().cpu().numpy())
        sums_TD = self.ranks.total(sums_TD)
        self._clock(len(self.unread))
        first = self.step - len(self.unread) + 1
        for step, sums_D, heard in zip(range(first, self.step + 1), sums_TD, self.unread, strict=True):
            self._refuse_unbounded(sums_D, "training loss", step)
            self.segment_tally.add(heard.batch.counts_D, sums_D)
            self.line_tally.add(heard.batch.counts_D, sums_D)
            if step % (self.course.full.log_every or 1) == 0 or step == self.course.steps:
                self._line(step, heard)
        self.unread = []

    def _clock(self, steps: int) -> None:
        """Speed since the last look; the device has just been waited for."""
        now = time.perf_counter()
        took, self.since = now - self.since, now
        self.seconds += took
        speed = steps * self.course.step_tokens / took
        share = min(1.0, (self.stream.waited - self.waited) / took)
        self.waited = self.stream.waited
        self.speed = {
            "tokens_per_second": speed,
            "mfu": mfu(speed, self.course.flops_per_token, self.peak, self.ranks.world),
            "data_share": share,
        }

    def _line(self, step: int, heard: Heard) -> None:
        names, tally = self.course.names, self.line_tally
        means = {name: loss for name, loss in zip(names, tally.mean_D.tolist(), strict=True) if np.isfinite(loss)}
        drawn = heard.batch.drawn_D * self.course.sequence
        rest = {
            "loss": float(tally.sums_D.sum() / tally.rows_D.sum()),
            "domains": means,
            "proportions": self.trace[-1][1],
            "drawn": {name: int(n) for name, n in zip(names, drawn, strict=True)},
            "learning_rate": heard.learning_rate,
        }
        self.events.append("step", step, step * self.course.step_tokens, rest | self.speed)
        self.line_tally = Tally.none(self.domains)

    def _refuse_unbounded(self, losses_D: FloatArray, what: str, step: int) -> None:
        if not np.isfinite(losses_D).all():
            bad = ", ".join(n for n, x in zip(self.course.names, losses_D, strict=True) if not np.isfinite(x))
            raise RunFailed(
                f"{what} of {bad} is not finite at step {step} of {self.course.steps}. The checkpoints before it are kept; "
                "a lower learning_rate or more warmup helps (move RUN_DIR/full away to begin anew)."
            )
