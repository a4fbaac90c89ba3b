"""One side of a domain as it becomes part of the store, folders that are complete or not there, work done ahead."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from mixopt.domains import Domain, Shard, Split, Tokenizer
from pipelines.tokenizer import TokenArray

SHARD_TOKENS = 1 << 28
THREADS = min(4, os.cpu_count() or 1)  # one more reads, which takes a sixth of the time that encoding takes

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Shards:
    """One side of a domain: its token files, counts, and a running hash of the tokens."""

    root: Path
    stem: str
    suffix: str
    split: Split = field(default_factory=Split)
    digest: Any = field(default_factory=hashlib.sha256)

    @classmethod
    def sides(cls, root: Path, name: str, tokenizer: Tokenizer) -> tuple[Shards, Shards]:
        """Both sides of a domain, training and held out, in a new folder of its own."""
        suffix = "u16" if tokenizer.vocabulary <= 1 << 16 else "u32"
        (root / name).mkdir()
        return cls(root, f"{name}/train", suffix), cls(root, f"{name}/valid", suffix)

    def append(self, ids: TokenArray, documents: int, size: int) -> None:
        """Write whole documents of `size` bytes of text to the last shard, or to a new one where they would not fit."""
        *full, last = self.split.shards or (Shard(f"{self.stem}-00000.{self.suffix}", 0),)
        if last.tokens and last.tokens + len(ids) > SHARD_TOKENS:
            full, last = [*full, last], Shard(f"{self.stem}-{len(full) + 1:05d}.{self.suffix}", 0)
        with (self.root / last.path).open("ab") as f:
            f.write(ids.tobytes())
        self.count(ids, documents, size)
        self.split = replace(self.split, shards=(*full, replace(last, tokens=last.tokens + len(ids))))

    def count(self, ids: TokenArray, documents: int, size: int) -> None:
        """Take documents of `size` bytes of text into account, wherever they lie."""
        self.digest.update(ids)
        own = self.split
        self.split = Split(own.tokens + len(ids), own.bytes + size, own.documents + documents, own.shards)

    def refer(self, shard: Shard) -> None:
        """Add a shard whose tokens were counted and lie elsewhere."""
        self.split = replace(self.split, shards=(*self.split.shards, shard))


def domain_of(name: str, sources: tuple[str, ...], tokenizer: Tokenizer, train: Shards, valid: Shards) -> Domain:
    """The domain that these two sides are; its fingerprint changes with tokens, bytes and tokenizer."""
    sides = [f"{side.digest.hexdigest()} {side.split.bytes}" for side in (train, valid)]  # BPB divides by the bytes
    text = "\n".join([tokenizer.fingerprint, *sides])
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Domain(name, train.split.tokens, train.split, valid.split, fingerprint, sources)


def ahead(pool: ThreadPoolExecutor, act: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`act` on every item in other threads, the results in order; as many items ahead as there are threads."""
    flying: deque[Future[R]] = deque()
    for item in items:
        flying.append(pool.submit(act, item))
        if len(flying) > THREADS:
            yield flying.popleft().result()
    while flying:
        yield flying.popleft().result()


def publish(folder: Path, build: Callable[[Path], None]) -> None:
    """Build under another name and rename; first remove what a killed process left there."""
    out = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    try:
        build(out)
        for path in (path for path in out.rglob("*") if path.is_file()):
            with path.open("rb") as f:
                os.fsync(f.fileno())
        shutil.rmtree(folder, ignore_errors=True)  # without its manifest it is of no use
        out.rename(folder)
    finally:
        shutil.rmtree(out, ignore_errors=True)
