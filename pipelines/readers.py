"""The documents of a domain, streamed from files or from the Hugging Face hub. The only home of `datasets`.

A reader holds one block of a file in memory, yields documents as text, and turns what goes wrong into one DataError.
"""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from mixopt.data import HubSource, Source
from mixopt.errors import DataError

LARGEST_TXT = 1 << 26  # bytes: a .txt file is one document and is held in memory
TEXT_BLOCK = 1 << 20  # characters read at once, or one line where that is longer
PARQUET_ROWS = 1000  # read at once
# what file systems call the thing that changes when a file does
VERSIONS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "last_commit")


@dataclass(frozen=True)
class Part:
    """Documents that can be read again: a file, a hub dataset or text in memory. `identity` changes when they do."""

    name: str
    identity: str
    read: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class _File:
    url: str
    column: str
    domain: str

    @property
    def where(self) -> str:
        return f"domain {self.domain!r}: {self.url}"


def parts(domain: str, source: Source) -> list[Part]:
    """The domain's files, sorted by name, or its hub dataset. Raises DataError for a path without usable files."""
    if source.hf is None:
        return files(domain, source.path or "", source.text)
    identity = json.dumps([asdict(source.hf), source.text])
    return [Part(source.hf.path, identity, partial(_hub, domain, source.hf, source.text))]


def files(domain: str, pattern: str, column: str) -> list[Part]:
    """The files that a pattern names. Raises DataError for no match, a folder or an unknown kind of file."""
    found = []
    for url in braces(pattern):
        matches = _matches(domain, url)
        if not matches:
            raise DataError(
                f"domain {domain!r}: no file matches {url}. "
                "Check the path; relative ones start at the job file's folder."
            )
        found += matches
    return [_part(_File(url, column, domain), info) for url, info in sorted(dict(found).items())]


def braces(pattern: str) -> list[str]:
    """A pattern with `{a,b}` and `{00..12}` written out, as a shell does."""
    found = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if found is None:
        return [pattern]
    first, last, names = found.groups()
    if names is None:
        low, high = sorted((int(first), int(last)))
        names = ",".join(f"{i:0{len(first)}d}" for i in range(low, high + 1))
    before, after = pattern[: found.start()], pattern[found.end() :]
    return list(dict.fromkeys(url for name in names.split(",") for url in braces(before + name + after)))


