"""The token store and the sampler: a batch is a pure function of (seed, step, mixtures so far).

Rows are windows of `sequence + 1` tokens at stride `sequence` over a domain's shards: blocks. They are numbered through
the shards of a domain and through the domains of the manifest, so that one number says where a row is. Two questions
are answered without any state.

*How many rows of each domain does a step hold?* Row k of step t sits at the quantile (k + v_t) / B of the mixture's
cumulative proportions, where v_t is a Weyl sequence started by the seed: systematic sampling within a step, equidistributed
over steps. Realised proportions miss the intended ones by a few rows of the whole run, and runs of equal seed see
the same stream wherever their mixtures agree (common random numbers).

*Which block is the j-th draw from a domain?* Of the domain's blocks a keyed permutation picks `supply` ones; epoch
j // supply reads them in the order of a permutation of its own, so none returns before all were read.

Shapes: D domains, T steps, B batch rows, S sequence, N rows in any arrangement.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mixopt.domains import Domain, Manifest, Shard
from mixopt.errors import DataError
from mixopt.mixture import FloatArray
from proxies.windows import window

IntArray = NDArray[np.int64]
WordArray = NDArray[np.uint64]
Rows = NDArray[np.integer]
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
HALF = np.uint64(32)
ROUNDS = 6  # four favour some positions of domains below a hundred blocks by up to 12 %, six by less than 6
OPEN_SHARDS = 400  # mapped at once, each a file or two: a process may have 1024 open


class TokenStore:
    """The blocks of a manifest, read through memory maps. Opening one costs nothing, whatever it holds."""

    def __init__(self, manifest: Manifest, sequence: int) -> None:
        self.manifest, self.sequence = manifest, sequence
        self.dtype = np.dtype(f"<u{manifest.token_bytes}")
        self._splits = {split: _Split(manifest, split, sequence) for split in ("train", "valid")}
        self._window = lru_cache(OPEN_SHARDS)(lambda shard: window(manifest.root, shard, self.dtype, sequence))

    def blocks(self, name: str, split: str = "train") -> int:
        """Number of blocks of a domain's "train" or "valid" split."""
        return self._splits[split].count[name]

    def first(self, name: str, split: str = "train") -> int:
        """The domain's first block; its others follow."""
        return self._splits[split].first[name]

    def shards(self, split: str = "train") -> list[tuple[int, Shard]]:
        """The first block of every shard that has one, in order, and the shard."""
        own = self._splits[split]
        return list(zip(own.starts[:-1].tolist(), own.shards, strict=True))

    def gather(self, blocks: IntArray, split: str = "train", dtype: DTypeLike = np.int64) -> Rows:
        """The rows [N, S + 1] of these block numbers [N], whatever their domains and shards.

        Raises IndexError for a number that no block has.
        """
        own, flat = self._splits[split], blocks.ravel()
        rows = np.empty((len(flat), self.sequence + 1), dtype)
        order = np.argsort(flat)
        cuts = np.searchsorted(flat, own.starts, sorter=order)
        if cuts[-1] - cuts[0] != len(flat):
            raise IndexError(f"blocks are numbered from 0 to {own.starts[-1] - 1} (got {flat.min()} to {flat.max()}).")
        for i in np.flatnonzero(np.diff(cuts)):
            mine = order[cuts[i] : cuts[i + 1]]
            rows[mine] = self._window(own.shards[i]).rows(flat[mine] - own.starts[i])
        return rows.reshape(*blocks.shape, self.sequence + 1)

    def held_out(self, name: str, tokens: int) -> Rows:
        """Up to `tokens` held-out tokens as rows [N, S + 1], spread over the split, the same for every run."""
        have = self.blocks(name, "valid")
        wanted = min(have, max(1, tokens // self.sequence))
        blocks = np.sort(permute(np.arange(wanted), have, key(0, name, "held out")))
        return self.gather(self.first(name, "valid") + blocks, "valid")

    def read(self, shard: Shard, start: int, stop: int) -> Rows:
        """Tokens start to stop of a shard, as wide as those of the store; on disk until they are used where they can be."""
        return self._window(shard).read(start, stop).astype(self.dtype, copy=False)


class _Split:
    """Where the blocks of one split are: shards with their first blocks (and the end), domains likewise."""

    def __init__(self, manifest: Manifest, split: str, sequence: int) -> None:
        shards = {d.name: [s for s in getattr(d, split).shards if _blocks(s, sequence)] for d in manifest.domains}
        self.shards = [shard for own in shards.values() for shard in own]
        self.starts = np.cumsum([0, *(_blocks(shard, sequence) for shard in self.shards)])
        self.count = {name: sum(_blocks(shard, sequence) for shard in own) for name, own in shards.items()}
        firsts = np.cumsum([0, *self.count.values()]).tolist()
        self.first = dict(zip(self.count, firsts, strict=False))


def _blocks(shard: Shard, sequence: int) -> int:
    return max(0, (shard.tokens - 1) // sequence)


class Sampler:
    """Which rows a run of this seed reads."""

    def __init__(self, store: TokenStore, names: Sequence[str], supply: Sequence[int], batch: int, seed: int) -> None:
        self.store, self.names, self.batch, self.seed = store, tuple(names), batch, seed
        self.blocks_D = np.array([store.blocks(name) for name in names])
        self.supply_D = np.minimum(np.array(supply), self.blocks_D)
        self._first_D = np.array([store.first(name) for name in names])
        self._supply_D = np.array([key(seed, name, "supply") for name in names])
        self._epoch_D = np.array([key(seed, name, "epoch") for name in names])
        self._start = key(seed, "", "batch")

    def counts(self, w_D: FloatArray, first: int, steps: int) -> IntArray:
        """Rows [T, D] of each domain in steps first, first + 1, ..."""
        t_T = np.arange(first, first + steps, dtype=np.uint64)
        v_T = (self._start + t_T * GOLDEN).astype(np.float64) / 2.0**64
        cumulative_D = np.cumsum(w_D)
        cumulative_D[np.flatnonzero(w_D)[-1] :] = 1.0
        below_TD = np.ceil(self.batch * cumulative_D[:-1] - v_T[:, None]).clip(0, self.batch)
        return np.diff(below_TD, prepend=0, append=self.batch).astype(np.int64)

    def drawn(self, segments: Sequence[tuple[FloatArray, int]]) -> IntArray:
        """Rows [D] drawn after a history of (mixture [D], steps): all there is to know to go on from any step."""
        total_D = np.zeros(len(self.names), dtype=np.int64)
        first = 0
        for w_D, steps in segments:
            for start in range(first, first + steps, 4096):
                total_D += self.counts(w_D, start, min(4096, first + steps - start)).sum(0)
            first += steps
        return total_D

    def blocks(self, w_D: FloatArray, first: int, steps: int, drawn_D: IntArray) -> tuple[IntArray, IntArray]:
        """Block numbers [T, B] of these steps, sorted by domain within each, and the rows drawn [D] after them."""
        counts_TD = self.counts(w_D, first, steps)
        before_TD = drawn_D + np.cumsum(counts_TD, axis=0) - counts_TD  # draws of the domain before this step
        row_TD = np.cumsum(counts_TD).reshape(counts_TD.shape) - counts_TD  # the domain's first row in this step
        domains = np.repeat(np.tile(np.arange(len(self.names)), steps), counts_TD.ravel())
        draws = np.arange(len(domains)) + np.repeat((before_TD - row_TD).ravel(), counts_TD.ravel())
        return self.block(domains, draws).reshape(steps, self.batch), drawn_D + counts_TD.sum(0)

    def rows(self, w_D: FloatArray, first: int, steps: int, drawn_D: IntArray) -> tuple[Rows, IntArray]:
        """Token rows [T, B, S + 1] of these steps, and the rows drawn [D] after them."""
        blocks, drawn_D = self.blocks(w_D, first, steps, drawn_D)
        return self.store.gather(blocks), drawn_D

    def block(self, domains: IntArray, draws: IntArray) -> IntArray:
        """Block numbers [N] of these draws [N] from the domains of these numbers [N]."""
        supply = self.supply_D[domains]
        epoch, position = np.divmod(draws, supply)
        chosen = permute(position, supply, _mix(self._epoch_D[domains] + epoch.astype(np.uint64)))
        return self._first_D[domains] + permute(chosen, self.blocks_D[domains], self._supply_D[domains])

    def coming(self, drawn_D: IntArray, count: int) -> IntArray:
        """Block numbers [D, count] of the next draws from every domain; they stay to be drawn."""
        draws_DN = drawn_D[:, None] + np.arange(count)
        return self.block(np.repeat(np.arange(len(self.names)), count), draws_DN.ravel()).reshape(draws_DN.shape)

    def domains(self, blocks: IntArray) -> IntArray:
        """The numbers of the domains to which these blocks belong."""
        order = np.argsort(self._first_D)
        return order[np.searchsorted(self._first_D[order], blocks, side="right") - 1]

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


def permute(index: IntArray, size: int | IntArray, keys: np.uint64 | WordArray) -> IntArray:
    """Images [N] of positions [N] under the permutations of range(size) that keys stand for, in constant memory.

    A Feistel network over range(high) x range(low), a near-square that holds range(size) with less than one line to
    spare, walked until the value falls inside. Each round reads a stretch of its own of the key's SplitMix64 sequence.
    Source: Black and Rogaway 2002, Ciphers with Arbitrary Finite Domains.
    """
    value: WordArray
    end: WordArray
    value, end, keys = np.broadcast_arrays(index.astype(np.uint64), np.asarray(size, np.uint64), keys)
    low = np.ceil(np.sqrt(end)).astype(np.uint64)
    high = (end + low - np.uint64(1)) // low
    image = _feistel(value, high, low, keys)
    while len(outside := np.flatnonzero(image >= end)):
        image[outside] = _feistel(image[outside], high[outside], low[outside], keys[outside])
    return image.astype(np.int64)


def _feistel(value: WordArray, high: WordArray, low: WordArray, keys: WordArray) -> WordArray:
    left, right = np.divmod(value, low)
    for _ in range(ROUNDS // 2):
        keys = keys + GOLDEN
        left = _shift(left, keys + right, high)
        keys = keys + GOLDEN
        right = _shift(right, keys + left, low)
    return left * low + right


def _shift(value: WordArray, word: WordArray, size: WordArray) -> WordArray:
    """The value moved on by a step in range(size) that the word decides, around the end of range(size)."""
    moved = value + ((_mix(word) >> HALF) * size >> HALF)
    return np.minimum(moved, moved - size)  # the difference wraps around to a large number where moved < size


def _mix(x: WordArray) -> WordArray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the result depends on every bit of x."""
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


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
