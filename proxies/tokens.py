"""The token store and the sampler: a batch is a pure function of (seed, step, mixtures so far).

Rows are windows of `sequence + 1` tokens at stride `sequence` over a domain's shards: blocks. Two questions are
answered without any state.

*How many rows of each domain does a step hold?* Row k of step t sits at the quantile (k + v_t) / B of the mixture's
cumulative proportions, where v_t is a Weyl sequence started by the seed: systematic sampling within a step, equidistributed
over steps. Realised proportions miss the intended ones by a few rows of the whole run, and runs of equal seed see
the same stream wherever their mixtures agree (common random numbers).

*Which block is the j-th draw from a domain?* Of the domain's blocks a keyed permutation picks `supply` ones; epoch
j // supply reads them in the order of a permutation of its own, so none returns before all were read.

Shapes: K stack, D domains, T steps, B batch rows, S sequence.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixopt.domains import Domain, Manifest
from mixopt.errors import DataError
from mixopt.mixture import FloatArray

IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
ROUNDS = 6


class TokenStore:
    """The blocks of every domain of a manifest, read through memory maps."""

    def __init__(self, manifest: Manifest, sequence: int) -> None:
        self.manifest = manifest
        self.sequence = sequence
        self._views: dict[tuple[str, str], list[NDArray[np.unsignedinteger]]] = {}

    def views(self, name: str, split: str) -> list[NDArray[np.unsignedinteger]]:
        """One strided view [blocks, S + 1] per shard of a domain's "train" or "valid" split; nothing is copied."""
        key = (name, split)
        if key not in self._views:
            width = self.manifest.token_bytes
            dtype = np.dtype(f"<u{width}")
            views = []
            for shard in getattr(self.manifest[name], split).shards:
                blocks = (shard.tokens - 1) // self.sequence
                if blocks > 0:
                    flat = np.memmap(self.manifest.root / shard.path, dtype=dtype, mode="r", shape=(shard.tokens,))
                    shape, strides = (blocks, self.sequence + 1), (self.sequence * width, width)
                    views.append(np.lib.stride_tricks.as_strided(flat, shape, strides, writeable=False))
            self._views[key] = views
        return self._views[key]

    def blocks(self, name: str, split: str = "train") -> int:
        """Number of blocks of a domain."""
        return sum(len(view) for view in self.views(name, split))

    def rows(self, name: str, blocks: IntArray, split: str = "train") -> NDArray[np.unsignedinteger]:
        """The rows [N, S + 1] of these block numbers [N]."""
        views = self.views(name, split)
        if len(views) == 1:
            return views[0][blocks]
        starts = np.cumsum([0] + [len(view) for view in views])
        rows = np.empty((len(blocks), self.sequence + 1), dtype=views[0].dtype)
        shard = np.searchsorted(starts, blocks, side="right") - 1
        for i, view in enumerate(views):
            rows[shard == i] = view[blocks[shard == i] - starts[i]]
        return rows

    def held_out(self, name: str, tokens: int) -> NDArray[np.int64]:
        """Up to `tokens` held-out tokens as rows [N, S + 1], spread over the split, the same for every run."""
        have = self.blocks(name, "valid")
        wanted = min(have, max(1, tokens // self.sequence))
        blocks = np.sort(permute(np.arange(wanted), have, key(0, name, "held out")))
        return self.rows(name, blocks, "valid").astype(np.int64)


class Sampler:
    """Which rows a run of this seed reads."""

    def __init__(self, store: TokenStore, names: Sequence[str], supply: Sequence[int], batch: int, seed: int) -> None:
        self.store, self.names, self.batch, self.seed = store, tuple(names), batch, seed
        self.supply_D = np.minimum(np.array(supply), [store.blocks(name) for name in names])
        self._start = key(seed, "", "batch")

    def domains(self, w_D: FloatArray, first: int, steps: int) -> IntArray:
        """Domain numbers [T, B] of the rows of steps first, first + 1, ...; sorted within a step."""
        t_T = np.arange(first, first + steps, dtype=np.uint64)
        v_T = (self._start + t_T * GOLDEN).astype(np.float64) / 2.0**64
        cumulative_D = np.cumsum(w_D)
        cumulative_D[-1:] = 1.0
        below_TD = np.ceil(self.batch * cumulative_D[None, :-1] - v_T[:, None])
        return (np.arange(self.batch)[None, :, None] >= below_TD[:, None, :]).sum(-1)

    def drawn(self, segments: Sequence[tuple[FloatArray, int]]) -> IntArray:
        """Rows [D] drawn after a history of (mixture [D], steps): all there is to know to go on from any step."""
        total_D = np.zeros(len(self.names), dtype=np.int64)
        first = 0
        for w_D, steps in segments:
            for start in range(first, first + steps, 4096):
                domains = self.domains(w_D, start, min(4096, first + steps - start))
                total_D += np.bincount(domains.ravel(), minlength=len(self.names))
            first += steps
        return total_D

    def rows(self, w_D: FloatArray, first: int, steps: int, drawn_D: IntArray) -> tuple[IntArray, IntArray]:
        """Token rows [T, B, S + 1] of these steps, and the rows drawn [D] after them."""
        domains = self.domains(w_D, first, steps).ravel()
        rows = np.empty((steps * self.batch, self.store.sequence + 1), dtype=np.int64)
        counts_D = np.bincount(domains, minlength=len(self.names))
        for d in np.flatnonzero(counts_D):
            draws = drawn_D[d] + np.arange(counts_D[d])
            rows[domains == d] = self.store.rows(self.names[d], self.block(int(d), draws))
        return rows.reshape(steps, self.batch, -1), drawn_D + counts_D

    def block(self, d: int, draws: IntArray) -> IntArray:
        """Block numbers [N] of the given draws [N] from domain number d."""
        name, supply = self.names[d], int(self.supply_D[d])
        epoch, position = np.divmod(draws, supply)
        chosen = np.empty_like(draws)
        for e in range(int(epoch[0]), int(epoch[-1]) + 1):
            now = epoch == e
            chosen[now] = permute(position[now], supply, key(self.seed, name, f"epoch {e}"))
        return permute(chosen, self.store.blocks(name), key(self.seed, name, "supply"))

    def unique(self, drawn_D: IntArray) -> IntArray:
        """Distinct rows [D] among the rows drawn [D]."""
        return np.minimum(drawn_D, self.supply_D)


def key(seed: int, name: str, purpose: str) -> np.uint64:
    """A 64-bit key for one purpose of one domain of one seed."""
    words = np.array([seed & 0xFFFFFFFF, zlib.crc32(name.encode()), zlib.crc32(purpose.encode())], dtype=np.uint64)
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _mix(state ^ word)
    return np.uint64(state[0])


def permute(index: IntArray, size: int, seed: np.uint64) -> IntArray:
    """Images [N] of these positions [N] under a keyed permutation of range(size), in constant memory.

    A balanced Feistel network over the next power of four, walked until the value falls inside range(size).
    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains (cycle walking).
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = _mix(seed + GOLDEN * np.arange(1, ROUNDS + 1, dtype=np.uint64))
    value = index.astype(np.uint64)
    outside = np.ones(len(value), dtype=bool)
    while outside.any():
        left, right = value[outside] >> half, value[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        value[outside] = (left << half) | right
        outside = value >= size
    return value.astype(np.int64)


def _mix(x: WordArray) -> WordArray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def supply_wanted(domain: Domain, tokens: int, target_tokens: int) -> float:
    """Unique tokens of a domain that a proxy of `tokens` needs to repeat it as the real run would.

    The real run reads a proportion p of a domain p * target_tokens / domain.tokens times, so the proxy needs
    domain.tokens * tokens / target_tokens. No run can draw more than `tokens`.
    """
    return min(float(tokens), domain.tokens * tokens / target_tokens)


def supply_tokens(wanted: float, blocks: int, sequence: int) -> int:
    """The nearest supply there is: whole rows, at least one, at most the domain's blocks."""
    return min(blocks, max(1, round(wanted / sequence))) * sequence


def check_lengths(manifest: Manifest, sequence: int, batch: int) -> None:
    """Raise DataError for domains with less text than one batch, or less held-out text than one row."""
    store = TokenStore(manifest, sequence)
    for domain in manifest.domains:
        for split, what, rows in (("train", "training", batch), ("valid", "held-out", 1)):
            if store.blocks(domain.name, split) < rows:
                raise DataError(
                    f"domain {domain.name!r}: {getattr(domain, split).tokens} {what} tokens are too few (proxies need "
                    f"{rows} x {sequence} + 1: rows x tokens). Add text or choose a smaller proxies.size or batch."
                )
