"""Token ids that another program wrote: Megatron's `.bin` and `.idx`, `.npy` as OLMo-core and numpy write it, MDS.

Megatron: `.bin` is nothing but ids; `.idx` says how wide they are, how long each sequence is, where it begins, and with
which sequence each document begins, most often with the number of sequences after the last (some writers leave it out);
a multimodal one has a mode for each sequence at its end. OLMo-core: `.npy` is nothing but ids whose type must be told; a
file that begins with numpy's header is read as what its header says.

Source: NVIDIA/Megatron-LM, megatron/core/datasets/indexed_dataset.py (0.16.1); allenai/OLMo-core, olmo_core/data/utils.py
(3.0.0); ServiceNow/Fast-LLM and NVIDIA/NeMo for the codes of types, of which all agree on integers.

Shapes: T tokens of a stretch of documents, M documents.
"""

from __future__ import annotations

import glob
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from mixopt.data import TOKEN_TYPES
from mixopt.domains import TokenFile
from mixopt.errors import DataError
from pipelines import readers

Ids = NDArray[np.integer]
IntArray = NDArray[np.int64]
CHUNK = 1 << 20  # tokens read at once, or one document where that is longer
LONGEST = 1 << 27  # tokens of a document whose end must be looked for
MAGIC, LEGACY, HEAD = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00", 34
CODES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
NUMPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class Chunk:
    """Ids [T] of whole documents, after `start` others in the file; `ends_M` is where each document ends among them."""

    ids: Ids
    ends_M: IntArray
    start: int


class Given(Protocol):
    """A dataset of token ids."""

    @property
    def where(self) -> str:
        """What errors call it."""

    @property
    def identity(self) -> str:
        """Changes when a file of it does."""

    @property
    def path(self) -> str:
        """The file in which its ids lie one after another; empty where they must be copied."""

    @property
    def offset(self) -> int:
        """Bytes of the file before the first id."""

    @property
    def dtype(self) -> str:
        """Numpy's name for the type of the ids; empty where every sample says its own."""

    def chunks(self, end_of_text: int) -> Iterator[Chunk]:
        """All documents. Raises DataError where the file is not what it says."""

    def described(self) -> TokenFile:
        """What the manifest says of it, once all chunks were read."""


