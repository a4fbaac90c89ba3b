"""Prepared once: the right tokens, no leak from held-out text, nothing half-written, bounded memory."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt.data import DataConfig, HubSource, Source, TokenizerConfig, summary
from mixopt.domains import Domain, Manifest
from mixopt.errors import DataError, JobError
from mixopt.progress import Silent
from pipelines import prepare as module
from pipelines import shards as shards_module
from pipelines.prepare import prepare

BYTES = TokenizerConfig("bytes")
A = [f"alpha {i} is a document about {i * 37 % 101}" for i in range(200)]
B = [f"béta {i}: {'word ' * (i % 9)}end" for i in range(100)]


def write(path: Path, documents: Iterable[str]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    return str(path)


def config(folder: Path, tokenizer: TokenizerConfig = BYTES, **options: Any) -> DataConfig:
    """Two domains, `a` and `b`, with held-out documents split off."""
    paths = {"a": write(folder / "a.jsonl", A), "b": write(folder / "b.jsonl", B)}
    return DataConfig({name: Source(path) for name, path in paths.items()}, tokenizer=tokenizer, **options)


def tokens(manifest: Manifest, domain: Domain, side: str) -> np.ndarray:
    dtype = f"<u{manifest.token_bytes}"
    shards = getattr(domain, side).shards
    arrays = [np.fromfile(manifest.root / shard.path, dtype) for shard in shards]
    assert [len(array) for array in arrays] == [shard.tokens for shard in shards]
    return np.concatenate(arrays)


def documents(manifest: Manifest, name: str, side: str) -> list[str]:
    """The documents of a corpus prepared as bytes, read back from its shards."""
    ids = tokens(manifest, manifest[name], side)
    assert ids[-1] == 256
    return [bytes(own[:-1].astype(np.uint8)).decode() for own in np.split(ids, np.flatnonzero(ids == 256) + 1)[:-1]]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def leftovers(store: Path) -> list[str]:
    return [path.name for path in (store / "data").iterdir() if path.name.startswith(".")]


def test_counts_and_tokens_are_those_of_the_text(tmp_path: Path, scratch: Path) -> None:
    manifest = prepare(config(tmp_path), scratch, Silent())
    assert manifest == Manifest.load(manifest.root)
    assert manifest.names == ("a", "b")
    for name, given in (("a", A), ("b", B)):
        domain = manifest[name]
        train, valid = documents(manifest, name, "train"), documents(manifest, name, "valid")
        assert sorted(train + valid) == sorted(given)
        assert [text for text in given if text in train] == train  # in the order of the file
        for split, own in ((domain.train, train), (domain.valid, valid)):
            size = sum(len(text.encode()) for text in own)
            assert (split.documents, split.bytes, split.tokens) == (len(own), size, size + len(own))
        assert domain.tokens == domain.train.tokens
        assert [shard.path for shard in domain.train.shards] == [f"{name}/train-00000.u16"]
    assert manifest["a"].sources == (str(tmp_path / "a.jsonl"),)


def test_the_summary_has_a_row_for_each_domain(tmp_path: Path, scratch: Path) -> None:
    manifest = prepare(config(tmp_path), scratch, Silent())
    rows = summary(manifest)
    assert [row["domain"] for row in rows] == ["a", "b"]
    assert rows[0]["documents"] + rows[0]["held-out documents"] == len(A)
    assert rows[0]["bytes/token"] == manifest["a"].train.bytes / manifest["a"].train.tokens


def test_a_trained_tokenizer_goes_with_the_shards(tmp_path: Path, scratch: Path) -> None:
    from tokenizers import Tokenizer as Library

    manifest = prepare(config(tmp_path, TokenizerConfig("train", 300)), scratch, Silent())
    library = Library.from_file(str(manifest.root / manifest.tokenizer.file))
    for name, given in (("a", A), ("b", B)):
        found = []
        for side in ("train", "valid"):
            ids = tokens(manifest, manifest[name], side)
            ends = np.flatnonzero(ids == manifest.tokenizer.end_of_text) + 1
            found += [library.decode(own.tolist()) for own in np.split(ids, ends)[:-1]]
        assert sorted(found) == sorted(given)
    assert manifest.tokenizer.vocabulary == 300


def test_a_tokenizer_is_not_trained_on_held_out_text(tmp_path: Path, scratch: Path) -> None:
    valid = write(tmp_path / "valid.jsonl", ["Zq" * 50 + str(i) for i in range(50)])
    given = config(tmp_path, TokenizerConfig("train", 290))
    leaking = {
        "a": Source(write(tmp_path / "c.jsonl", A + ["Zq" * 50 + "1"] * 50), valid=valid),
        "b": given.domains["b"],
    }
    with_valid = DataConfig(leaking, tokenizer=given.tokenizer)
    manifest = prepare(with_valid, scratch, Silent())
    assert '"Zq"' not in (manifest.root / "tokenizer.json").read_text()


def test_a_tokenizer_sees_every_domain_and_files_from_end_to_end(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAMPLE_BYTES", 8000)
    monkeypatch.setattr(module, "SAMPLE_PART", 1000)
    for i in range(16):
        write(tmp_path / f"many-{i:02d}.jsonl", [f"{'qxjz' * 200} file{i}"] + A)
    sources = {
        "a": Source(str(tmp_path / "many-*.jsonl")),
        "b": Source(write(tmp_path / "b.jsonl", ["vwk " * 9000, *B])),
    }
    corpora = [module.corpus(name, DataConfig(sources, tokenizer=BYTES)) for name in sources]
    seen: list[float] = []
    sample = list(module._sample(corpora, module.HeldOut(0, keep=False), seen.append))
    assert [text[-6:] for text in sample if "qxjz" in text] == [" file0", " file4", " file8", "file12"]
    assert sample[-1] == ("vwk " * 9000)[:4000]
    assert len(seen) == len(sample)


def test_the_same_text_gives_the_same_files_whatever_the_paths(tmp_path: Path, scratch: Path) -> None:
    one = prepare(config(tmp_path / "one", TokenizerConfig("train", 300)), scratch, Silent())
    two = prepare(config(tmp_path / "elsewhere", TokenizerConfig("train", 300)), scratch, Silent())
    assert one.root != two.root
    assert one.fingerprint == two.fingerprint
    assert {d.name: d.fingerprint for d in one.domains} == {d.name: d.fingerprint for d in two.domains}
    names = [name for name in files(one.root) if name not in ("manifest.json", "prepared.json")]
    assert {name: files(one.root)[name] for name in names} == {name: files(two.root)[name] for name in names}


def test_fingerprints_follow_the_text_of_a_domain_and_the_tokenizer(tmp_path: Path, scratch: Path) -> None:
    first = prepare(config(tmp_path), scratch, Silent())
    given = config(tmp_path)
    write(tmp_path / "b.jsonl", [*B, "one more"])
    second = prepare(given, scratch, Silent())
    third = prepare(config(tmp_path, TokenizerConfig("train", 300)), scratch, Silent())
    assert first["a"].fingerprint == second["a"].fingerprint != third["a"].fingerprint
    assert len({first["b"].fingerprint, second["b"].fingerprint, third["b"].fingerprint}) == 3


def test_a_second_call_does_nothing(tmp_path: Path, scratch: Path) -> None:
    given = config(tmp_path, TokenizerConfig("train", 300))
    first = prepare(given, scratch, Silent())
    times = {path: path.stat().st_mtime_ns for path in scratch.rglob("*")}
    assert prepare(given, scratch, Silent()) == first
    assert {path: path.stat().st_mtime_ns for path in scratch.rglob("*")} == times


def test_any_change_of_the_inputs_prepares_again(tmp_path: Path, scratch: Path) -> None:
    variants = [
        config(tmp_path),
        config(tmp_path, TokenizerConfig("train", 300)),
        config(tmp_path, TokenizerConfig("train", 301)),
        config(tmp_path, validation_fraction=0.2),
        config(tmp_path, max_bytes=2000),
    ]
    roots = {prepare(variant, scratch, Silent()).root for variant in variants[1:]}
    given = config(tmp_path)
    roots |= {prepare(given, scratch, Silent()).root}
    os.utime(tmp_path / "a.jsonl", (1, 1))
    roots |= {prepare(given, scratch, Silent()).root}
    assert len(roots) == 6


def test_available_tokens_are_the_configurations_and_prepare_nothing_anew(tmp_path: Path, scratch: Path) -> None:
    given = config(tmp_path)
    first = prepare(given, scratch, Silent())
    more = {"a": Source(given.domains["a"].path, tokens=10**12), "b": given.domains["b"]}
    second = prepare(DataConfig(more, tokenizer=BYTES), scratch, Silent())
    assert (second.root, second.fingerprint) == (first.root, first.fingerprint)
    assert (second["a"].tokens, second["b"].tokens) == (10**12, first["b"].tokens)
    fewer = {"a": Source(given.domains["a"].path, tokens=5), "b": given.domains["b"]}
    with pytest.raises(DataError, match=r"data\.domains\.a\.tokens: 5 are fewer than the [\d,]+ prepared"):
        prepare(DataConfig(fewer, tokenizer=BYTES), scratch, Silent())


def test_about_the_fraction_is_held_out_and_equal_texts_are_on_one_side(tmp_path: Path, scratch: Path) -> None:
    shared = [f"shared {i}" for i in range(1000)]
    sources = {
        "a": Source(write(tmp_path / "a.jsonl", shared + shared[::3])),
        "b": Source(write(tmp_path / "b.jsonl", [f"own {i}" for i in range(1000)] + shared[::2])),
    }
    manifest = prepare(DataConfig(sources, tokenizer=BYTES, validation_fraction=0.1), scratch, Silent())
    train, valid = ({*documents(manifest, "a", s), *documents(manifest, "b", s)} for s in ("train", "valid"))
    assert not train & valid
    assert 0.07 < len(valid) / len(train | valid) < 0.13


def test_a_valid_path_is_the_held_out_text_and_nobody_trains_on_it(tmp_path: Path, scratch: Path) -> None:
    valid = [f"valid {i}" for i in range(20)]
    split_off = [f"b {i}" for i in range(300)]
    sources = {
        "a": Source(write(tmp_path / "a.jsonl", A + valid[:5] + split_off), valid=write(tmp_path / "v.jsonl", valid)),
        "b": Source(write(tmp_path / "b.jsonl", split_off + valid[5:15])),
    }
    manifest = prepare(DataConfig(sources, tokenizer=BYTES), scratch, Silent())
    train = {*documents(manifest, "a", "train"), *documents(manifest, "b", "train")}
    held_out = {*documents(manifest, "a", "valid"), *documents(manifest, "b", "valid")}
    assert documents(manifest, "a", "valid") == valid
    assert not train & held_out
    assert train | held_out == {*A, *valid, *split_off}  # nothing else is lost
    dropped = json.loads((manifest.root / "prepared.json").read_text())["dropped"]
    b_valid = set(documents(manifest, "b", "valid"))
    assert dropped == {"a": 5 + len(b_valid & set(split_off)), "b": 10 - len(b_valid & set(valid))}


def test_documents_without_text_are_passed_over(tmp_path: Path, scratch: Path) -> None:
    given = config(tmp_path)
    write(tmp_path / "a.jsonl", ["", " \n\t ", *A])
    assert (
        summary(prepare(given, scratch, Silent()))[0]["documents"]
        == 200 - prepare(given, scratch, Silent())["a"].valid.documents
    )


def test_shards_hold_whole_documents_and_are_filled_in_turn(
    tmp_path: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(config(tmp_path), scratch, Silent())
    monkeypatch.setattr(shards_module, "SHARD_TOKENS", 1000)
    monkeypatch.setattr(module, "BATCH_BYTES", 200)
    parts = prepare(config(tmp_path), scratch.with_name("other"), Silent())
    shards = parts["a"].train.shards
    assert [shard.path for shard in shards[:2]] == ["a/train-00000.u16", "a/train-00001.u16"]
    assert len(shards) > 5
    assert max(shard.tokens for shard in shards) <= 1000
    for side in ("train", "valid"):
        assert (tokens(parts, parts["a"], side) == tokens(whole, whole["a"], side)).all()
    assert parts.fingerprint == whole.fingerprint
    ends = [np.fromfile(parts.root / shard.path, "<u2")[-1] for shard in shards]
    assert set(ends) == {256}


def test_max_bytes_stops_the_reading(tmp_path: Path, scratch: Path) -> None:
    manifest = prepare(config(tmp_path, max_bytes=3000), scratch, Silent())
    domain = manifest["a"]
    assert 3000 <= domain.train.bytes + domain.valid.bytes < 3100


def test_a_dataset_of_the_hub_is_a_domain(tmp_path: Path, scratch: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", A)
    given = config(tmp_path)
    sources = {"hub": Source(hf=HubSource(str(tmp_path / "set"))), "b": given.domains["b"]}
    manifest = prepare(DataConfig(sources, tokenizer=BYTES), scratch, Silent())
    assert sorted(documents(manifest, "hub", "train") + documents(manifest, "hub", "valid")) == sorted(A)


def refused(domains: dict[str, Source], store: Path, **options: Any) -> str:
    """The error's sentence; nothing may be left in the store."""
    with pytest.raises(DataError) as caught:
        prepare(DataConfig(domains, tokenizer=options.pop("tokenizer", BYTES), **options), store, Silent())
    assert not [name for name in files(store) if not name.endswith(".lock")]
    return str(caught.value)


