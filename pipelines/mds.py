"""Tokens of MosaicML Streaming's MDS, version 2: `index.json` and shards of samples.

A shard is: number of samples n, n + 1 byte offsets of samples (all uint32), a JSON text, the samples. A sample is: the
sizes (uint32) of its columns of no fixed size, then its columns. The column `tokens` or `input_ids` is `bytes` (int64 as
llm-foundry writes them, unless the job names another dtype) or an `ndarray`, whose type and shape are in the name of the
encoding or before the values. Samples are cut at a fixed length, so documents are looked for in all of them one after
another; between two shards as well.

Source: mosaicml/streaming 0.13.0, streaming/base/format/mds/{writer,reader,encodings}.py; the format, no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixopt.data import TOKEN_TYPES
from mixopt.domains import TokenFile
from mixopt.errors import DataError
from pipelines.token_files import CHUNK, LONGEST, Chunk, Ids, identity, no_end, told

COLUMNS = ("tokens", "input_ids")
LLM_FOUNDRY = "int64"
SHAPE_TYPES = ("<u1", "<u2", "<u4", "<u8")
VALUE_TYPES = {8: "uint8", 9: "int8", 16: "uint16", 17: "int16", 32: "uint32", 33: "int32", 64: "uint64", 65: "int64"}


@dataclass
class Mds:
    """A folder of shards. `tokens` and `lengths` (of samples) are known once all chunks were read."""

    folder: str
    where: str
    identity: str
    dtype: str
    shards: list[dict[str, Any]]
    tokens: int = 0
    lengths: set[int] = field(default_factory=set)
    path: str = ""
    offset: int = 0

    def chunks(self, end_of_text: int) -> Iterator[Chunk]:
        """All documents; a last one without an end, which was cut with its sample, is given one."""
        self.tokens, start, held, parts = 0, 0, 0, list[Ids]()
        for ids in self._samples():
            self.tokens += len(ids)
            self.lengths.add(len(ids))
            parts.append(ids)
            held += len(ids)
            if held < CHUNK:
                continue
            flat = np.concatenate(parts)
            ends_M = np.flatnonzero(flat == end_of_text) + 1
            if len(ends_M):
                yield Chunk(flat[: ends_M[-1]], ends_M, start)
                start, flat = start + int(ends_M[-1]), flat[ends_M[-1] :]
            elif held > LONGEST:
                raise DataError(no_end(self.where, start, held, int(flat[-1]), end_of_text))
            held, parts = len(flat), [flat]
        flat = np.concatenate(parts)
        if not (flat == end_of_text).any() and start == 0:
            raise DataError(no_end(self.where, 0, held, int(flat[-1]), end_of_text))
        if len(flat):
            flat = flat if flat[-1] == end_of_text else np.append(flat, np.array(end_of_text, flat.dtype))
            yield Chunk(flat, np.flatnonzero(flat == end_of_text) + 1, start)

    def described(self) -> TokenFile:
        """Named by its folder; all samples but those of the run's sequence length are of no use to Streaming."""
        row = self.lengths.pop() if len(self.lengths) == 1 else 0
        return TokenFile("mds", self.folder, self.tokens, self.dtype, row=row)

    def _samples(self) -> Iterator[Ids]:
        for shard in self.shards:
            name = f"{self.where}/{shard['raw_data']['basename']}"
            data = memoryview(_content(Path(self.folder), shard, name))
            offsets = _offsets(data, shard["samples"], name)
            column = next(name for name in COLUMNS if name in shard["column_names"])
            index = shard["column_names"].index(column)
            for k in range(shard["samples"]):
                where = f"{name}, sample {k}"
                own = _column(data[offsets[k] : offsets[k + 1]], shard["column_sizes"], index, where)
                yield _decoded(own, shard["column_encodings"][index], self.dtype, where)


def read_index(folder: str, where: str, dtype: str | None) -> Mds:
    """The dataset of a folder, its shards there and as long as the index says. Raises DataError with what is wrong."""
    path = Path(folder) / "index.json"
    where = f"{where}: {folder}"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        shards = body["shards"]
        if body["version"] != 2 or not all(s["version"] == 2 and s["format"] == "mds" for s in shards):
            raise ValueError(f"version {body['version']}, formats {sorted({s['format'] for s in shards})}")
        types = {_type(shard, where, dtype) for shard in shards}
        files = [str(_file(Path(folder), shard, where)) for shard in shards]
        samples = sum(shard["samples"] for shard in shards)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise DataError(
            f"{where}: index.json is not one of MDS, version 2 ({type(e).__name__}: {e}). Write it again."
        ) from e
    if not samples:
        raise DataError(f"{where}: holds no samples.")
    if len(types) > 1:
        raise DataError(
            f"{where}: its shards have ids of several types ({', '.join(sorted(types))}). Convert them alike."
        )
    return Mds(folder, where, identity(str(path), *files, dtype=types.copy().pop()), types.pop(), shards)


