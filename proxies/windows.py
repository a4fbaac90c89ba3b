"""The rows of one token shard, read through a memory map: of a whole file, or of some stretches of one.

Row b of a shard are its tokens b * S to b * S + S. Where a shard is a file without its held-out documents, most rows lie
in one stretch and are read as those of a whole file are; the others are put together from several.

Shapes: N rows, S sequence, R stretches.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mixopt.domains import Shard
from mixopt.errors import DataError

IntArray = NDArray[np.int64]
Rows = NDArray[np.integer]


class Window(Protocol):
    """A shard's tokens, as if they were one array."""

    def rows(self, blocks_N: IntArray) -> Rows:
        """The rows [N, S + 1] of these numbers, which must be there."""

    def read(self, start: int, stop: int) -> Rows:
        """Tokens start to stop."""


class Whole:
    """A shard that is all of a file after its header."""

    def __init__(self, flat: Rows, sequence: int) -> None:
        self._flat, self._sequence = flat, sequence
        self._windows = sliding(flat, sequence + 1)[::sequence]

    def rows(self, blocks_N: IntArray) -> Rows:
        """The rows [N, S + 1] of these numbers."""
        return self._windows[blocks_N]

    def read(self, start: int, stop: int) -> Rows:
        """Tokens start to stop: nothing is copied."""
        return self._flat[start:stop]


class Stretches:
    """A shard that is some stretches of a file. `runs` [2, R + 1] is as `Shard` says."""

    def __init__(self, flat: Rows, runs: IntArray, sequence: int) -> None:
        self._flat, self._sequence = flat, sequence
        self._before, self._begins = runs
        self._windows = sliding(flat, sequence + 1)

    def rows(self, blocks_N: IntArray) -> Rows:
        """The rows [N, S + 1] of these numbers."""
        at_N = blocks_N * self._sequence
        run_N, last_N = self._run(at_N), self._run(at_N + self._sequence)
        rows = np.empty((len(at_N), self._sequence + 1), self._flat.dtype)
        inside = run_N == last_N
        own_N = run_N[inside]
        rows[inside] = self._windows[self._begins[own_N] + at_N[inside] - self._before[own_N]]
        for n in np.flatnonzero(~inside):
            rows[n] = self.read(int(at_N[n]), int(at_N[n]) + self._sequence + 1)
        return rows

    def read(self, start: int, stop: int) -> Rows:
        """Tokens start to stop, put together from their stretches."""
        stop = min(stop, int(self._before[-1]))
        if start >= stop:
            return self._flat[:0]
        parts = []
        for run in range(int(self._run(np.int64(start))), int(self._run(np.int64(stop - 1))) + 1):
            first, end = max(start, int(self._before[run])), min(stop, int(self._before[run + 1]))
            begin = int(self._begins[run]) - int(self._before[run])
            parts.append(self._flat[begin + first : begin + end])
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _run(self, at: IntArray | np.int64) -> IntArray:
        return np.searchsorted(self._before, at, side="right") - 1


def window(root: Path, shard: Shard, dtype: np.dtype, sequence: int) -> Window:
    """The rows of a shard of the manifest in `root`, whose own shards have ids of `dtype`.

    Raises DataError for a file that is shorter than it was when the text was prepared.
    """
    path, runs = root / shard.path, None
    if shard.runs:
        runs = np.memmap(root / shard.runs, dtype="<i8", mode="r").view(np.ndarray).reshape(2, -1)
    own = np.dtype(shard.dtype or dtype)
    need = shard.tokens if runs is None else int((runs[1, :-1] + np.diff(runs[0])).max())
    have = (path.stat().st_size - shard.offset) // own.itemsize
    if have < need:
        raise DataError(
            f"{path}: holds {max(0, have):,} tokens, {need:,} were there when the text was prepared. "
            "Put the file back, or prepare again."
        )
    flat = np.memmap(path, own, "r", shard.offset, (need,)).view(np.ndarray)
    return Whole(flat, sequence) if runs is None else Stretches(flat, runs, sequence)


def sliding(flat: Rows, width: int) -> Rows:
    """A view [starts, width] of every stretch of so many tokens; nothing is copied."""
    shape, step = (max(0, len(flat) - width + 1), width), flat.strides[0]
    return np.lib.stride_tricks.as_strided(flat, shape, (step, step), writeable=False)
