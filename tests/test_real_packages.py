"""The training stacks themselves, where they are installed, draw small made-up domains; the tokens drawn are counted.

Every token of a domain has an id of its own, so a drawn token says where it comes from and whether it came before.
"""

import json
import math
import runpy
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt.backends import make
from mixopt.backends.base import Backend
from mixopt.backends.olmo_composable import OlmoComposable
from mixopt.backends.olmo_core import OlmoCore
from mixopt.domains import Shard
from mixopt.handoff import Plan, PlannedDomain, Sources
from mixopt.mixture import Mixture

SEQUENCE = 32
APART = 1_000_000
HELD = {"code": 30_000, "math": 10_000, "web": 15_000}
LENGTHS = {"code": 70, "math": 150, "web": 30}
TARGET = 50_000
THREE = Mixture({"code": 0.3, "math": 0.2, "web": 0.5})
LATE = Mixture({"code": 0.8, "math": 0.0, "web": 0.2})
STATIC = ((0, THREE),)
SCHEDULE = ((0, THREE), (TARGET // 5 * 4, LATE))


@dataclass(frozen=True)
class Corpus:
    """Token ids of each domain, cut into documents around a mean length; the static run reads `web` 1.7 times."""

    documents: dict[str, list[np.ndarray]]

    def plan(self, phases: tuple[tuple[int, Mixture], ...], target: int = TARGET) -> Plan:
        domains = tuple(
            PlannedDomain(name, HELD[name], HELD[name] / len(held)) for name, held in self.documents.items()
        )
        return Plan(target, domains, phases)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    documents = {}
    for k, (name, held) in enumerate(HELD.items()):
        ends = np.cumsum(rng.poisson(LENGTHS[name] - 1, 2 * held // LENGTHS[name]) + 1)
        documents[name] = np.split(np.arange(held, dtype=np.uint32) + k * APART, ends[ends < held])
    return Corpus(documents)


def counted(rows: Iterable[np.ndarray]) -> Counter[int]:
    """How often each token was drawn."""
    ids, counts = np.unique(np.concatenate(list(rows)), return_counts=True)
    return Counter(dict(zip(ids.tolist(), counts.tolist(), strict=True)))


def by_domain(drawn: Counter[int]) -> dict[str, int]:
    tokens = dict.fromkeys(HELD, 0)
    for token, count in drawn.items():
        tokens[list(HELD)[token // APART]] += count
    return tokens


def shares(drawn: Counter[int]) -> dict[str, float]:
    return {name: tokens / drawn.total() for name, tokens in by_domain(drawn).items() if tokens}


def passes(drawn: Counter[int], name: str) -> set[int]:
    """How often the tokens of one domain were drawn, those never drawn left out."""
    return {count for token, count in drawn.items() if list(HELD)[token // APART] == name}


def near(drawn: Counter[int], meant: Mixture, sequences: int) -> None:
    """Sequences chosen at random, to five standard deviations."""
    for name, p in meant.items():
        assert shares(drawn).get(name, 0.0) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / sequences))


def pasted(backend: Backend, out: Path, **scope: Any) -> dict[str, Any]:
    """What the lines to paste leave behind, run as they are."""
    (out / "train.py").write_text("\n".join(backend.command(out)), encoding="utf-8")
    return runpy.run_path(str(out / "train.py"), init_globals=scope)


# OLMo-core


END = 3 * APART - 1


def stored(corpus: Corpus, plan: Plan, folder: Path) -> Plan:
    """The plan with two token files for each domain, as `mixopt prepare` writes them."""
    domains = []
    for domain in plan.domains:
        tokens = np.concatenate(corpus.documents[domain.name])
        shards = []
        for k, part in enumerate(np.array_split(tokens, 2)):
            path = folder / f"{domain.name}-{k}.u32"
            part.astype("<u4").tofile(path)
            shards.append(Shard(str(path), len(part)))
        domains.append(replace(domain, sources=Sources(shards=tuple(shards), dtype="uint32")))
    return replace(plan, domains=tuple(domains))


def test_olmo_core_builds_the_source_mixture(corpus, tmp_path):
    data = pytest.importorskip("olmo_core.data")
    plan = stored(corpus, corpus.plan(STATIC), tmp_path)
    for path in tmp_path.glob("*.u32"):  # documents must end; no instance has the last tokens of these files
        np.memmap(path, "<u4", "r+")[-1] = END
    backend, out = OlmoCore(sequence=SEQUENCE, batch=16), tmp_path / "out"
    backend.export(plan, out)
    tokenizer = data.TokenizerConfig(vocab_size=3 * APART, eos_token_id=END, pad_token_id=END)
    config = pasted(backend, out, tokenizer_config=tokenizer, work_dir=str(tmp_path / "work"))["dataset_config"]
    dataset = config.build()
    dataset.prepare()
    drawn = counted(dataset[k]["input_ids"].numpy() for k in range(len(dataset)))
    assert shares(drawn) == pytest.approx(backend.read_back(out), abs=1e-12)
    assert passes(drawn, "web") == {1, 2}


@pytest.mark.parametrize("phases", [STATIC, SCHEDULE])
def test_olmo_core_composes_what_was_planned(phases, corpus, tmp_path):
    data = pytest.importorskip("olmo_core.data")
    plan = stored(corpus, corpus.plan(phases), tmp_path)
    backend, out = OlmoComposable(sequence=SEQUENCE, batch=16), tmp_path / "out"
    backend.export(plan, out)
    tokenizer = data.TokenizerConfig(vocab_size=3 * APART, eos_token_id=END, pad_token_id=END)
    loader = pasted(backend, out, tokenizer_config=tokenizer, work_dir=tmp_path / "work")["data_loader"]
    loader.reshuffle(epoch=1)
    read = [counted(np.asarray(source[k]["input_ids"]) for k in range(len(source))) for source in loader.sources]
    drawn = sum(read, Counter[int]())
    assert shares(drawn) == pytest.approx(backend.read_back(out), abs=1e-12)
    for tokens, (phase, mixture) in zip(plan.tokens, zip(read, (m for _, m in phases), strict=True), strict=True):
        assert phase.total() == pytest.approx(tokens, abs=20 * SEQUENCE)
        for name, p in mixture.items():
            assert shares(phase).get(name, 0.0) == pytest.approx(p, abs=4 * SEQUENCE / tokens)
    assert passes(drawn, "web") == {1, 2}, "0.5 or 0.44 of 50,000 tokens from 15,000"
    assert passes(drawn, "code") == {1}, "no token of the first phase comes back in the second"
    batches = [batch["input_ids"].numpy().ravel() for batch in loader]
    assert sum(map(len, batches)) >= TARGET
    trained = counted(batches)
    for name, p in plan.mixture.items():
        assert shares(trained)[name] == pytest.approx(p, abs=40 * SEQUENCE / TARGET)


# Grain, and MaxText's use of it


def test_grain_mixes_packed_sequences_and_goes_on_in_the_next_phase(corpus, tmp_path):
    grain = pytest.importorskip("grain")
    backend = make("grain", sequence=SEQUENCE)
    backend.export(corpus.plan(SCHEDULE), tmp_path)
    datasets = {
        name: grain.MapDataset.source([{"tokens": document} for document in documents]).shuffle(seed=1)
        for name, documents in corpus.documents.items()
    }
    mixture = pasted(backend, tmp_path, datasets=datasets)["mixture"]
    read, state = [], None
    for k, phase in enumerate(json.loads((tmp_path / "numbers.json").read_text())["phases"]):
        iterator = iter(mixture(datasets, phase=k))
        if state is not None:
            iterator.set_state(state)
        read.append(counted(next(iterator)["tokens"] for _ in range(phase["sequences"])))
        state = iterator.get_state()
        for name, p in SCHEDULE[k][1].items():
            assert shares(read[k]).get(name, 0.0) == pytest.approx(p, abs=3 / phase["sequences"])
    drawn = sum(read, Counter[int]())
    assert drawn.total() == math.ceil(TARGET / SEQUENCE) * SEQUENCE
    assert shares(drawn) == pytest.approx(backend.read_back(tmp_path), abs=1e-12)
    assert passes(drawn, "code") == {1}, "the second phase goes on where the first stopped"
    assert passes(drawn, "web") == {1, 2}


def test_grain_keeps_the_whole_numbers_that_are_exported(tmp_path):
    mix = pytest.importorskip("grain._src.python.dataset.transformations.mix")
    names = [f"d{k}" for k in range(40)]
    weights = np.random.default_rng(3).dirichlet(np.full(40, 0.3))
    mixture = Mixture.normalised(dict(zip(names, weights.tolist(), strict=True)))
    plan = Plan(10**10, tuple(PlannedDomain(name, 10**9, 500.0) for name in names), ((0, mixture),))
    for name in ("grain", "torchtitan"):
        make(name).export(plan, tmp_path / name)
    weights = json.loads((tmp_path / "grain" / "numbers.json").read_text())["phases"][0]["weights"]
    assert mix._float_to_int_proportions(list(weights.values())) == list(weights.values())
    assert min(weights.values()) == 100
    assert json.loads((tmp_path / "torchtitan" / "numbers.json").read_text())["weights"] == weights


def opened(mixture: dict[str, dict[str, Any]], num_epoch: int, folder: Path) -> Any:
    """What MaxText's get_datasets makes of a mixture file, on one host and without shuffling."""
    import grain.python as grain

    held = {
        name: grain.MapDataset.source(grain.ArrayRecordDataSource(sorted(map(str, folder.glob(entry["path"])))))
        for name, entry in mixture.items()
    }
    total = sum(float(entry["weight"]) for entry in mixture.values())
    return grain.IterDataset.mix(
        {name: dataset.repeat(num_epoch).to_iter_dataset() for name, dataset in held.items()},
        {name: float(entry["weight"]) / total for name, entry in mixture.items()},
    )


def test_maxtext_draws_documents_that_make_the_intended_tokens(corpus, tmp_path):
    pytest.importorskip("grain")
    writer = pytest.importorskip("array_record.python.array_record_module").ArrayRecordWriter
    for name, documents in corpus.documents.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        for k in range(2):
            file = writer(str(tmp_path / "data" / name / f"{k}.array_record"), "group_size:1")
            for document in documents[k::2]:
                file.write(document.tobytes())
            file.close()
    backend, out = replace(make("maxtext", sequence=SEQUENCE), batch=16), tmp_path / "out"
    backend.export(corpus.plan(SCHEDULE), out)
    numbers = json.loads((out / "numbers.json").read_text())
    read, state = [], None
    for phase, tokens, (_, meant) in zip(numbers["phases"], corpus.plan(SCHEDULE).tokens, SCHEDULE, strict=True):
        iterator = iter(opened(json.loads((out / phase["file"]).read_text()), numbers["num_epoch"], tmp_path))
        if state is not None:
            iterator.set_state(state)
        read.append(counted(np.frombuffer(next(iterator), np.uint32) for _ in range(phase["documents"])))
        state = iterator.get_state()
        assert read[-1].total() == pytest.approx(tokens, rel=0.01)
        for name, p in meant.items():
            assert shares(read[-1]).get(name, 0.0) == pytest.approx(p, abs=0.01)
    drawn = sum(read, Counter[int]())
    exported = backend.read_back(out)
    for name in HELD:
        assert shares(drawn)[name] == pytest.approx(exported[name], abs=0.005)
    assert passes(drawn, "code") == {1}
    uncorrected = {name: p * LENGTHS[name] for name, p in THREE.items()}
    assert abs(uncorrected["web"] / sum(uncorrected.values()) - 0.5) > 0.2, "what token shares would have given"


# torchtitan


class Ids:
    """A tokenizer of texts that are lists of ids."""

    def encode(self, text: str, add_bos: bool, add_eos: bool) -> list[int]:
        return [*map(int, text.split()), 3 * APART]  # inputs and labels are one shorter than the document


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")  # torchdata calls it
def test_torchtitan_interleaves_packed_domains(corpus, tmp_path):
    loaders = pytest.importorskip("torchtitan.hf_datasets.text_datasets")
    from datasets import Dataset
    from torchtitan.hf_datasets import DatasetConfig

    def loaded(name: str) -> Dataset:
        return Dataset.from_dict({"text": [" ".join(map(str, d.tolist())) for d in corpus.documents[name]]})

    backend = make("torchtitan", sequence=SEQUENCE)
    backend.export(corpus.plan(STATIC), tmp_path)
    datasets = {
        name: DatasetConfig(path=name, loader=loaded, sample_processor=lambda row: row["text"]) for name in HELD
    }
    config = pasted(backend, tmp_path, datasets=datasets, config=type("Config", (), {}))["config"].dataloader
    assert isinstance(config, loaders.InterleavedHuggingFaceTextDataLoader.Config)
    built = {"dp_world_size": 1, "dp_rank": 0, "tokenizer": Ids(), "seq_len": SEQUENCE, "local_batch_size": 5}
    rows = iter(loaders.InterleavedHuggingFaceTextDataLoader(config, **built))
    count = json.loads((tmp_path / "numbers.json").read_text())["sequences"]
    drawn = counted(next(rows)[0]["input"].numpy().ravel() for _ in range(count // 5))
    assert drawn.total() == count // 5 * 5 * SEQUENCE
    near(drawn, THREE, count)
    assert passes(drawn, "web") == {1, 2}


# litdata


@pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning")
def test_litdata_combines_blocks_of_the_intended_tokens(corpus, tmp_path):
    litdata = pytest.importorskip("litdata")
    writer = pytest.importorskip("litdata.streaming.writer").BinaryWriter
    import torch

    folders = {}
    for name, documents in corpus.documents.items():
        folders[name] = str(tmp_path / name)
        loader = litdata.TokensLoader(SEQUENCE + 1)
        file = writer(folders[name], chunk_size=101 * (SEQUENCE + 1), item_loader=loader)
        for k, document in enumerate(documents):
            file[k] = torch.from_numpy(document.astype(np.int32))
        file.done()
        file.merge()
    backend = make("litdata", sequence=SEQUENCE)
    out = tmp_path / "out"
    backend.export(corpus.plan(STATIC), out)
    numbers = json.loads((out / "numbers.json").read_text())
    assert Counter(stream["domain"] for stream in numbers["streams"]) == {"code": 1, "math": 2, "web": 3}
    train = pasted(backend, out, folders=folders)["train"]
    rows: Iterator[Any] = iter(train)
    drawn = counted(next(rows).numpy() for _ in range(numbers["target_blocks"]))
    assert drawn.total() == numbers["target_blocks"] * numbers["block_size"]
    near(drawn, THREE, numbers["target_blocks"])
    assert max(passes(drawn, "web")) <= 3
    left = sum(1 for _ in rows) * SEQUENCE
    assert TARGET + left == pytest.approx(numbers["ends_after_tokens"], rel=0.15), "where the first is exhausted"
