"""The token store in the files of other frameworks: Megatron's `.bin` and `.idx`, or `.npy` as OLMo-core maps it.

    DIR/train/<domain>_text_document.bin, .idx      megatron: a document is a sequence
    DIR/train/<domain>/part-00000.npy               olmo: ids without a header, a file for each shard of the store
    DIR/valid/...                                   the held-out documents alike
    DIR/shards.json                                 what is there: counts, types, tokenizer, fingerprint of the data

The folder is written under another name and renamed: present means complete. Memory does not grow with the domains, and
the same store gives the same bytes.

Source: the formats of pipelines/token_files.py. Megatron knows no uint32, so wide ids are written as int32.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mixopt.backends.base import folder
from mixopt.domains import Manifest, Shard
from mixopt.errors import DataError, JobError, did_you_mean
from mixopt.handoff import Plan
from mixopt.progress import Progress
from pipelines.shards import publish
from pipelines.token_files import CODES, MAGIC, IntArray
from proxies.tokens import TokenStore

SCHEMA, LIST = "mixopt.shards/v1", "shards.json"
PIECE = 1 << 22  # tokens, documents or bytes in memory at once
SPLITS = ("train", "valid")
FORMATS = ("megatron", "olmo")


def write(manifest: Manifest, to: str, out: Path, progress: Progress) -> dict[str, Any]:
    """Write every domain; what `shards.json` says. A folder that holds the same already stays as it is.

    Raises JobError for an unknown format, a folder with other content, and too little room.
    """
    if to not in FORMATS:
        raise JobError(f"--to: unknown format {to!r}; {did_you_mean(to, FORMATS)}")
    head = {"schema": SCHEMA, "to": to, "data": manifest.fingerprint, "tokenizer": manifest.tokenizer.fingerprint}
    there = _there(out)
    if there is not None and {key: there.get(key) for key in head} == head:
        return there
    out.parent.mkdir(parents=True, exist_ok=True)
    _refuse_too_little_room(manifest, out)

    def build(partial: Path) -> None:
        store, domains = TokenStore(manifest, 1), {}
        for domain in manifest.domains:
            with progress.task(f"write {domain.name}", None, "bytes") as advance:
                act = _megatron if to == "megatron" else _olmo
                domains[domain.name] = {split: act(store, domain.name, partial / split, advance) for split in SPLITS}
        text = json.dumps({**head, "end_of_text": manifest.tokenizer.end_of_text, "domains": domains}, indent=1)
        (partial / LIST).write_text(text + "\n", encoding="utf-8")

    publish(out, build)
    written = _there(out)
    if written is None:
        raise DataError(f"{out}: was removed while it was written. Run the command again.")
    return written


def sources(written: Mapping[str, Any], out: Path, plan: Plan) -> dict[str, dict[str, Any]]:
    """What `mixture.json` may say of what was written: of the domains that are all there, not a part of them."""
    found: dict[str, dict[str, Any]] = {}
    for name, splits in written["domains"].items():
        train = splits["train"]
        if name not in plan.names or train["tokens"] < plan[name].available_tokens:
            continue
        if written["to"] == "megatron":
            found[name] = {"megatron_prefix": str((out / train["prefix"]).absolute())}
        else:
            shards = [{"path": str((out / f["path"]).absolute()), "tokens": f["tokens"]} for f in train["files"]]
            found[name] = {"shards": shards, "dtype": train["dtype"]}
    return found


def _there(out: Path) -> dict[str, Any] | None:
    """What a folder holds of ours; None where there is no folder. Raises JobError for other content."""
    if not out.exists():
        return None
    try:
        body: dict[str, Any] = json.loads((out / LIST).read_text(encoding="utf-8"))
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']!r}")
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise JobError(
            f"--out {out}: is there and was not written by `mixopt shards` ({e}). Use another folder."
        ) from e
    return body


def _refuse_too_little_room(manifest: Manifest, out: Path) -> None:
    splits = [split for domain in manifest.domains for split in (domain.train, domain.valid)]
    need = sum(split.tokens * manifest.token_bytes + 20 * split.documents for split in splits)
    free = shutil.disk_usage(out.parent).free
    if free < need:
        raise JobError(
            f"--out {out}: {need / 1e9:,.1f} GB are to be written, {free / 1e9:,.1f} GB are free. Make room."
        )


def _pieces(store: TokenStore, shard: Shard) -> Iterator[np.ndarray]:
    for start in range(0, shard.tokens, PIECE):
        yield store.read(shard, start, min(start + PIECE, shard.tokens))


def _olmo(store: TokenStore, name: str, parent: Path, advance: Callable[[float], None]) -> dict[str, Any]:
    """One domain's split as files without a header."""
    split = getattr(store.manifest[name], parent.name)
    (parent / folder(name)).mkdir(parents=True)
    files = []
    for i, shard in enumerate(split.shards):
        path = parent / folder(name) / f"part-{i:05d}.npy"
        with path.open("wb") as f:
            for ids in _pieces(store, shard):
                f.write(ids.data)
                advance(ids.nbytes)
        files.append({"path": path.relative_to(parent.parent).as_posix(), "tokens": shard.tokens})
    return {"files": files, "tokens": split.tokens, "dtype": store.dtype.name}