@dataclass(frozen=True)
class Megatron:
    """A pair of `.bin` and `.idx`, checked against each other."""

    prefix: str
    where: str
    identity: str
    dtype: str
    sequences: int
    documents: int
    tokens: int
    offset: int = 0

    @property
    def path(self) -> str:
        """The ids."""
        return f"{self.prefix}.bin"

    def chunks(self, end_of_text: int) -> Iterator[Chunk]:
        """All documents. Raises DataError for a damaged index, and a document that does not end with end of text."""
        self._check_index()
        flat = np.memmap(self.path, self.dtype, "r").view(np.ndarray)
        start = 0
        for ends_M in self._ends():
            ends_M = ends_M[np.diff(ends_M, prepend=start) > 0]  # documents without tokens are none
            while len(ends_M):
                count = max(1, int(np.searchsorted(ends_M, start + CHUNK, side="right")))
                own_M = ends_M[:count]
                chunk = Chunk(flat[start : own_M[-1]], own_M - start, start)
                self._check_ends(chunk, end_of_text)
                yield chunk
                start, ends_M = int(own_M[-1]), ends_M[count:]

    def described(self) -> TokenFile:
        """Named by its prefix, as Megatron does."""
        return TokenFile("megatron", self.prefix, self.tokens, self.dtype)

    def _ends(self) -> Iterator[IntArray]:
        """Where documents end, in tokens from the beginning of the file, many at a time."""
        _, begins, documents = self._index()
        for i in range(1, self.documents, CHUNK):
            at_M = np.asarray(documents[i : i + CHUNK])
            last_M = np.minimum(at_M, self.sequences - 1)
            width = np.dtype(self.dtype).itemsize
            yield np.where(at_M < self.sequences, begins[last_M] // width, self.tokens)
        if self.documents == 0 or documents[-1] < self.sequences:
            yield np.array([self.tokens])

    def _index(self) -> tuple[Ids, Ids, Ids]:
        return _index(f"{self.prefix}.idx", self.sequences, self.documents)

    def _check_index(self) -> None:
        """Raise DataError for sequences or documents that do not follow each other."""
        lengths, begins, firsts = self._index()
        where, before, end = f"{self.where}: its index is damaged:", 0, 0
        for i in range(0, self.sequences, CHUNK):
            own = lengths[i : i + CHUNK].astype(np.int64) * np.dtype(self.dtype).itemsize
            starts = end + np.cumsum(own) - own
            wrong = np.flatnonzero((own < 0) | (begins[i : i + CHUNK] != starts))
            if len(wrong):
                k = int(wrong[0])
                raise DataError(
                    f"{where} sequence {i + k:,} of {own[k]:,} bytes begins at byte {begins[i + k]:,}, those before it end at "
                    f"{starts[k]:,}. Copy it again."
                )
            end += int(own.sum())
        for i in range(0, self.documents, CHUNK):
            some = firsts[i : i + CHUNK]
            if (i == 0 and some[0] != 0) or (np.diff(some, prepend=before) < 0).any() or some[-1] > self.sequences:
                raise DataError(
                    f"{where} documents do not rise from 0 to its {self.sequences:,} sequences. Copy it again."
                )
            before = int(some[-1])

    def _check_ends(self, chunk: Chunk, end_of_text: int) -> None:
        wrong = np.flatnonzero(chunk.ids[chunk.ends_M - 1] != end_of_text)
        if len(wrong):
            at = int(chunk.ends_M[wrong[0]]) - 1
            raise DataError(
                f"{self.where}: the document that ends with token {chunk.start + at:,} ends with id {chunk.ids[at]}, end of "
                f"text is {end_of_text}. Name the tokenizer of these files and its end_of_text, or write them again with "
                "--append-eod."
            )


@dataclass(frozen=True)
class Flat:
    """A `.npy` of OLMo-core (no header) or of numpy (`offset` bytes of header). Documents end where end of text stands."""

    path: str
    where: str
    identity: str
    dtype: str
    tokens: int
    offset: int

    def chunks(self, end_of_text: int) -> Iterator[Chunk]:
        """All documents. Raises DataError if the last one, or one of more than LONGEST tokens, has no end."""
        flat = np.memmap(self.path, self.dtype, "r", self.offset, (self.tokens,)).view(np.ndarray)
        start = 0
        while start < self.tokens:
            width, ends_M = CHUNK, np.array([], dtype=np.int64)
            while not len(ends_M):
                part = flat[start : start + width]
                ends_M = np.flatnonzero(part == end_of_text) + 1
                if not len(ends_M) and (len(part) < width or width >= LONGEST):
                    raise DataError(no_end(self.where, start, len(part), int(part[-1]), end_of_text))
                width *= 2
            yield Chunk(part[: ends_M[-1]], ends_M, start)
            start += int(ends_M[-1])

    def described(self) -> TokenFile:
        """Plain where OLMo-core could read it, which knows no header."""
        return TokenFile("npy", self.path, self.tokens, self.dtype, plain=self.offset == 0)


def find(domain: str, pattern: str, dtype: str | None) -> list[Given]:
    """The token files that a pattern names, sorted; none where it names text.

    Raises DataError for files that are not there, not whole, of several kinds or types, or not on this machine.
    """
    from pipelines import mds

    where, found = f"domain {domain!r}", {}
    urls = readers.braces(pattern)
    kinds = {url: _kind(url) for url in urls}
    if not any(kinds.values()):
        return []
    if len(set(kinds.values())) > 1:
        raise DataError(f"{where}: {pattern} names files of several kinds. Make a domain of each kind.")
    for url, kind in kinds.items():
        if "://" in url:
            raise DataError(f"{where}: {url} is an address; token files are memory-mapped. Mount it, or copy it here.")
        for path in _paths(where, url, kind):
            found[path] = _open(path, where, dtype) if kind != "mds" else mds.read_index(path, where, dtype)
    givens = [found[path] for path in sorted(found)]
    types = {given.dtype: given for given in reversed(givens)}
    if len(types) > 1:
        said = ", ".join(
            f"{given.dtype} in {Path(given.path or given.where).name}"
            for _, given in sorted(types.items(), key=lambda item: item[1].path or item[1].where)
        )
        raise DataError(f"{where}: its files have ids of several types ({said}). Make a domain of each type.")
    return givens


def _kind(url: str) -> str | None:
    """megatron, npy or mds; None for text."""
    if url.endswith((".bin", ".idx")):
        return "megatron"
    if url.endswith(".npy"):
        return "npy"
    if url.endswith("index.json") or (Path(url) / "index.json").is_file():
        return "mds"
    if "://" not in url and not url.endswith(tuple(readers.READERS)) and (_halves(url, "idx") or _halves(url, "bin")):
        return "megatron"
    return None


def _halves(url: str, suffix: str) -> list[str]:
    """The prefixes of the files of this suffix that a pattern names, with or without a suffix of its own."""
    return [path[:-4] for path in glob.glob(f"{url.removesuffix('.bin').removesuffix('.idx')}.{suffix}")]


def _paths(where: str, url: str, kind: str | None) -> list[str]:
    """Prefixes, files or folders. Raises DataError where there are none, or a half of a pair is missing."""
    if kind == "megatron":
        indices, ids = set(_halves(url, "idx")), set(_halves(url, "bin"))
        for prefix in sorted(indices ^ ids):
            have, lack = ("idx", "bin") if prefix in indices else ("bin", "idx")
            raise DataError(
                f"{where}: {prefix}.{have} is there, {prefix}.{lack} is not. A Megatron dataset is both; copy the other half."
            )
        matches = indices
    else:
        matches = {path.removesuffix("index.json").rstrip("/") if kind == "mds" else path for path in glob.glob(url)}
    if not matches:
        raise DataError(
            f"{where}: no file matches {url}. Check the path; relative ones start at the job file's folder."
        )
    return sorted(matches)


def _open(path: str, where: str, dtype: str | None) -> Given:
    if not path.endswith(".npy"):
        return _megatron(path, f"{where}: {path}.bin", dtype)
    return _npy(path, f"{where}: {path}", dtype)


def _megatron(prefix: str, where: str, dtype: str | None) -> Megatron:
    """The pair, after the end of its index was checked against that of the ids. Raises DataError with what does not fit."""
    name = f"{prefix}.idx"
    size = Path(name).stat().st_size
    with Path(name).open("rb") as f:
        head = f.read(HEAD)
    if head.startswith(LEGACY):
        raise DataError(
            f"{where}: {name} is the index of fairseq's older dataset (TNTIDX). Convert it to the mapped one (MMIDIDX)."
        )
    if not head.startswith(MAGIC) or len(head) < HEAD:
        raise DataError(f"{where}: {name} is no Megatron index (it begins with {head[:9]!r}, not {MAGIC!r}).")
    version, code, sequences, documents = struct.unpack("<QBQQ", head[len(MAGIC) :])
    if version != 1 or code not in CODES:
        known = ", ".join(f"{code} {name}" for code, name in CODES.items())
        raise DataError(
            f"{where}: {name} has version {version} and type {code} (read are version 1 and types {known}). "
            "Write it with megatron-core's IndexedDatasetBuilder."
        )
    need = HEAD + 12 * sequences + 8 * documents
    if size not in (need, need + sequences):
        raise DataError(
            f"{where}: {name} is truncated or damaged: {size:,} bytes, its counts need {need:,}. Copy it again."
        )
    told(where, CODES[code], dtype)
    width, have = np.dtype(CODES[code]).itemsize, Path(f"{prefix}.bin").stat().st_size
    lengths, begins, _ = _index(name, sequences, documents)
    tokens = int(begins[-1]) // width + int(lengths[-1]) if sequences else 0
    if have != tokens * width or not tokens:
        raise DataError(
            f"{where}: {have:,} bytes, its index speaks of {tokens:,} tokens of {CODES[code]}, {tokens * width:,} bytes. "
            "It is empty, truncated, or belongs to another index; copy both again."
        )
    return Megatron(prefix, where, identity(f"{prefix}.bin", name), CODES[code], sequences, documents, tokens)


def _index(name: str, sequences: int, documents: int) -> tuple[Ids, Ids, Ids]:
    """Lengths of sequences, where they begin in bytes, and the first sequences of documents; all on disk."""
    raw = np.memmap(name, np.uint8, "r").view(np.ndarray)
    at = HEAD + np.cumsum([0, 4 * sequences, 8 * sequences, 8 * documents])
    lengths, begins, firsts = (raw[at[i] : at[i + 1]] for i in range(3))
    return lengths.view("<i4"), begins.view("<i8"), firsts.view("<i8")


def _npy(path: str, where: str, dtype: str | None) -> Flat:
    """A file with or without numpy's header. Raises DataError with what is wrong with it."""
    size, offset = Path(path).stat().st_size, 0
    with Path(path).open("rb") as f:
        if f.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC:
            f.seek(0)
            name, count = _header(f, where)
            told(where, name, dtype)
            dtype, offset = name, f.tell()
            if size - offset != count * np.dtype(name).itemsize:
                raise DataError(
                    f"{where}: truncated or damaged: its header (numpy's) speaks of {count:,} ids of {name}, "
                    f"{size - offset:,} bytes follow. Copy it again."
                )
    if dtype is None:
        raise DataError(
            f"{where}: has no header that says how wide its ids are. Give the domain's dtype, such as uint16."
        )
    width = np.dtype(dtype).itemsize
    if (size - offset) % width or size == offset:
        raise DataError(
            f"{where}: {size:,} bytes are no whole number of {dtype} ids. It is empty, truncated, or of another dtype."
        )
    return Flat(path, where, identity(path, dtype=dtype), dtype, (size - offset) // width, offset)


def _header(f: BinaryIO, where: str) -> tuple[str, int]:
    """Type and number of ids of a file with numpy's header."""
    from numpy.lib import format as numpy_format

    try:
        version = numpy_format.read_magic(f)
        read = numpy_format.read_array_header_1_0 if version == (1, 0) else numpy_format.read_array_header_2_0
        shape, by_columns, dtype = read(f)
    except ValueError as e:
        raise DataError(f"{where}: its numpy header cannot be read ({e}). Write it again.") from e
    if dtype.name not in TOKEN_TYPES or dtype.byteorder == ">" or (by_columns and len(shape) > 1):
        raise DataError(
            f"{where}: a numpy array of {dtype.str} in {'columns' if by_columns else 'rows'} (allowed: little-endian "
            f"{', '.join(TOKEN_TYPES)} in rows). Write the ids as one of these."
        )
    return dtype.name, int(np.prod(shape))


def told(where: str, found: str, given: str | None) -> None:
    """Raise DataError where the job names another type than the file does."""
    if given is not None and found != given:
        raise DataError(
            f"{where}: holds {found}, the job says dtype: {given}. Leave dtype out, or name the right files."
        )


def no_end(where: str, start: int, length: int, last: int, end_of_text: int) -> str:
    """The sentence for a document without an end."""
    return (
        f"{where}: no end of text, id {end_of_text}, among the {length:,} tokens after token {start:,}, the last of which is "
        f"{last}. The file is truncated, of another dtype or of another tokenizer (or name its end_of_text)."
    )


def identity(*paths: str, dtype: str = "") -> str:
    """Changes when a file does."""
    stats = [(path, Path(path).stat()) for path in paths]
    return json.dumps([[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats] + [dtype])
