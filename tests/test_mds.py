"""MDS by hand, byte for byte, and as MosaicML's own writer makes it where that is installed."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zstandard

from mixopt.data import DataConfig, Source, TokenizerConfig
from mixopt.domains import Manifest, TokenFile
from mixopt.errors import DataError
from mixopt.progress import Silent
from pipelines import mds
from pipelines.prepare import prepare
from proxies.tokens import TokenStore

END, ROW = 256, 32
TEXTS = [f"{i}: {'word ' * (i % 9)}document {i * 37 % 101}" for i in range(300)]


def rows(texts: Sequence[str], dtype: str) -> list[np.ndarray]:
    """All documents one after another, cut into samples of one length; what is left over is dropped, as llm-foundry does."""
    ids = np.concatenate([np.append(np.frombuffer(text.encode(), np.uint8), END) for text in texts]).astype(dtype)
    return [ids[i * ROW : (i + 1) * ROW] for i in range(len(ids) // ROW)]


def shard(samples: Sequence[bytes], head: bytes) -> bytes:
    begin = 4 * (len(samples) + 2) + len(head)
    offsets = begin + np.cumsum([0, *map(len, samples)])
    return struct.pack("<I", len(samples)) + offsets.astype("<u4").tobytes() + head + b"".join(samples)


def encoded(ids: np.ndarray, encoding: str) -> bytes:
    """A column by its encoding: bytes; ndarray with its type, with its shape too, or with neither in the name."""
    shape = bytes([1 << 2 | 1]) + struct.pack("<H", len(ids))
    if encoding == "ndarray":
        return (
            bytes([next(code for code, name in mds.VALUE_TYPES.items() if name == ids.dtype.name)])
            + shape
            + ids.tobytes()
        )
    return (shape if encoding.count(":") == 1 else b"") + ids.tobytes()


def write(folder: Path, encoding: str, dtype: str, *, packed: bool = False, name: str = "tokens") -> str:
    """Two shards with a text column beside the ids."""
    folder.mkdir()
    every, shards = rows(TEXTS, dtype), []
    for i, own in enumerate((every[:100], every[100:])):
        columns = [(b"web", encoded(ids, encoding)) for ids in own]
        fixed = ROW * np.dtype(dtype).itemsize if encoding.count(":") == 2 else None
        sizes = [
            struct.pack("<I", len(text)) + (b"" if fixed else struct.pack("<I", len(ids))) for text, ids in columns
        ]
        raw = shard([size + text + ids for size, (text, ids) in zip(sizes, columns, strict=True)], b'{"a": 1}')
        file = f"shard.{i:05d}.mds"
        entry: dict[str, Any] = {
            "column_names": ["source", name],
            "column_encodings": ["str", encoding],
            "column_sizes": [None, fixed],
            "compression": "zstd:3" if packed else None,
            "format": "mds",
            "version": 2,
            "samples": len(own),
            "raw_data": {"basename": file, "bytes": len(raw), "hashes": {}},
            "zip_data": None,
        }
        if packed:
            small = zstandard.ZstdCompressor().compress(raw)
            (folder / f"{file}.zstd").write_bytes(small)
            entry["zip_data"] = {"basename": f"{file}.zstd", "bytes": len(small), "hashes": {}}
        else:
            (folder / file).write_bytes(raw)
        shards.append(entry)
    (folder / "index.json").write_text(json.dumps({"version": 2, "shards": shards}))
    return str(folder)


def prepared(path: str, store: Path, dtype: str | None = None) -> Manifest:
    for i in range(40):
        (store.with_name(f"b{i}.txt")).write_text(f"text {i} {i * i}")
    sources = {"a": Source(path, dtype=dtype), "b": Source(str(store.with_name("b*.txt")))}
    return prepare(DataConfig(sources, tokenizer=TokenizerConfig("bytes")), store, Silent())


def documents(manifest: Manifest) -> list[str]:
    store, found = TokenStore(manifest, 1), []
    for split in (manifest["a"].train, manifest["a"].valid):
        ids = np.concatenate([store.read(s, 0, s.tokens) for s in split.shards])
        found += [
            bytes(own[:-1].astype(np.uint8)).decode() for own in np.split(ids, np.flatnonzero(ids == END) + 1)[:-1]
        ]
    return found


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    ("encoding", "dtype", "told"),
    [
        ("bytes", "int64", None),
        ("bytes", "uint16", "uint16"),
        ("ndarray", "int32", None),
        ("ndarray:uint16", "uint16", None),
        (f"ndarray:uint32:{ROW}", "uint32", None),
    ],
)
def test_documents_across_samples_and_shards(
    tmp_path: Path, scratch: Path, encoding: str, dtype: str, told: str | None, packed: bool
) -> None:
    folder = write(tmp_path / "mds", encoding, dtype, packed=packed)
    manifest = prepared(folder, scratch, told)
    *whole, last = sorted(documents(manifest), key=lambda text: int(text.partition(":")[0]))
    assert whole == TEXTS[: len(whole)]
    assert TEXTS[len(whole)].startswith(last), "the last one is cut where the last sample ends"
    count = sum(len(text.encode()) + 1 for text in TEXTS) // ROW * ROW
    assert manifest["a"].files == (TokenFile("mds", folder, count, dtype if encoding != "ndarray" else "", row=ROW),)


def edit(path: Path, change: Any) -> None:
    body = json.loads((path / "index.json").read_text())
    change(body)
    (path / "index.json").write_text(json.dumps(body))


BROKEN = {
    "version": (lambda p: edit(p, lambda b: b.update(version=1)), "not one of MDS, version 2"),
    "no json": (lambda p: (p / "index.json").write_text("{"), "not one of MDS, version 2"),
    "column": (
        lambda p: edit(p, lambda b: b["shards"][0].update(column_names=["source", "x"])),
        "no column tokens or input_ids",
    ),
    "text": (
        lambda p: edit(p, lambda b: b["shards"][0].update(column_encodings=["str", "str"])),
        "encoded as str (allowed: bytes, ndarray of integers)",
    ),
    "missing": (lambda p: (p / "shard.00001.mds").unlink(), "shard.00001.mds is missing"),
    "cut": (lambda p: (p / "shard.00001.mds").write_bytes(b"x"), "shard.00001.mds has 1 bytes, the index says"),
    "damaged": (
        lambda p: (p / "shard.00000.mds").write_bytes(bytes(len((p / "shard.00000.mds").read_bytes()))),
        "damaged, its 100 samples do not end with it",
    ),
    "empty": (lambda p: edit(p, lambda b: b.update(shards=[])), "holds no samples"),
    "packed otherwise": (
        lambda p: edit(
            p,
            lambda b: b["shards"][1].update(
                compression="snappy",
                zip_data={"basename": "x.snappy", "bytes": 3},
                raw_data={"basename": "y", "bytes": 3},
            ),
        ),
        "compressed by snappy (read is zstd)",
    ),
    "types": (
        lambda p: edit(p, lambda b: b["shards"][1].update(column_encodings=["str", "ndarray:uint32"])),
        "ids of several types (uint16, uint32)",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_damaged_folders(tmp_path: Path, scratch: Path, what: str) -> None:
    change, said = BROKEN[what]
    folder = Path(write(tmp_path / "mds", "ndarray:uint16", "uint16"))
    change(folder)
    with pytest.raises(DataError) as caught:
        prepared(str(folder), scratch)
    assert "domain 'a'" in str(caught.value)
    assert said in str(caught.value)


def test_damaged_zstd(tmp_path: Path, scratch: Path) -> None:
    folder = Path(write(tmp_path / "mds", "bytes", "int64", packed=True))
    small = (folder / "shard.00000.mds.zstd").read_bytes()
    (folder / "shard.00000.mds.zstd").write_bytes(small[:-40] + bytes(40))
    with pytest.raises(DataError, match="cannot be decompressed"):
        prepared(str(folder), scratch)


def test_what_its_own_writer_made(tmp_path: Path, scratch: Path) -> None:
    streaming = pytest.importorskip("streaming")
    columns = {"tokens": "ndarray:int32", "source": "str"}
    with streaming.MDSWriter(
        out=str(tmp_path / "mds"), columns=columns, compression="zstd:3", size_limit=1 << 14
    ) as out:
        for ids in rows(TEXTS, "int32"):
            out.write({"tokens": ids, "source": "web"})
    found = documents(prepared(str(tmp_path / "mds"), scratch))
    assert sorted(found, key=lambda text: int(text.partition(":")[0]))[:-1] == TEXTS[: len(found) - 1]