def _megatron(store: TokenStore, name: str, parent: Path, advance: Callable[[float], None]) -> dict[str, Any]:
    """One domain's split as a pair of files."""
    split, dtype = (
        getattr(store.manifest[name], parent.name),
        np.dtype("uint16" if store.dtype.itemsize == 2 else "int32"),
    )
    prefix = parent / f"{folder(name)}_text_document"
    parent.mkdir(exist_ok=True)
    lengths = prefix.with_name(f"{prefix.name}.lengths")
    with prefix.with_name(f"{prefix.name}.bin").open("wb") as f, lengths.open("wb") as g:
        held = 0
        for shard in split.shards:
            for ids in _pieces(store, shard):
                f.write(ids.astype(dtype, copy=False).data)
                ends_M = np.flatnonzero(ids == store.manifest.tokenizer.end_of_text) + 1
                _write_lengths(g, np.diff(ends_M, prepend=-held), name)
                held = len(ids) - int(ends_M[-1]) if len(ends_M) else held + len(ids)
                advance(ids.nbytes)
        _write_lengths(g, np.array([held] if held else [], dtype=np.int64), name)
    with prefix.with_name(f"{prefix.name}.idx").open("wb") as f:
        documents = _write_index(f, lengths, dtype)
    lengths.unlink()
    relative = prefix.relative_to(parent.parent).as_posix()
    return {"prefix": relative, "tokens": split.tokens, "documents": documents, "dtype": dtype.name}


def _write_lengths(f: BinaryIO, lengths_M: IntArray, name: str) -> None:
    if len(lengths_M) and lengths_M.max() >= 1 << 31:
        raise DataError(
            f"domain {name!r}: a document has {lengths_M.max():,} tokens, an .idx holds up to {2**31 - 1:,}."
        )
    f.write(lengths_M.astype("<i4").data)


def _write_index(f: BinaryIO, lengths: Path, dtype: np.dtype) -> int:
    """Write an .idx from a file of lengths; the number of its documents, each of which is a sequence."""
    count = lengths.stat().st_size // 4
    code = next(code for code, name in CODES.items() if name == dtype.name)
    f.write(MAGIC + struct.pack("<QBQQ", 1, code, count, count + 1))
    with lengths.open("rb") as g:
        shutil.copyfileobj(g, f, PIECE)
    begin = 0
    with lengths.open("rb") as g:
        while len(own_M := np.fromfile(g, "<i4", PIECE).astype(np.int64)):
            ends_M = begin + np.cumsum(own_M) * dtype.itemsize
            f.write((ends_M - own_M * dtype.itemsize).astype("<i8").data)
            begin = int(ends_M[-1])
    f.writelines(
        np.arange(first, min(first + PIECE, count + 1), dtype="<i8").data for first in range(0, count + 1, PIECE)
    )
    return count
