"""Rows of a token store as tensors on a device, from tokens that live there or from the host.

An accelerator reads rows faster than a host can send them. Where the training tokens fit into a part of its memory they
are uploaded once, as wide as on disk, and a batch costs the upload of its block numbers. Where they do not fit, rows are
gathered on the host and copied from pinned memory, as wide as on disk too. Rows are the same either way.

Shapes: S sequence, N rows in any arrangement.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from proxies.tokens import IntArray, TokenStore

SHARE = 0.5  # of a device's free memory that tokens may take
PIECE = 1 << 26  # tokens uploaded at once
SIGNED = {2: np.dtype("<i2"), 4: np.dtype("<i4")}  # torch computes with signed integers


class Gather(Protocol):
    """Where a stack's rows come from."""

    def gather(self, blocks: IntArray) -> Tensor:
        """Token rows [N, S + 1] of these training blocks [N], int64, on the device."""


class Resident:
    """All training tokens in the device's memory."""

    def __init__(self, store: TokenStore, device: str) -> None:
        self.device, self._sequence = device, store.sequence
        shards = store.shards()
        self._firsts = np.array([first for first, _ in shards])
        starts = np.cumsum([0, *(shard.tokens for _, shard in shards)])
        self._shift = starts[:-1] - self._firsts * store.sequence  # a block's first token is at block * S + shift
        flat = torch.empty(int(starts[-1]), dtype=_dtype(store), device=device)
        for start, (_, shard) in zip(starts[:-1].tolist(), shards, strict=True):
            for at in range(0, shard.tokens, PIECE):
                piece = np.array(store.read(shard, at, at + PIECE))
                flat[start + at : start + at + len(piece)] = _signed(piece)
        self._windows = flat.as_strided((max(0, len(flat) - store.sequence), store.sequence + 1), (1, 1))

    def gather(self, blocks: IntArray) -> Tensor:
        """Token rows [N, S + 1] of these training blocks [N], int64, on the device."""
        flat = blocks.ravel()
        starts = flat * self._sequence + self._shift[np.searchsorted(self._firsts, flat, side="right") - 1]
        rows = self._windows.index_select(0, _sent(torch.from_numpy(starts), self.device))
        return _widened(rows).view(*blocks.shape, self._sequence + 1)


class Streamed:
    """Training tokens that stay in files: rows are gathered on the host and copied to the device."""

    def __init__(self, store: TokenStore, device: str) -> None:
        self.device, self._store = device, store

    def gather(self, blocks: IntArray) -> Tensor:
        """Token rows [N, S + 1] of these training blocks [N], int64, on the device."""
        if self.device == "cpu":
            return torch.from_numpy(self._store.gather(blocks))
        rows = _signed(self._store.gather(blocks, dtype=self._store.dtype))
        return _widened(_sent(rows, self.device))


def placed(store: TokenStore, device: str) -> Gather:
    """The rows of a store on a device: resident where they fit. A host has them mapped and needs no copy."""
    if device == "cpu":
        return Streamed(store, device)
    free, _ = torch.cuda.mem_get_info(device)  # before any stack is there
    return Resident(store, device) if fits(store, free) else Streamed(store, device)


def fits(store: TokenStore, free: int) -> bool:
    """Whether the training tokens take at most their share of so many free bytes."""
    return sum(shard.tokens for _, shard in store.shards()) * store.dtype.itemsize <= SHARE * free


def _dtype(store: TokenStore) -> torch.dtype:
    return torch.int16 if store.dtype.itemsize == 2 else torch.int32


def _signed(tokens: np.ndarray) -> Tensor:
    """The same bits as integers that torch moves about; `_widened` makes them token ids again."""
    return torch.from_numpy(tokens.view(SIGNED[tokens.itemsize]))


def _widened(rows: Tensor) -> Tensor:
    """Token ids as int64: the bits of 16-bit ones are unsigned, no vocabulary needs the sign of 32-bit ones."""
    return rows.long() & 0xFFFF if rows.dtype == torch.int16 else rows.long()


def _sent(values: Tensor, device: str) -> Tensor:
    """Values of the host on the device, without waiting for the copy."""
    return values if device == "cpu" else values.pin_memory().to(device, non_blocking=True)
