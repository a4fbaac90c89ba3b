"""Token files that we write: equal to the store by our own reading, by megatron-core's and by OLMo-core's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixopt.data import DataConfig, Source, TokenizerConfig
from mixopt.domains import Manifest
from mixopt.errors import JobError
from mixopt.progress import Silent
from pipelines import write_shards
from pipelines.prepare import prepare
from proxies.tokens import TokenStore

END = 256


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for i in range(60):
            (tmp_path / f"{name}{i}.txt").write_text(f"{name} {i} " + "x" * int(rng.integers(1, 200)))
    sources = {name: Source(f"{tmp_path}/{name}*.txt") for name in ("a", "b")}
    return prepare(DataConfig(sources, tokenizer=TokenizerConfig("bytes")), tmp_path / "store", Silent())


def ids(manifest: Manifest, name: str, split: str) -> np.ndarray:
    store = TokenStore(manifest, 1)
    return np.concatenate([store.read(s, 0, s.tokens) for s in getattr(manifest[name], split).shards])


@pytest.mark.parametrize("piece", [1 << 22, 50], ids=["at once", "piece by piece"])
@pytest.mark.parametrize("to", write_shards.FORMATS)
def test_read_again_it_is_the_same(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, piece: int
) -> None:
    monkeypatch.setattr(write_shards, "PIECE", piece)
    written = write_shards.write(manifest, to, tmp_path / "out", Silent())
    split = written["domains"]["a"]["train"]
    path = tmp_path / "out" / (f"{split['prefix']}.bin" if to == "megatron" else split["files"][0]["path"])
    dtype = "uint16" if to == "olmo" else None
    other = Source(f"{tmp_path}/b*.txt")
    config = DataConfig({"a": Source(str(path), dtype=dtype), "b": other}, tokenizer=TokenizerConfig("bytes"))
    again = prepare(config, tmp_path / "again", Silent())
    found = np.concatenate([ids(again, "a", "train"), ids(again, "a", "valid")])
    assert np.array_equal(np.sort(found), np.sort(ids(manifest, "a", "train")))
    assert again["a"].train.documents + again["a"].valid.documents == manifest["a"].train.documents


def test_the_same_store_gives_the_same_bytes(manifest: Manifest, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_shards.write(manifest, "megatron", tmp_path / folder, Silent())
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert len(files) == 9
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_megatron_core_reads_it(manifest: Manifest, tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    written = write_shards.write(manifest, "megatron", tmp_path / "out", Silent())
    for name in manifest.names:
        for split in write_shards.SPLITS:
            dataset = indexed.IndexedDataset(str(tmp_path / "out" / written["domains"][name][split]["prefix"]))
            expected = ids(manifest, name, split)
            ends = np.flatnonzero(expected == END) + 1
            assert len(dataset) == len(ends) == getattr(manifest[name], split).documents
            assert dataset.document_indices.tolist() == list(range(len(ends) + 1))
            for i, own in enumerate(np.split(expected, ends)[:-1]):
                assert np.array_equal(dataset[i], own)


def test_what_megatron_core_writes_is_read(tmp_path: Path) -> None:
    indexed = pytest.importorskip("megatron.core.datasets.indexed_dataset")
    texts = [f"document {i} {i * i}" for i in range(120)]
    builder = indexed.IndexedDatasetBuilder(str(tmp_path / "m.bin"), dtype=np.int32)
    for text in texts:
        own = [*text.encode(), END]
        builder.add_document(np.array(own), [len(own)])
    builder.finalize(str(tmp_path / "m.idx"))
    for i in range(40):
        (tmp_path / f"b{i}.txt").write_text(f"text {i}")
    sources = {"a": Source(str(tmp_path / "m")), "b": Source(f"{tmp_path}/b*.txt")}
    manifest = prepare(DataConfig(sources, tokenizer=TokenizerConfig("bytes")), tmp_path / "store", Silent())
    found = np.concatenate([ids(manifest, "a", "train"), ids(manifest, "a", "valid")])
    documents = [
        bytes(own[:-1].astype(np.uint8)).decode() for own in np.split(found, np.flatnonzero(found == END) + 1)[:-1]
    ]
    assert sorted(documents) == sorted(texts)


def test_olmo_core_reads_it(manifest: Manifest, tmp_path: Path) -> None:
    """Its own reader of a stretch of ids, which knows no header."""
    data = pytest.importorskip("olmo_core.data.utils")
    written = write_shards.write(manifest, "olmo", tmp_path / "out", Silent())
    split = written["domains"]["b"]["train"]
    file = tmp_path / "out" / split["files"][0]["path"]
    found = data.load_array_slice_into_tensor(file, 10, 90, np.dtype(split["dtype"]).type)
    assert found.tolist() == ids(manifest, "b", "train")[10:90].tolist()
    assert file.stat().st_size == 2 * split["tokens"]


def test_what_is_there_stays_or_is_refused(manifest: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = write_shards.write(manifest, "megatron", out, Silent())
    stamp = (out / "shards.json").stat().st_mtime_ns
    assert write_shards.write(manifest, "megatron", out, Silent()) == first
    assert (out / "shards.json").stat().st_mtime_ns == stamp
    with pytest.raises(JobError, match="unknown format 'olmos'; did you mean 'olmo'"):
        write_shards.write(manifest, "olmos", tmp_path / "other", Silent())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("")
    with pytest.raises(JobError, match="was not written by `mixopt shards`"):
        write_shards.write(manifest, "olmo", tmp_path / "full", Silent())


def test_the_command_completes_the_mixture(
    mixopt: Callable[..., tuple[int, dict, str]], tmp_path: Path, texts: Path
) -> None:
    """After it, exports name the files."""
    job = tmp_path / "job.yaml"
    job.write_text(f"""
name: shards
store: {tmp_path}/store
data:
  domains: {{code: {{path: "{texts}/code/*.txt"}}, law: {{path: "{texts}/law/*.txt"}}}}
  tokenizer: bytes
target: {{tokens: 20_000}}
method: prior
proxies: {{size: 10k, tokens: 10_000}}
validate: {{seeds: 0}}
tracking: none
""")
    assert mixopt("search", job, "--out", tmp_path / "run")[0] == 0
    code, found, seen = mixopt("shards", tmp_path / "run", "--to", "megatron", "--out", tmp_path / "files")
    assert code == 0
    assert found["named"] == ["code", "law"]
    assert "names the files of code, law" in seen
    sources = {d["name"]: d["sources"] for d in json.loads((tmp_path / "run" / "mixture.json").read_text())["domains"]}
    assert sources["law"]["megatron_prefix"] == str(tmp_path / "files/train/law_text_document")
    assert mixopt("export", tmp_path / "run", "--to", "megatron")[0] == 0
    assert f"{tmp_path}/files/train/law_text_document" in (tmp_path / "run/export/megatron/blend.txt").read_text()
