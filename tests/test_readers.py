"""Every format gives the same documents, and every kind of bad file one sentence that names it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from mixopt.data import HubSource, Source
from mixopt.errors import DataError
from pipelines import readers

DOCUMENTS = [
    "plain",
    "héllo wörld ☃ 𝄞",
    "two\nlines\r\nand\ttabs",
    "sep \u2028 \u0085 kept",
    '{"text": "quoted"}',
    " " * 3 + "x",
]


def lines(documents: list[str], column: str = "text") -> bytes:
    return "".join(
        json.dumps({"id": i, column: d}, ensure_ascii=False) + "\n" for i, d in enumerate(documents)
    ).encode()


def write(path: Path, documents: list[str]) -> Path:
    """One file in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.table({"id": list(range(len(documents))), "text": documents}), path, row_group_size=4)
    else:
        path.write_bytes(PACK.get(path.suffix, bytes)(lines(documents)))
    return path


PACK: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".zst": zstandard.compress}


def read(pattern: Path | str, column: str = "text") -> list[str]:
    return [text for part in readers.files("d", str(pattern), column) for text in part.read()]


def error(pattern: Path | str, column: str = "text") -> str:
    with pytest.raises(DataError) as caught:
        read(pattern, column)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_format_gives_the_same_documents(tmp_path: Path, suffix: str) -> None:
    assert read(write(tmp_path / f"a{suffix}", DOCUMENTS)) == DOCUMENTS


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    for name, text in (("b", "second\n\nwith a gap\n"), ("a", "first"), ("c", "")):
        (tmp_path / f"{name}.txt").write_text(text, encoding="utf-8")
    assert read(tmp_path / "*.txt") == ["first", "second\n\nwith a gap\n", ""]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines(["a"]) + b"\n  \n" + lines(["b"])[:-1])
    assert read(tmp_path / "a.jsonl") == ["a", "b"]


def test_metadata_may_change_from_line_to_line(tmp_path: Path) -> None:
    rows = [{"text": "a", "x": 1}, {"x": "one", "text": "b"}, {"text": "c", "type": "user", "message": {"y": []}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "a.jsonl") == ["a", "b", "c"]


def test_files_longer_than_a_block_and_lines_longer_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "TEXT_BLOCK", 1000)
    documents = [str(i) * (1 + i % 7 * 400) for i in range(300)]
    assert read(write(tmp_path / "a.jsonl.gz", documents)) == documents


def test_all_frames_of_a_zst_file_are_read(tmp_path: Path) -> None:
    frames = [[f"{i} {j}" * 5000 for j in range(9)] for i in range(5)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(zstandard.compress(lines(frame)) for frame in frames))
    assert read(tmp_path / "a.jsonl.zst") == [text for frame in frames for text in frame]


def test_files_come_sorted_by_name(tmp_path: Path) -> None:
    for name in ("b/2", "a/9", "a/10"):
        write(tmp_path / f"{name}.jsonl", [name])
    assert read(tmp_path / "**/*.jsonl") == ["a/10", "a/9", "b/2"]


def test_braces_are_written_out() -> None:
    assert readers.braces("s3://b/{08..10}.zst") == ["s3://b/08.zst", "s3://b/09.zst", "s3://b/10.zst"]
    assert readers.braces("{a,b{0..1}}{x}") == ["a{x}", "b0{x}", "b1{x}"]


def test_a_brace_range_asks_for_every_file(tmp_path: Path) -> None:
    for i in (0, 1, 3):
        write(tmp_path / f"{i}.jsonl", [str(i)])
    assert read(tmp_path / "{0..1}.jsonl") == ["0", "1"]
    assert "no file matches" in error(tmp_path / "{0..3}.jsonl")
    assert "2.jsonl" in error(tmp_path / "{0..3}.jsonl")


@pytest.mark.parametrize("name", ["a[1].jsonl", "a*.jsonl", "a b%20#.jsonl"])
def test_names_with_special_characters(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, ["right"])
    write(tmp_path / "a1.jsonl", ["other"])
    part = next(p for p in readers.files("d", str(tmp_path / "*"), "text") if p.name.endswith(name))
    assert list(part.read()) == ["right"]


def test_any_file_system_of_fsspec() -> None:
    fsspec.filesystem("memory").pipe(
        {"/readers/a.jsonl.gz": gzip.compress(lines(["a"])), "/readers/b.jsonl": lines(["b"])}
    )
    assert read("memory://readers/*") == ["a", "b"]
    assert read("memory://readers/{a.jsonl.gz,b.jsonl}") == ["a", "b"]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_dataset_as_the_hub_keeps_it(tmp_path: Path, streaming: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "set" / "train.jsonl", DOCUMENTS)
    hub = HubSource(str(tmp_path / "set"), streaming=streaming)
    (part,) = readers.parts("d", Source(hf=hub))
    assert list(part.read()) == DOCUMENTS
    (bad,) = readers.parts("d", Source(hf=HubSource(str(tmp_path / "set"), split="nope")))
    with pytest.raises(DataError, match=r"dataset .*set: cannot be read .*nope.*train"):
        list(bad.read())
    (no_column,) = readers.parts("d", Source(hf=hub, text="body"))
    with pytest.raises(DataError, match=r"row 1: no column 'body' \(columns there: id, text\)"):
        list(no_column.read())


