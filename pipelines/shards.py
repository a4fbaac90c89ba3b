"""Token files as they are written for the store, and work that is done ahead in other threads."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mixopt.domains import Shard, Split
from pipelines.tokenizer import TokenArray

SHARD_TOKENS = 1 << 28
THREADS = min(4, os.cpu_count() or 1)  # one more reads, which takes a sixth of the time that encoding takes

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Shards:
    """One side of a domain as it is written: its token files, counts, and a running hash of the tokens."""

    root: Path
    stem: str
    suffix: str
    split: Split = field(default_factory=Split)
    digest: Any = field(default_factory=hashlib.sha256)

    def append(self, ids: TokenArray, documents: int, size: int) -> None:
        """Write whole documents of `size` bytes of text to the last shard, or to a new one where they would not fit."""
        *full, last = self.split.shards or (Shard(f"{self.stem}-00000.{self.suffix}", 0),)
        if last.tokens and last.tokens + len(ids) > SHARD_TOKENS:
            full, last = [*full, last], Shard(f"{self.stem}-{len(full) + 1:05d}.{self.suffix}", 0)
        with (self.root / last.path).open("ab") as f:
            f.write(ids.tobytes())
        self.digest.update(ids)
        self.split = Split(
            self.split.tokens + len(ids),
            self.split.bytes + size,
            self.split.documents + documents,
            (*full, replace(last, tokens=last.tokens + len(ids))),
        )


def ahead(pool: ThreadPoolExecutor, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`act` on every item in other threads, the results in order; as many items ahead as there are threads."""
    flying: deque[Future[R]] = deque()
    for item in items:
        flying.append(pool.submit(act, item))
        if len(flying) > THREADS:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()