def _matches(domain: str, url: str) -> list[tuple[str, dict[str, Any]]]:
    """(address, what the file system says of it) of each file behind an address or glob."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url)
        found = fs.glob(path, detail=True) if glob.has_magic(path) else {path: fs.info(path)}
    except FileNotFoundError:
        return []
    except Exception as e:
        raise DataError(
            f"domain {domain!r}: cannot list {url} ({_said(e)}). Check the address, the credentials in the "
            "environment, and that the package for this kind of address is installed."
        ) from e
    if [info["type"] for info in found.values()] == ["directory"]:
        raise DataError(
            f"domain {domain!r}: {url} is a folder. Name its files, for instance {url.rstrip('/')}/*.jsonl.gz"
        )
    local = "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
    return [(p if local else fs.unstrip_protocol(p), info) for p, info in found.items() if info["type"] == "file"]


def _part(file: _File, info: dict[str, Any]) -> Part:
    suffix = next((suffix for suffix in READERS if file.url.endswith(suffix)), None)
    if suffix is None:
        raise DataError(f"{file.where}: not a kind of file that is read (allowed: {', '.join(READERS)}).")
    if suffix == ".txt" and info["size"] > LARGEST_TXT:
        raise DataError(
            f"{file.where}: a .txt file is one document, of at most {LARGEST_TXT:,} bytes (got {info['size']:,}). "
            "Split it, or write its documents as lines of a .jsonl file."
        )
    version = next((str(info[key]) for key in VERSIONS if key in info), "")
    return Part(file.url, json.dumps([file.url, info["size"], version, file.column]), partial(READERS[suffix], file))


def _json_lines(file: _File) -> Iterator[str]:
    """One JSON object a line; blank lines are passed over.

    Read as lines: the JSON reader of `datasets` derives a schema from the first block, fails where later metadata
    differ, and turns numbers into text.
    """
    for number, row in enumerate(_rows("text", file, encoding="utf-8-sig", chunksize=TEXT_BLOCK), 1):
        if not row["text"].strip():
            continue
        try:
            record = json.loads(row["text"])
        except ValueError as e:
            raise DataError(f"{file.where}, line {number}: not valid JSON ({e}). Each line is one JSON object.") from e
        yield _document(record, file.column, f"{file.where}, line {number}")


def _zst_lines(file: _File) -> Iterator[str]:
    _check_zst(file)
    yield from _json_lines(file)


def _whole(file: _File) -> Iterator[str]:
    """The file as one document."""
    for row in _rows("text", file, encoding="utf-8-sig", sample_by="document"):
        yield row["text"]


def _parquet(file: _File) -> Iterator[str]:
    columns = _columns(file)
    if file.column not in columns:
        raise _no_column(file.column, columns, file.where)
    rows = _rows("parquet", file, columns=[file.column], batch_size=PARQUET_ROWS)
    for number, row in enumerate(rows, 1):
        yield _document(row, file.column, f"{file.where}, row {number}")


READERS: dict[str, Callable[[_File], Iterator[str]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".jsonl.zst": _zst_lines,
    ".txt": _whole,
    ".parquet": _parquet,
}


def _hub(domain: str, hub: HubSource, column: str) -> Iterator[str]:
    where = f"domain {domain!r}: dataset {' '.join(filter(None, (hub.path, hub.name)))}"
    with _translated(where):
        rows = _load(hub.path, hub.name, split=hub.split, revision=hub.revision, streaming=hub.streaming)
        if column in (rows.features or ()):
            rows = rows.select_columns([column])
        for number, row in enumerate(rows, 1):
            yield _document(row, column, f"{where}, row {number}")


def _rows(kind: str, file: _File, **options: Any) -> Iterator[dict[str, Any]]:
    with _translated(file.where):
        yield from _streamed(kind, file, **options)


def _columns(file: _File) -> list[str]:
    with _translated(file.where):
        return list(_streamed("parquet", file).features)


def _streamed(kind: str, file: _File, **options: Any) -> Any:
    """One file as a streamed dataset; the lock that is taken on opening lies in a folder that is gone afterwards."""
    with TemporaryDirectory(prefix="mixopt-read-") as cache:
        return _load(
            kind, data_files=[glob.escape(file.url)], split="train", streaming=True, cache_dir=cache, **options
        )


def _load(*args: Any, **options: Any) -> Any:
    """`datasets.load_dataset` without bars, logs and counting of loads over the network."""
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    return datasets.load_dataset(*args, **options)


@contextmanager
def _translated(where: str) -> Iterator[None]:
    """Turn what file systems, decompressors and `datasets` raise into one DataError."""
    try:
        yield
    except DataError:
        raise
    except UnicodeDecodeError as e:
        raise DataError(f"{where}: not UTF-8 text ({e.reason}: 0x{e.object[e.start]:02x}). Convert it to UTF-8.") from e
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise DataError(f"{where}: truncated or damaged ({_said(e)}). Fetch or compress it again.") from e
    except Exception as e:
        raise DataError(
            f"{where}: cannot be read ({_said(e)}). Check that it exists, may be read, and is what its name says."
        ) from e


def _check_zst(file: _File) -> None:
    """Decompress once to see that the last frame ends: the reader takes a truncated file for a shorter one."""
    import fsspec
    import zstandard

    with _translated(file.where), fsspec.open(file.url, "rb") as f:
        ended, frame = True, zstandard.ZstdDecompressor().decompressobj()
        while block := f.read(1 << 20):
            while block:
                frame = zstandard.ZstdDecompressor().decompressobj() if ended else frame
                frame.decompress(block)
                ended, block = frame.eof, frame.unused_data
        if not ended:
            raise EOFError("the last zstd frame does not end")


def _document(row: Any, column: str, where: str) -> str:
    """The text of a row. Raises DataError where there is none."""
    if not isinstance(row, dict):
        raise DataError(f'{where}: must be an object such as {{"{column}": "..."}} (got {type(row).__name__}).')
    if column not in row:
        raise _no_column(column, list(row), where)
    text = row[column]
    if not isinstance(text, str):
        raise DataError(
            f"{where}: column {column!r} must be text (got {type(text).__name__}). "
            "Mend the row, or name another column as `text`."
        )
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise DataError(f"{where}: {e.reason} at character {e.start}: not Unicode text. Mend the row.") from e
    return text


def _no_column(column: str, columns: list[str], where: str) -> DataError:
    there = ", ".join(map(str, columns))
    return DataError(f"{where}: no column {column!r} (columns there: {there}). Name the one with the text as `text`.")


def _said(e: Exception) -> str:
    return f"{type(e).__name__}: {(str(e) or 'no message').splitlines()[0]}"