def test_domains_that_are_too_small(tmp_path: Path, scratch: Path) -> None:
    good = Source(write(tmp_path / "good.jsonl", A))
    few = Source(write(tmp_path / "few.jsonl", ["one", "two", "three"]))
    empty = Source(write(tmp_path / "empty.jsonl", ["", " "]))
    same = Source(write(tmp_path / "same.jsonl", ["x"] * 9), valid=write(tmp_path / "v.jsonl", ["x"]))
    assert "at least two domains (got good)" in refused({"good": good}, scratch)
    said = refused({"good": good, "few": few}, scratch, validation_fraction=1e-9)
    assert "no held-out document among its" in said
    assert "domain 'few': no held-out document among its 3 (validation fraction" in refused(
        {"few": few, "good": good}, scratch, validation_fraction=0.01
    )
    assert "domain 'empty': no document with text in" in refused({"good": good, "empty": empty}, scratch)
    assert "domain 'same': no document to train on" in refused({"good": good, "same": same}, scratch)


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path, scratch: Path) -> None:
    good = Source(write(tmp_path / "good.jsonl", A))
    broken = {"good": good, "gone": Source(str(tmp_path / "gone.jsonl")), "kind": Source(write(tmp_path / "x.csv", A))}
    said = refused(broken, scratch).splitlines()
    assert ["gone" in said[0], "kind" in said[1], len(said)] == [True, True, 2]
    columns = {"good": good, "c": Source(good.path, text="body"), "d": Source(good.path, text="content")}
    said = refused(columns, scratch).splitlines()
    assert ["'body'" in said[0], "'content'" in said[1], len(said)] == [True, True, 2]


