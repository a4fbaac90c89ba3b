"""Token files of others as a domain of the store: every id is checked, no text is tokenised, and ids stay where they lie.

Documents are held out as those of text are, by a hash of their ids, so a side of a file is the stretches of it between
documents of the other side; what lies together is one stretch. Ids that are not one after another (MDS) are copied.
Bytes of text, by which bits per byte are counted, are those that the tokenizer's ids stand for.

Shapes: T tokens of a stretch of documents, M documents, V ids of the vocabulary, R stretches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from mixopt.domains import Domain, Shard
from mixopt.errors import DataError
from pipelines.held_out import HeldOut, digest
from pipelines.shards import Shards, domain_of
from pipelines.token_files import Chunk, Given, Ids, IntArray
from pipelines.tokenizer import Encoder, TokenArray

RUNS = 1 << 20  # stretches of one shard: what a worker may have to search at once
SIDES = ("train", "valid", "dropped")


@dataclass(frozen=True)
class Adopted:
    """The token files of one domain. Without `valid` ones, documents are split off `train`."""

    name: str
    sources: tuple[str, ...]
    train: Sequence[Given]
    valid: Sequence[Given] = ()


@dataclass
class Stretches:
    """What belongs to one side of a file that stays where it is, written down as shards of the side."""

    shards: Shards
    given: Given
    begins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    def add(self, begins_R: IntArray, ends_R: IntArray) -> None:
        """Stretches of the file, in order; one that follows the last is part of it."""
        for begin, end in zip(begins_R.tolist(), ends_R.tolist(), strict=True):
            if self.ends and self.ends[-1] == begin:
                self.ends[-1] = end
            else:
                self.begins.append(begin)
                self.ends.append(end)
        if len(self.begins) >= RUNS:
            self.flush()

    def flush(self) -> None:
        """One more shard, where there is something; stretches need no file if they are the file's beginning."""
        if not self.begins:
            return
        own, tokens = self.shards, [end - begin for begin, end in zip(self.begins, self.ends, strict=True)]
        path = str(Path(self.given.path).absolute())
        shard = Shard(path, sum(tokens), self.given.dtype, self.given.offset)
        if self.begins != [0]:
            name = f"{own.stem}-{len(own.split.shards):05d}.runs"
            runs = np.array([[0, *np.cumsum(tokens).tolist()], [*self.begins, 0]], dtype="<i8")
            (own.root / name).write_bytes(runs.tobytes())
            shard = replace(shard, runs=name)
        own.refer(shard)
        self.begins, self.ends = [], []


@dataclass(frozen=True)
class Reader:
    """Chunks of token files in the store's type, every id checked against the tokenizer."""

    encoder: Encoder
    bytes_V: IntArray

    @classmethod
    def of(cls, encoder: Encoder) -> Reader:
        """A reader of what this tokenizer wrote."""
        return cls(encoder, encoder.text_bytes())

    def chunks(self, given: Given) -> Iterator[tuple[Chunk, TokenArray]]:
        """Each chunk of the file, and its ids in the store's type."""
        tokenizer = self.encoder.identity
        if tokenizer.end_of_text > np.iinfo(given.dtype or "int64").max:
            raise DataError(
                f"{given.where}: {given.dtype} cannot hold end of text, id {tokenizer.end_of_text}. Name the right dtype and "
                "tokenizer."
            )
        dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
        for chunk in given.chunks(tokenizer.end_of_text):
            self._check(given, chunk)
            yield chunk, chunk.ids.astype(dtype, copy=False)

    def size_M(self, ids: TokenArray, ends_M: IntArray) -> IntArray:
        """Bytes of text of each document."""
        return np.add.reduceat(self.bytes_V[ids], np.append(0, ends_M[:-1]))

    def _check(self, given: Given, chunk: Chunk) -> None:
        count = self.encoder.identity.vocabulary
        if chunk.ids.min() >= 0 and chunk.ids.max() < count:
            return
        at = int(np.flatnonzero((chunk.ids < 0) | (chunk.ids >= count))[0])
        raise DataError(
            f"{given.where}: token {chunk.start + at:,} is id {chunk.ids[at]}, the tokenizer has ids 0 to {count - 1:,}. "
            "Name the tokenizer that these files were made with, and the right dtype."
        )


