"""Token files of others: the same documents as from text, read where they lie; bad files refused with one sentence."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt.data import DataConfig, Source, TokenizerConfig
from mixopt.domains import Manifest, TokenFile
from mixopt.errors import DataError, JobError
from mixopt.progress import Silent
from pipelines import adopt, token_files
from pipelines.prepare import prepare
from proxies.tokens import TokenStore

BYTES, END = TokenizerConfig("bytes"), 256
TEXTS = [f"{i}: {'word ' * (i % 9)}document {i * 37 % 101}" for i in range(300)]
OTHERS = [f"béta {i} {i * i}" for i in range(200)]


def encoded(text: str, dtype: str = "uint16") -> np.ndarray:
    return np.append(np.frombuffer(text.encode(), np.uint8), END).astype(dtype)


def index(lengths: Sequence[int], firsts: Sequence[int], code: int, width: int, modes: bool = False) -> bytes:
    """An .idx made by hand."""
    begins = np.cumsum([0, *lengths[:-1]]) * width if lengths else []
    parts = [
        b"MMIDIDX\x00\x00",
        struct.pack("<QBQQ", 1, code, len(lengths), len(firsts)),
        np.array(lengths, "<i4").tobytes(),
        np.array(begins, "<i8").tobytes(),
        np.array(firsts, "<i8").tobytes(),
        bytes(len(lengths)) if modes else b"",
    ]
    return b"".join(parts)


def megatron(prefix: Path, texts: Sequence[str], dtype: str = "uint16", **options: Any) -> str:
    """A pair of files, each document one sequence; the path of one half."""
    documents = [encoded(text, dtype) for text in texts]
    code = {name: code for code, name in token_files.CODES.items()}[dtype]
    firsts = options.pop("firsts", range(len(texts) + 1))
    Path(f"{prefix}.bin").write_bytes(b"".join(ids.tobytes() for ids in documents))
    lengths = [len(ids) for ids in documents]
    Path(f"{prefix}.idx").write_bytes(index(lengths, firsts, code, np.dtype(dtype).itemsize, **options))
    return f"{prefix}.bin"


def raw(path: Path, texts: Sequence[str], dtype: str = "uint16") -> str:
    np.concatenate([encoded(text, dtype) for text in texts]).tofile(path)
    return str(path)


def prepared(path: str, store: Path, dtype: str | None = None, **options: Any) -> Manifest:
    """Domain `a` of these files, and `b` of others."""
    other = raw(store.with_name("other.npy"), OTHERS)
    sources = {"a": Source(path, dtype=dtype, **options.pop("source", {})), "b": Source(other, dtype="uint16")}
    return prepare(DataConfig(sources, tokenizer=BYTES, **options), store, Silent())


def tokens(manifest: Manifest, name: str, split: str) -> np.ndarray:
    store = TokenStore(manifest, 1)
    return np.concatenate([store.read(s, 0, s.tokens) for s in getattr(manifest[name], split).shards])


def documents(manifest: Manifest, name: str, split: str) -> list[str]:
    ids = tokens(manifest, name, split)
    assert ids[-1] == END
    return [bytes(own[:-1].astype(np.uint8)).decode() for own in np.split(ids, np.flatnonzero(ids == END) + 1)[:-1]]


def saved(path: Path, texts: Sequence[str]) -> str:
    np.save(path, np.concatenate([encoded(text, "uint32") for text in texts]))
    return str(path)


WRITERS: dict[str, tuple[Callable[[Path], str], str | None]] = {
    "megatron": (lambda folder: megatron(folder / "a", TEXTS), None),
    "megatron by its prefix, wide": (lambda folder: megatron(folder / "a", TEXTS, "int32")[:-4], None),
    "megatron of int64, by its index": (lambda folder: megatron(folder / "a", TEXTS, "int64")[:-4] + ".idx", None),
    "megatron without the last document": (
        lambda folder: megatron(folder / "a", TEXTS, firsts=range(len(TEXTS))),
        "uint16",
    ),
    "megatron with modes": (lambda folder: megatron(folder / "a", TEXTS, modes=True), None),
    "npy": (lambda folder: raw(folder / "a.npy", TEXTS, "uint32"), "uint32"),
    "npy with a header": (lambda folder: saved(folder / "a.npy", TEXTS), None),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_documents(tmp_path: Path, scratch: Path, kind: str) -> None:
    write, dtype = WRITERS[kind]
    manifest = prepared(write(tmp_path), scratch, dtype)
    domain = manifest["a"]
    train, valid = documents(manifest, "a", "train"), documents(manifest, "a", "valid")
    assert sorted(train + valid) == sorted(TEXTS)
    assert [text for text in TEXTS if text in train] == train
    for split, own in ((domain.train, train), (domain.valid, valid)):
        size = sum(len(text.encode()) for text in own)
        assert (split.documents, split.bytes, split.tokens) == (len(own), size, size + len(own))
    reference = prepared(raw(tmp_path / "reference.npy", TEXTS), scratch, "uint16")
    assert manifest.fingerprint == reference.fingerprint
    assert valid == documents(reference, "a", "valid")
    assert {Path(s.path).parent for s in domain.train.shards} == {tmp_path}, "used where they lie"
    assert Manifest.load(manifest.root) == manifest


def test_rows_are_those_of_a_copy(tmp_path: Path, scratch: Path) -> None:
    """Rows of stretches of a file, against the same tokens as one file of the store."""
    manifest = prepared(megatron(tmp_path / "a", TEXTS, "int32"), scratch)
    for sequence in (1, 7, 64, 1000):
        store = TokenStore(manifest, sequence)
        for name in manifest.names:
            for split in ("train", "valid"):
                flat, count = tokens(manifest, name, split), store.blocks(name, split)
                expected = [flat[i * sequence : (i + 1) * sequence + 1] for i in range(count)]
                order = np.random.default_rng(0).permutation(count)
                rows = store.gather(store.first(name, split) + order, split)
                assert count == max(0, (len(flat) - 1) // sequence)
                assert np.array_equal(rows, np.array(expected).reshape(-1, sequence + 1)[order])


def test_shards_of_few_stretches(tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = megatron(tmp_path / "a", TEXTS)
    whole = prepared(path, scratch)
    monkeypatch.setattr(adopt, "RUNS", 4)
    monkeypatch.setattr(token_files, "CHUNK", 100)
    parts = prepared(path, scratch.with_name("parts"))
    assert len(whole["a"].train.shards) == 1 < len(parts["a"].train.shards)
    for split in ("train", "valid"):
        assert np.array_equal(tokens(parts, "a", split), tokens(whole, "a", split))
    assert parts.fingerprint == whole.fingerprint


def test_documents_of_several_sequences_and_of_none(tmp_path: Path, scratch: Path) -> None:
    texts = ["one", "two", "three"] * 30
    ids = [encoded(text) for text in texts]
    halves = [half for own in ids for half in (own[:2], own[2:])]
    (tmp_path / "a.bin").write_bytes(b"".join(own.tobytes() for own in halves))
    firsts = [0, 0, *range(0, len(halves), 2), len(halves), len(halves)]  # documents without sequences at both ends
    (tmp_path / "a.idx").write_bytes(index([len(own) for own in halves], firsts, 8, 2))
    manifest = prepared(str(tmp_path / "a.bin"), scratch, validation_fraction=0.4)
    domain = manifest["a"]
    assert domain.train.documents + domain.valid.documents == len(texts)
    assert set(documents(manifest, "a", "train")).isdisjoint(documents(manifest, "a", "valid"))


def test_given_held_out_files_are_not_trained_on(tmp_path: Path, scratch: Path) -> None:
    valid = raw(tmp_path / "valid.npy", [TEXTS[3], OTHERS[5], "another"])
    source = {"valid": valid}
    manifest = prepared(megatron(tmp_path / "a", TEXTS), scratch, "uint16", source=source)
    assert documents(manifest, "a", "valid") == [TEXTS[3], OTHERS[5], "another"]
    assert documents(manifest, "a", "train") == [text for text in TEXTS if text != TEXTS[3]]
    assert OTHERS[5] not in documents(manifest, "b", "train")
    (scratch / "data").exists()


def test_several_files_are_one_domain_and_named(tmp_path: Path, scratch: Path) -> None:
    for i in range(3):
        raw(tmp_path / f"part-{i}.npy", TEXTS[i::3])
    manifest = prepared(str(tmp_path / "part-*.npy"), scratch, "uint16")
    every = documents(manifest, "a", "train") + documents(manifest, "a", "valid")
    assert sorted(every) == sorted(TEXTS)
    sizes = [sum(len(t.encode()) + 1 for t in TEXTS[i::3]) for i in range(3)]
    assert manifest["a"].files == tuple(
        TokenFile("npy", str(tmp_path / f"part-{i}.npy"), size, "uint16") for i, size in enumerate(sizes)
    )


def test_text_and_token_files_together(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "b.txt").write_text("x" * 50)
    for i in range(40):
        (tmp_path / f"b{i}.txt").write_text(f"text {i}")
    sources = {"a": Source(megatron(tmp_path / "a", TEXTS)), "b": Source(str(tmp_path / "b*.txt"))}
    manifest = prepare(DataConfig(sources, tokenizer=BYTES, validation_fraction=0.2), scratch, Silent())
    rows = TokenStore(manifest, 8).gather(np.arange(3))
    assert rows.shape == (3, 9)
    assert manifest["b"].files == ()


def test_a_changed_file_is_prepared_again_and_a_shorter_one_refused(tmp_path: Path, scratch: Path) -> None:
    path = raw(tmp_path / "a.npy", TEXTS)
    first = prepared(path, scratch, "uint16")
    raw(tmp_path / "a.npy", TEXTS[:200])
    with pytest.raises(DataError, match=r"a\.npy: holds .* tokens, .* were there when the text was prepared"):
        TokenStore(first, 8).gather(np.arange(3))
    again = prepared(path, scratch, "uint16")
    assert again["a"].train.tokens < first["a"].train.tokens


def refused(path: str, scratch: Path, dtype: str | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        prepared(path, scratch, dtype, **options)
    assert not list(scratch.glob("data/*/*"))
    return str(caught.value)


def damaged(path: Path, edit: Callable[[bytes], bytes]) -> None:
    path.write_bytes(edit(path.read_bytes()))


BROKEN: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "bin cut": ("bin", lambda b: b[:-2], "bytes, its index speaks of"),
    "bin of another index": ("bin", lambda b: b + b, "bytes, its index speaks of"),
    "bin empty": ("bin", lambda b: b"", "0 bytes, its index speaks of"),
    "idx cut": ("idx", lambda b: b[:-9], "a.idx is truncated or damaged"),
    "idx cut in its head": ("idx", lambda b: b[:20], "no Megatron index"),
    "idx of something else": ("idx", lambda b: b"x" * len(b), "no Megatron index"),
    "older": ("idx", lambda b: b"TNTIDX\x00\x00" + b[8:], "older dataset"),
    "version": ("idx", lambda b: b[:9] + b"\x02" + b[10:], "version 2"),
    "floats": ("idx", lambda b: b[:17] + b"\x07" + b[18:], "type 7 (read are version 1 and types 1 uint8"),
    "another width": ("idx", lambda b: b[:17] + b"\x04" + b[18:], "tokens of int32"),
    "sequences": ("idx", lambda b: b[:34] + b"\xff\x00\x00\x00" + b[38:], "sequence 1 of"),
    "documents": (
        "idx",
        lambda b: b[:-16] + b"\x02" + b[-15:],
        "documents do not rise from 0 to its 300 sequences",
    ),
    "no end": ("bin", lambda b: b[:-2] + b"\x07\x00", "ends with id 7, end of text is 256"),
    "id": ("bin", lambda b: b[:4] + b"\xff\xff" + b[6:], "token 2 is id 65535, the tokenizer has ids 0 to 256"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_damaged_pairs(tmp_path: Path, scratch: Path, what: str) -> None:
    half, edit, said = BROKEN[what]
    path = megatron(tmp_path / "a", TEXTS)
    damaged(tmp_path / f"a.{half}", edit)
    message = refused(path, scratch)
    assert "domain 'a'" in message
    assert said in message


@pytest.mark.parametrize("half", ["bin", "idx"])
def test_half_of_a_pair(tmp_path: Path, scratch: Path, half: str) -> None:
    megatron(tmp_path / "a", TEXTS)
    (tmp_path / f"a.{half}").unlink()
    for path in ("a", "a.bin", "a.idx"):
        assert f"a.{half} is not" in refused(str(tmp_path / path), scratch)


def test_an_index_without_sequences(tmp_path: Path, scratch: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "a.idx").write_bytes(index([], [0], 8, 2))
    assert "It is empty" in refused(str(tmp_path / "a"), scratch)


def test_plain_files_that_are_not_what_they_are_said_to_be(tmp_path: Path, scratch: Path) -> None:
    path = raw(tmp_path / "a.npy", TEXTS, "uint16")
    assert "Give the domain's dtype" in refused(path, scratch)
    with pytest.raises((DataError, JobError), match="unknown type 'unit16'; did you mean 'uint16'"):
        prepared(path, scratch, "unit16")
    assert "truncated, of another dtype or of another tokenizer" in refused(path, scratch, "uint32")
    assert "uint8 cannot hold end of text, id 256" in refused(path, scratch, "uint8")
    damaged(tmp_path / "a.npy", lambda b: b[:-1])
    assert "no whole number of uint16 ids" in refused(path, scratch, "uint16")
    damaged(tmp_path / "a.npy", lambda b: b[:-5])
    assert "no end of text, id 256" in refused(path, scratch, "uint16")
    damaged(tmp_path / "a.npy", lambda b: b"")
    assert "It is empty" in refused(path, scratch, "uint16")


def test_wide_ids_read_as_narrow_ones(tmp_path: Path, scratch: Path) -> None:
    path = raw(tmp_path / "a.npy", TEXTS, "uint32")
    assert "no end of text, id 256" in refused(path, scratch, "uint16")


def test_documents_without_an_end_are_not_looked_through_for_ever(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_files, "CHUNK", 8)
    monkeypatch.setattr(token_files, "LONGEST", 32)
    np.arange(100, dtype=np.uint16).tofile(tmp_path / "a.npy")
    assert "among the 32 tokens after token 0" in refused(str(tmp_path / "a.npy"), scratch, "uint16")


def test_headers_of_numpy(tmp_path: Path, scratch: Path) -> None:
    path = saved(tmp_path / "a.npy", TEXTS)
    assert "holds uint32, the job says dtype: uint16" in refused(path, scratch, "uint16")
    damaged(tmp_path / "a.npy", lambda b: b[:-4])
    assert "its header (numpy's) speaks of" in refused(path, scratch)
    damaged(tmp_path / "a.npy", lambda b: b[:40])
    assert "its numpy header cannot be read" in refused(path, scratch)
    for array in (np.ones(9), np.ones(9, ">i4"), np.asfortranarray(np.ones((3, 3), np.int32)), np.array(["a"])):
        np.save(path, array)
        assert "little-endian uint8" in refused(path, scratch)


def test_files_that_do_not_go_together(tmp_path: Path, scratch: Path) -> None:
    megatron(tmp_path / "x-0", TEXTS, "uint16")
    megatron(tmp_path / "x-1", TEXTS, "int32")
    raw(tmp_path / "x.npy", TEXTS)
    (tmp_path / "x.txt").write_text("text")
    assert "several types (uint16 in x-0.bin, int32 in x-1.bin)" in refused(str(tmp_path / "x-*.bin"), scratch)
    assert "several kinds" in refused(str(tmp_path / "{x-0.bin,x.npy}"), scratch, "uint16")
    assert "several kinds" in refused(str(tmp_path / "{x-0.bin,x.txt}"), scratch)
    assert "no file matches" in refused(str(tmp_path / "gone.npy"), scratch, "uint16")
    assert "memory-mapped. Mount it" in refused("s3://bucket/x.npy", scratch, "uint16")
    text = {"valid": str(tmp_path / "x.txt")}
    assert "text and token files" in refused(str(tmp_path / "x-0.bin"), scratch, source=text)
    assert "dtype belongs to token files" in refused(str(tmp_path / "x.txt"), scratch, "uint16")


def test_the_tokenizer_must_be_theirs(tmp_path: Path, scratch: Path) -> None:
    sources = {"a": Source(megatron(tmp_path / "a", TEXTS)), "b": Source(megatron(tmp_path / "b", OTHERS))}
    with pytest.raises(DataError, match="the tokenizer is not to be trained"):
        prepare(DataConfig(sources), scratch, Silent())