@pytest.mark.parametrize("kind", ["bytes", "train"])
def test_an_error_in_the_middle_leaves_nothing_behind(tmp_path: Path, scratch: Path, kind: Any) -> None:
    bad = write(tmp_path / "bad.jsonl", A)
    with Path(bad).open("a") as f:
        f.write("{broken\n")
    said = refused(
        {"a": config(tmp_path).domains["a"], "bad": Source(bad)}, scratch, tokenizer=TokenizerConfig(kind, 300)
    )
    assert "bad.jsonl, line 201: not valid JSON" in said
    assert leftovers(scratch) == []


def test_batches_come_back_in_order_and_few_are_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "THREADS", 3)
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for i in range(50):
            taken.append(i)
            yield i

    def slow_at_first(i: int) -> int:
        time.sleep(0.02 if i == 0 else 0)
        return -i

    with ThreadPoolExecutor(3) as pool:
        for i, result in enumerate(shards_module.ahead(pool, slow_at_first, batches())):
            assert result == -i
            assert len(taken) <= i + 4


def test_an_error_while_encoding_comes_through() -> None:
    encoder = module.tokenizer.make(BYTES, ())
    broken = [("train", "\ud800 no Unicode text", 3)]
    with ThreadPoolExecutor(1) as pool, pytest.raises(UnicodeEncodeError):
        list(shards_module.ahead(pool, partial(module._encoded, encoder), [broken]))


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DataError, match=r"store .*store: cannot be written"):
        prepare(config(tmp_path), tmp_path / "store", Silent())