def peek(corpus: Adopted, encoder: Encoder) -> None:
    """Check the first documents of every file: what is wrong with the last domain must not wait for the others."""
    reader = Reader.of(encoder)
    for given in (*corpus.train, *corpus.valid):
        for _ in islice(reader.chunks(given), 1):
            pass


def digests(corpus: Adopted, encoder: Encoder, limit: int | None) -> Iterator[int]:
    """The digests of the documents of the `valid` files."""
    reader, size = Reader.of(encoder), 0
    for given in corpus.valid:
        for chunk, ids in reader.chunks(given):
            yield from (digest(raw) for raw in documents(ids, chunk.ends_M))
            size += int(reader.size_M(ids, chunk.ends_M).sum())
            if limit is not None and size >= limit:
                return


def adopt(
    corpus: Adopted, held_out: HeldOut, encoder: Encoder, limit: int | None, out: Path, advance: Callable[[float], None]
) -> tuple[Domain, int]:
    """One domain of the store; also the number of documents dropped because they are held out elsewhere."""
    train, valid = Shards.sides(out, corpus.name, encoder.identity)
    reader, dropped = Reader.of(encoder), 0
    for givens, split_off in ((corpus.valid, None), (corpus.train, not corpus.valid)):
        size = 0
        for given in givens:
            if limit is not None and size >= limit:
                break
            stretches = {"train": Stretches(train, given), "valid": Stretches(valid, given)}
            for chunk, ids in reader.chunks(given):
                size_M = reader.size_M(ids, chunk.ends_M)
                whose_M = sides(ids, chunk.ends_M, held_out, split_off)
                dropped += int((whose_M == SIDES.index("dropped")).sum())
                for side, own in stretches.items():
                    share(own, chunk, ids, size_M, whose_M == SIDES.index(side))
                size += int(size_M.sum())
                advance(chunk.ids.nbytes)
                if limit is not None and size >= limit:
                    break
            for own in stretches.values():
                own.flush()
    made = domain_of(corpus.name, corpus.sources, encoder.identity, train, valid)
    files = [given.described() for given in corpus.train]
    return replace(made, files=tuple(replace(f, path=str(Path(f.path).absolute())) for f in files)), dropped


def sides(ids: TokenArray, ends_M: IntArray, held_out: HeldOut, split_off: bool | None) -> IntArray:
    """The number among SIDES of each document [M]; all are held out where `split_off` is None."""
    if split_off is None:
        return np.full(len(ends_M), SIDES.index("valid"))
    return np.array([SIDES.index(held_out.side(raw, split_off)) for raw in documents(ids, ends_M)])


def documents(ids: TokenArray, ends_M: IntArray) -> Iterator[memoryview]:
    """The ids of each document without its end of text, as bytes."""
    raw, width = np.ascontiguousarray(ids).data.cast("B"), ids.itemsize
    begin = 0
    for end in (ends_M * width).tolist():
        yield raw[begin : end - width]
        begin = end


def share(own: Stretches, chunk: Chunk, ids: Ids, size_M: IntArray, mine_M: np.ndarray) -> None:
    """Take the documents [M] of one side: count them, and say where they lie or copy them."""
    if not mine_M.any():
        return
    edges_M = np.append(0, chunk.ends_M)
    turns = np.flatnonzero(np.diff(mine_M.astype(np.int8), prepend=0, append=0))
    begins_R, ends_R = edges_M[turns[::2]], edges_M[turns[1::2]]
    kept = np.concatenate([ids[b:e] for b, e in zip(begins_R.tolist(), ends_R.tolist(), strict=True)])
    count, size = int(mine_M.sum()), int(size_M[mine_M].sum())
    if own.given.path:
        own.shards.count(kept, count, size)
        own.add(chunk.start + begins_R, chunk.start + ends_R)
    else:
        own.shards.append(kept, count, size)