def _type(shard: Mapping[str, Any], where: str, dtype: str | None) -> str:
    """The type of a shard's ids, "" where every sample says its own."""
    names = [name for name in COLUMNS if name in shard["column_names"]]
    if not names:
        there = ", ".join(shard["column_names"])
        raise DataError(f"{where}: no column {' or '.join(COLUMNS)} (columns there: {there}). Convert it to tokens.")
    encoding = shard["column_encodings"][shard["column_names"].index(names[0])]
    kind, *rest = encoding.split(":")
    if kind == "bytes":
        return dtype or LLM_FOUNDRY
    if kind != "ndarray" or (rest and rest[0] not in TOKEN_TYPES):
        raise DataError(f"{where}: column {names[0]!r} is encoded as {encoding} (allowed: bytes, ndarray of integers).")
    if rest:
        told(where, rest[0], dtype)
    return rest[0] if rest else ""


def _file(folder: Path, shard: Mapping[str, Any], where: str) -> Path:
    """The shard's file as it lies there: as it is or compressed. Raises DataError for one that is missing or cut."""
    raw, packed = shard["raw_data"], shard["zip_data"]
    told_size, path = raw["bytes"], folder / raw["basename"]
    if packed and not path.exists():
        if shard["compression"].partition(":")[0] != "zstd":
            raise DataError(
                f"{where}: {packed['basename']} is compressed by {shard['compression']} (read is zstd). Decompress the "
                "shards, or convert without compression."
            )
        told_size, path = packed["bytes"], folder / packed["basename"]
    have = path.stat().st_size if path.exists() else None
    if have != told_size:
        got = "is missing" if have is None else f"has {have:,} bytes, the index says {told_size:,}"
        raise DataError(f"{where}: {path.name} {got}. Fetch it again.")
    return path


def _content(folder: Path, shard: Mapping[str, Any], where: str) -> Any:
    """The bytes of a shard: mapped, or decompressed where it is compressed."""
    path = _file(folder, shard, where)
    if path.name == shard["raw_data"]["basename"]:
        return np.memmap(path, np.uint8, "r")
    try:
        import zstandard
    except ImportError as e:
        raise DataError(
            f"{where}: is compressed by zstd, and zstandard is not there. Install it: pip install zstandard."
        ) from e
    try:
        content = zstandard.ZstdDecompressor().decompress(path.read_bytes(), shard["raw_data"]["bytes"])
    except zstandard.ZstdError as e:
        raise DataError(f"{where}: cannot be decompressed ({e}). Fetch it again.") from e
    if len(content) != shard["raw_data"]["bytes"]:
        raise DataError(
            f"{where}: {len(content):,} bytes, the index says {shard['raw_data']['bytes']:,}. Fetch it again."
        )
    return content


def _offsets(data: memoryview, samples: int, where: str) -> list[int]:
    """Where samples begin, and the last one ends."""
    need = 4 * (samples + 2)
    head = np.frombuffer(data[: min(need, len(data) // 4 * 4)], "<u4").astype(np.int64)
    ok = len(head) == samples + 2 and head[0] == samples and head[1] >= need
    if not ok or (np.diff(head[1:]) < 0).any() or head[-1] != len(data):
        raise DataError(f"{where}: damaged, its {samples:,} samples do not end with it. Fetch it again.")
    return head[1:].tolist()


def _column(sample: memoryview, sizes: list[int | None], index: int, where: str) -> memoryview:
    """The bytes of one column of a sample."""
    free = [k for k, size in enumerate(sizes) if not size]
    told_sizes = np.frombuffer(sample[: min(len(sample) // 4, len(free)) * 4], "<u4").tolist()
    if len(told_sizes) < len(free):
        raise DataError(f"{where}: damaged, {len(sample)} bytes. Fetch its shard again.")
    every = [size or told_sizes[free.index(k)] for k, size in enumerate(sizes)]
    begin = 4 * len(free) + sum(every[:index])
    if 4 * len(free) + sum(every) != len(sample):
        raise DataError(f"{where}: damaged, its columns are not its {len(sample)} bytes. Fetch its shard again.")
    return sample[begin : begin + every[index]]


def _decoded(data: memoryview, encoding: str, dtype: str, where: str) -> Ids:
    """The ids of a column."""
    kind, *rest = encoding.split(":")
    try:
        if kind == "ndarray" and not rest:
            dtype, data = VALUE_TYPES[data[0]], data[1:]
        count = None
        if kind == "ndarray" and len(rest) < 2:
            axes, shape_type = data[0] >> 2, np.dtype(SHAPE_TYPES[data[0] & 3])
            end = 1 + axes * shape_type.itemsize
            count, data = int(np.prod(np.frombuffer(data[1:end], shape_type).astype(np.int64))), data[end:]
        ids = np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
    except (ValueError, KeyError, IndexError) as e:
        raise DataError(
            f"{where}: is no {encoding} of {dtype or 'integers'} ({e}). Give the domain's dtype, or fetch it again."
        ) from e
    if count is not None and count != len(ids):
        raise DataError(f"{where}: damaged, {len(ids):,} ids instead of {count:,}. Fetch its shard again.")
    return ids