def test_a_damaged_prepared_folder_is_made_anew(tmp_path: Path, scratch: Path) -> None:
    given = config(tmp_path)
    first = prepare(given, scratch, Silent())
    (first.root / "manifest.json").unlink()
    (first.root / "a" / "train-00000.u16").write_bytes(b"")
    assert prepare(given, scratch, Silent()) == first
    assert len(documents(first, "a", "train")) == first["a"].train.documents


def test_wrong_configurations_are_told_together() -> None:
    with pytest.raises(JobError) as caught:
        DataConfig(
            {"a/b": Source("x", hf=HubSource("y")), "c": Source("x", tokens=0)},
            source="environment",
            tokenizer=TokenizerConfig("trian", 3, file="x"),  # type: ignore[arg-type]
            validation_fraction=1.5,
            max_bytes=0,
        )
    marks = (
        "exactly one of domains",
        "fraction",
        "max_bytes",
        "'train'",
        ".file",
        "257",
        "'a/b'",
        "a/b: give",
        "c.tokens",
    )
    assert [mark for mark in marks if mark not in str(caught.value)] == []
    assert len(str(caught.value).splitlines()) == len(marks)


ENVIRONMENT = """
import sys
from pathlib import Path
from mixopt.data import DataConfig, TokenizerConfig
from mixopt.progress import Silent
from pipelines.prepare import prepare
config = DataConfig(source="environment", tokenizer=TokenizerConfig("bytes"))
print(prepare(config, Path(sys.argv[1]), Silent()).fingerprint)
"""