def test_identity_follows_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ["a"])
    first, again = (readers.files("d", str(path), "text")[0].identity for _ in range(2))
    other = readers.files("d", str(path), "body")[0].identity
    write(path, ["a", "b"])
    assert first == again
    assert len({first, other, readers.files("d", str(path), "text")[0].identity}) == 3


def test_no_match_a_folder_and_an_unknown_kind(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.csv").write_text("text\nx\n")
    assert "domain 'd': no file matches" in error(tmp_path / "none.jsonl")
    assert "no file matches" in error(tmp_path / "*.parquet")
    assert "sub is a folder. Name its files" in error(tmp_path / "sub")
    said = error(tmp_path / "*.csv")
    assert "a.csv: not a kind of file that is read" in said
    assert ".jsonl.zst" in said


def test_an_address_that_cannot_be_listed() -> None:
    assert "cannot list nope://bucket/a.jsonl" in error("nope://bucket/a.jsonl")


def test_a_txt_file_too_large_for_one_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "LARGEST_TXT", 10)
    (tmp_path / "a.txt").write_text("x" * 11)
    assert "at most 10 bytes (got 11)" in error(tmp_path / "a.txt")


NOISE = lines([f"{i * 7919 % 10007:x}" * 40 for i in range(4000)])
LATIN = lines(["fine"] * 3) + '{"text": "café"}\n'.encode("latin-1")
BAD = {
    "latin.jsonl": (LATIN, "latin.jsonl: not UTF-8 text", "0xe9"),
    "latin.jsonl.gz": (gzip.compress(LATIN), "latin.jsonl.gz: not UTF-8 text", "Convert it"),
    "latin.txt": ("é".encode("latin-1"), "latin.txt: not UTF-8 text", "0xe9"),
    "cut.jsonl.gz": (gzip.compress(NOISE)[:-900], "cut.jsonl.gz: truncated or damaged", "again"),
    "tail.jsonl.gz": (gzip.compress(NOISE)[:-4], "tail.jsonl.gz: truncated or damaged", "again"),
    "not.jsonl.gz": (NOISE, "not.jsonl.gz: truncated or damaged", "gzip"),
    "cut.jsonl.zst": (zstandard.compress(NOISE)[:-900], "cut.jsonl.zst: truncated or damaged", "does not end"),
    "tail.jsonl.zst": (zstandard.compress(NOISE)[:-1], "tail.jsonl.zst: truncated or damaged", "does not end"),
    "second.jsonl.zst": (zstandard.compress(NOISE) * 2 + b"\x28\xb5", "second.jsonl.zst: truncated", "does not end"),
    "not.jsonl.zst": (NOISE, "not.jsonl.zst: cannot be read (ZstdError", "is what its name says"),
    "json.jsonl": (lines(["a"]) + b"\n{'text': 'b'}\n", "json.jsonl, line 3: not valid JSON", "one JSON object"),
    "pretty.jsonl": (b'{\n "text": "b"\n}\n', "pretty.jsonl, line 1: not valid JSON", "one JSON object"),
    "list.jsonl": (b'["a"]\n', 'list.jsonl, line 1: must be an object such as {"text": "..."}', "got list"),
    "column.jsonl": (lines(["a"], "body"), "line 1: no column 'text' (columns there: id, body)", "as `text`"),
    "later.jsonl": (lines(["a"]) + lines(["b"], "body"), "later.jsonl, line 2: no column 'text'", "id, body"),
    "null.jsonl": (b'{"text": null}\n', "null.jsonl, line 1: column 'text' must be text", "got NoneType"),
    "number.jsonl": (b'{"text": 5}\n', "number.jsonl, line 1: column 'text' must be text", "got int"),
    "surrogate.jsonl": (b'{"text": "a\\ud800"}\n', "surrogate.jsonl, line 1: surrogates not allowed", "character 1"),
    "not.parquet": (NOISE, "not.parquet: cannot be read (", "is what its name says"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_named_and_explained(tmp_path: Path, name: str) -> None:
    content, where, why = BAD[name]
    (tmp_path / name).write_bytes(content)
    said = error(tmp_path / name)
    assert said.startswith("domain 'd': ")
    assert where in said
    assert why in said


def test_parquet_without_a_text_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ["x"])
    assert "no column 'body' (columns there: id, text)" in error(path, "body")
    assert "a.parquet, row 1: column 'id' must be text (got int)" in error(path, "id")


def test_a_file_that_vanishes_before_it_is_read(tmp_path: Path) -> None:
    (part,) = readers.files("d", str(write(tmp_path / "a.jsonl", ["x"])), "text")
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(FileNotFoundError"):
        list(part.read())
