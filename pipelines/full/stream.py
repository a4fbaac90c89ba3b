"""The rows of a full run, step after step, as one worker reads them.

The global batch of step t is what the sampler draws for it: a pure function of the seed, t and the mixtures so far. Each
of W workers reads the rows r, r + W, r + 2 W, ... of it, so that another number of workers goes on with the same batches.
The next batch is read while the present one trains, as far as the mixture is known: to the end of the segment.

Shapes: D domains, B rows of a step, N rows of this worker, S sequence.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.mixture import FloatArray
from proxies.tokens import IntArray, Rows, Sampler


@dataclass(frozen=True)
class Batch:
    """This worker's rows [N, S + 1] and the numbers of their domains [N]; rows [D] of the whole step, drawn [D] after it."""

    rows: Rows
    domains_N: IntArray
    counts_D: IntArray
    drawn_D: IntArray


class Stream:
    """Batches of worker `rank` of `world`. `follow` says what comes next, `next` reads it."""

    def __init__(self, sampler: Sampler, rank: int = 0, world: int = 1) -> None:
        self.sampler, self.rank, self.world = sampler, rank, world
        self.history: list[tuple[tuple[float, ...], int]] = []
        self.step, self.until = 0, 0
        self.drawn_D: IntArray = np.zeros(len(sampler.names), dtype=np.int64)
        self.waited = 0.0  # seconds for rows that were not there yet
        self._pool = ThreadPoolExecutor(1, "rows")
        self._ahead: Future[Batch] | None = None

    def follow(self, w_D: FloatArray, steps: int) -> None:
        """Draw the next steps from this mixture [D]. The segment before must have ended."""
        if self.step != self.until:
            raise ValueError(f"the segment under way ends at step {self.until}, this is step {self.step}.")
        w = tuple(w_D.tolist())
        if self.history and self.history[-1][0] == w:
            steps_before = self.history.pop()[1]
            self.history.append((w, steps_before + steps))
        else:
            self.history.append((w, steps))
        self.until += steps

    def next(self) -> Batch:
        """The rows of the next step. Raises ValueError where nobody said which."""
        if self.step >= self.until:
            raise ValueError(f"nothing is known of step {self.step}: follow a mixture first.")
        began = time.perf_counter()
        batch = self._ahead.result() if self._ahead is not None else self._read(self.step, self.drawn_D)
        self.waited += time.perf_counter() - began
        self.step, self.drawn_D = self.step + 1, batch.drawn_D
        self._ahead = self._pool.submit(self._read, self.step, self.drawn_D) if self.step < self.until else None
        return batch

    def state(self) -> dict[str, Any]:
        """Plain data from which `load` goes on, in any number of workers."""
        return {"step": self.step, "history": [[list(w), steps] for w, steps in self.history]}

    def load(self, body: Mapping[str, Any]) -> None:
        """Go to where `state` was taken."""
        history: Sequence[Any] = body["history"]
        self.history = [(tuple(w), steps) for w, steps in history]
        self.until = sum(steps for _, steps in self.history)
        self.step = body["step"]
        past, left = [], self.step
        for w, steps in self.history:
            past.append((np.array(w), min(steps, left)))
            left -= past[-1][1]
        self.drawn_D = self.sampler.drawn(past)
        self._ahead = None

    def close(self) -> None:
        """Let go of the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _read(self, step: int, drawn_D: IntArray) -> Batch:
        w_D = np.array(self._mixture(step))
        blocks, after_D = self.sampler.blocks(w_D, step, 1, drawn_D)
        own = blocks[0, self.rank :: self.world]
        rows = self.sampler.store.gather(own)
        return Batch(rows, self.sampler.domains(own), after_D - drawn_D, after_D)

    def _mixture(self, step: int) -> tuple[float, ...]:
        """The mixture of a step of the last segments: looked for from the end, where it is."""
        begin = self.until
        for w, steps in reversed(self.history):
            begin -= steps
            if step >= begin:
                return w
        raise ValueError(f"no step {step}.")