def start(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_two_processes_at_once_both_succeed(scratch: Path) -> None:
    both = [start(ENVIRONMENT, scratch) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0] == said[1] == (said[0][0], "")
    assert len([path for path in (scratch / "data").iterdir() if path.is_dir()]) == 1
    assert leftovers(scratch) == []


def test_what_a_killed_process_left_is_removed(scratch: Path) -> None:
    with start(ENVIRONMENT, scratch) as killed:
        while killed.poll() is None and not list(scratch.glob("data/.*.partial")):
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert len(leftovers(scratch)) == 1
    manifest = prepare(DataConfig(source="environment", tokenizer=BYTES), scratch, Silent())
    assert leftovers(scratch) == []
    assert manifest.names == tuple(sorted(manifest.names))
    assert len(manifest.names) >= 5


LARGE = """
import json, resource, socket, sys
from pathlib import Path
def no(*arguments, **options): raise AssertionError(f"network: {arguments}")
socket.socket.connect = socket.getaddrinfo = no
from mixopt.data import DataConfig, Source, TokenizerConfig
from mixopt.progress import Silent
from pipelines.prepare import prepare
folder, peaks = Path(sys.argv[1]), []
for name in ("small", "large"):
    sources = {"a": Source(str(folder / f"{name}.jsonl.gz")), "b": Source(str(folder / "small.jsonl.gz"))}
    manifest = prepare(DataConfig(sources, tokenizer=TokenizerConfig("bytes")), folder / "store", Silent())
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
print(json.dumps([*peaks, manifest["a"].train.bytes >> 20]))
"""


def test_memory_is_bounded_and_local_files_touch_neither_home_nor_network(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name, count in (("small", 2_000), ("large", 100_000)):
        with gzip.open(tmp_path / f"{name}.jsonl.gz", "wt", compresslevel=1, encoding="utf-8") as f:
            f.writelines(json.dumps({"text": f"{i} " + "x" * 1000}) + "\n" for i in range(count))
    outside = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
    with start(LARGE, tmp_path, env={**outside, "HOME": str(home)}) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    small, large, size = json.loads(out)
    assert size > 85
    assert large - small < 40, (large, small)  # MiB, while reading more than twice as much
    assert list(home.rglob("*")) == []
