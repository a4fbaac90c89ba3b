"""The rule of each stack, copied into its backend, against what its source does and refuses."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, IterableDataset

from mixopt.backends import make
from mixopt.backends.base import deviation, number
from mixopt.backends.megatron import Megatron, blend_of, samples_of
from mixopt.backends.olmo_core import OlmoCore
from mixopt.backends.streaming import samples_of as streaming_samples_of
from mixopt.domains import Shard
from mixopt.errors import ExportError
from mixopt.handoff import Plan, PlannedDomain, Sources
from mixopt.mixture import Mixture
from mixopt.yaml_text import parse_as_pyyaml

TARGET = 10_000_000_000
LENGTHS = (700.0, 1500.0, 300.0)
THREE = {"code": 0.3, "math": 0.2, "web": 0.5}
LATE = {"code": 0.8, "math": 0.0, "web": 0.2}


def plan_of(*mixtures: dict[str, float], target: int = TARGET, starts: tuple[int, ...] = (0,)) -> Plan:
    """Code is read 3.3 times."""
    available = int(target * 0.3 / 3.3)
    domains = tuple(
        PlannedDomain(n, available, length) for n, length in zip(sorted(mixtures[0]), LENGTHS, strict=False)
    )
    return Plan(target, domains, tuple((s, Mixture(m)) for s, m in zip(starts, mixtures, strict=True)))


SCHEDULE = plan_of(THREE, LATE, starts=(0, TARGET // 5 * 4))


# Megatron-LM


def test_megatron_reads_lists_as_its_source_does():
    """get_blend_from_list, megatron-core 0.16.1, called on these lists."""
    assert blend_of(["0.5", "web", "0.3", "2023"]) == (["web", "2023"], [0.5, 0.3])
    assert blend_of(["2023", "2024"]) == (["2024"], [2023.0])
    assert blend_of(["0.5", "web", "code"]) == (["0.5", "web", "code"], None)
    assert blend_of(["0.5", "web", "code", "math"]) == (["0.5", "web", "code", "math"], None)
    with pytest.raises(ExportError, match="not numbers"):
        blend_of(["web", "code", "0.5", "math"])
    with pytest.raises(ExportError, match="weights above 0"):
        samples_of(["1.0", "web", "0.0", "code"], 10)
    with pytest.raises(ExportError, match="read as 3 prefixes"):
        samples_of(["1.0", "web", "code"], 10)


def test_megatron_draws_what_it_requests():
    """build_blending_indices in helpers.cpp takes, sample by sample, the dataset that is furthest behind its weight."""
    size = 5000
    weights = np.random.default_rng(0).dirichlet(np.ones(12))
    drawn = np.zeros(12)
    for k in range(size):
        drawn[np.argmax(weights * max(k, 1) - drawn)] += 1
    words = [word for k, w in enumerate(weights) for word in (number(w), f"d{k}")]
    assert np.abs(drawn - list(samples_of(words, size).values())).max() <= 2


def test_megatron_takes_given_prefixes_and_refuses_what_breaks_the_file(tmp_path):
    def with_prefix(*prefixes):
        domains = [
            PlannedDomain(f"d{k}", 10**10, sources=Sources(megatron_prefix=prefix)) for k, prefix in enumerate(prefixes)
        ]
        mixture = Mixture.normalised({domain.name: 1.0 for domain in domains})
        return Plan(TARGET, tuple(domains), ((0, mixture),))

    Megatron().export(with_prefix("/d/web_text_document", "2023"), tmp_path)
    assert (tmp_path / "blend.txt").read_text() == "0.5 /d/web_text_document\n0.5 2023\n"
    assert "placeholders" not in (tmp_path / "README.md").read_text()
    for prefixes, sentence in [
        (["/my data/web"], "has white space"),
        (["/d/web.bin"], "without .bin or .idx"),
        (["/d/web", "/d/web"], "share one prefix"),
    ]:
        with pytest.raises(ExportError, match=sentence):
            Megatron().export(with_prefix(*prefixes), tmp_path)


def test_megatron_relaunches_once_per_phase(tmp_path):
    Megatron().export(SCHEDULE, tmp_path)
    flags = "--split 990,8,2 --seq-length 4096 --train-samples 2441728 --global-batch-size 512"
    assert Megatron().command(tmp_path) == [
        f"--data-args-path {tmp_path / file} {flags} --phase-transition-iterations 3815"
        for file in ("blend_0.txt", "blend_1.txt")
    ]
    short = plan_of({"web": 1.0}, {"web": 1.0}, target=10**6, starts=(0, 1000))
    with pytest.raises(ExportError, match="shorter than one iteration"):
        Megatron().export(short, tmp_path)


# OLMo-core


def test_olmo_core_uses_whole_shards_and_counts_them_by_their_size(tmp_path):
    shards = []
    for k, tokens in enumerate((100_000, 60_000)):
        path = tmp_path / f"web-{k}.u16"
        np.zeros(tokens, dtype="<u2").tofile(path)
        shards.append(Shard(str(path), tokens))
    web = PlannedDomain("web", 160_000, sources=Sources(shards=tuple(shards), dtype="uint16"))
    code = PlannedDomain("code", 10**6, sources=Sources(shards=(shards[0],), dtype="uint16"))
    plan = Plan(10**6, (code, web), ((0, Mixture({"code": 0.6, "web": 0.4})),))
    OlmoCore(sequence=256).export(plan, tmp_path / "out")
    code_source, web_source = parse_as_pyyaml((tmp_path / "out" / "sources.yaml").read_text())["sources"]
    assert web_source["paths"] == [shard.path for shard in shards]
    assert [Path(path).stat().st_size // 2 for path in web_source["paths"]] == [100_000, 60_000]
    assert web_source["max_repetition_ratio"] == 2.622, "requested_tokens is 8 whole batches of 131,072"
    assert code_source["paths"] == ["data/code/*.npy"], "a part of a domain is not the domain"
    assert code_source["max_repetition_ratio"] == 1.0
    page = (tmp_path / "out" / "README.md").read_text()
    assert 'Prepared shards hold only a part of "code".' in page
    assert "dtype=NumpyDatasetDType.uint16," in page
    assert deviation(plan, OlmoCore(), tmp_path / "out") < 6 * 256 / 10**6


def test_olmo_core_would_refuse_less_repetition_or_rounded_ratios(tmp_path):
    OlmoCore().export(plan_of(THREE), tmp_path)
    path = tmp_path / "sources.yaml"
    text = path.read_text()
    path.write_text(text.replace("max_repetition_ratio: 3.301", "max_repetition_ratio: 3.299"))
    with pytest.raises(ExportError, match="insufficient tokens for 'code'"):
        OlmoCore().read_back(tmp_path)
    path.write_text(text.replace("target_ratio: 0.3", "target_ratio: 0.2999"))
    with pytest.raises(ExportError, match=r"must sum to 1.0"):
        OlmoCore().read_back(tmp_path)


def test_olmo_core_refuses_shards_that_look_like_globs(tmp_path):
    web = PlannedDomain("web", 10, sources=Sources(shards=(Shard("/d/a*b.u16", 10),), dtype="uint16"))
    with pytest.raises(ExportError, match="read as a glob"):
        OlmoCore().export(Plan(10**6, (web,), ((0, Mixture({"web": 1.0})),)), tmp_path)


def test_olmo_core_leaves_out_files_shorter_than_an_instance(tmp_path):
    domains = (PlannedDomain("note", 1000), PlannedDomain("web", 10**6))
    plan = Plan(10**6, domains, ((0, Mixture({"note": 0.01, "web": 0.99})),))
    OlmoCore().export(plan, tmp_path)
    assert 'below one sample of the run: "note".' in (tmp_path / "README.md").read_text()
    assert deviation(plan, OlmoCore(), tmp_path) == pytest.approx(0.01)


# Streaming


def test_streaming_rounds_down_and_gives_the_shortfall_to_streams_by_lot():
    """Stream.apply_weights, mosaicml-streaming 0.13.0, with its default shuffle_seed."""
    streams = {"a": {"proportion": 0.5}, "b": {"proportion": 0.3}, "c": {"proportion": 0.2}}
    assert streaming_samples_of(streams, 1000, 9176) == {"a": 500, "b": 300, "c": 200}
    counts = streaming_samples_of(streams, 1001, 9176)
    assert sum(counts.values()) == 1001
    assert sorted(counts[n] - low for n, low in (("a", 500), ("b", 300), ("c", 200))) == [0, 0, 1]
    with pytest.raises(ExportError, match="needs a proportion"):
        streaming_samples_of({**streams, "d": {"repeat": 2.0}}, 1000, 9176)


def test_llm_foundry_refuses_references_and_durations_that_do_not_add_up(tmp_path):
    with pytest.raises(ExportError, match="OmegaConf"):
        make("llm-foundry").export(plan_of({"${oc.env:HOME}": 1.0}), tmp_path)
    make("llm-foundry").export(SCHEDULE, tmp_path)
    path = tmp_path / "llm_foundry.yaml"
    path.write_text(path.read_text().replace("duration: 2000000000tok", "duration: 1000000000tok"))
    with pytest.raises(ExportError, match="sum to max_duration"):
        make("llm-foundry").read_back(tmp_path)


# Hugging Face datasets


def documents(name: str, count: int, length: float, seed: int) -> dict[str, list]:
    lengths = np.random.default_rng(seed).poisson(length - 1, count) + 1
    return {"domain": [name] * count, "tokens": lengths.tolist()}


@pytest.mark.parametrize("kind", ["map", "iterable"])
def test_the_real_interleave_datasets_draws_the_intended_tokens(kind, tmp_path):
    """Three domains of 700, 1500 and 300 tokens per document; `web` must be read 1.7 times."""
    target, intended = 6_000_000, {"code": 0.3, "math": 0.2, "web": 0.5}
    count = {"code": 9000, "math": 3000, "web": 6000}
    length = dict(zip(intended, LENGTHS, strict=True))
    tables = {name: documents(name, count[name], length[name], k) for k, name in enumerate(intended)}
    domains = tuple(
        PlannedDomain(name, sum(table["tokens"]), sum(table["tokens"]) / count[name]) for name, table in tables.items()
    )
    plan = Plan(target, domains, ((0, Mixture(intended)),))
    make("hf-datasets").export(plan, tmp_path)
    datasets = {name: Dataset.from_dict(table) for name, table in tables.items()}
    if kind == "iterable":
        datasets = {name: dataset.to_iterable_dataset() for name, dataset in datasets.items()}
    script = tmp_path / "train.py"
    script.write_text("\n".join(make("hf-datasets").command(tmp_path)))
    scope = runpy.run_path(str(script), init_globals={"datasets": datasets})
    assert isinstance(scope["train"], IterableDataset if kind == "iterable" else Dataset)
    drawn, documents_drawn = dict.fromkeys(intended, 0), 0
    for row in scope["train"]:
        drawn[row["domain"]] += row["tokens"]
        documents_drawn += 1
        if sum(drawn.values()) >= target:
            break
    assert sum(drawn.values()) >= target, "the repeated domains last for the whole run"
    exported = make("hf-datasets").read_back(tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["repeat"] == {"code": 1, "math": 1, "web": 2}
    assert documents_drawn == pytest.approx(numbers["target_documents"], rel=0.03)
    for name, p in intended.items():
        assert exported[name] == pytest.approx(p, abs=1e-12)
        noise = 5 * math.sqrt(p * length[name] / target)
        assert drawn[name] / sum(drawn.values()) == pytest.approx(p, abs=noise)
    uncorrected = {name: intended[name] * length[name] for name in intended}
    assert abs(uncorrected["web"] / sum(uncorrected.values()) - 0.5) > 0.2, "what the same numbers would have given"


def test_hf_datasets_needs_lengths_and_exact_sums(tmp_path):
    plan = plan_of(THREE)
    blind = Plan(TARGET, tuple(PlannedDomain(d.name, d.available_tokens) for d in plan.domains), plan.phases)
    with pytest.raises(ExportError, match="mean_tokens_per_doc is not known for code, math, web"):
        make("hf-datasets").export(blind, tmp_path)
    make("hf-datasets").export(plan, tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    numbers["probabilities"]["web"] += 1e-6
    (tmp_path / "numbers.json").write_text(json.dumps(numbers))
    with pytest.raises(ExportError, match="sum to 1"):
        make("hf-datasets").read_back(tmp_path)
    p = list(numbers["probabilities"].values())
    with pytest.raises(ValueError, match="do not sum to 1"):
        np.random.default_rng(0).choice(3, p=p)
    mixture = runpy.run_path(str(tmp_path / "mixture.py"))["mixture"]
    with pytest.raises(KeyError, match="no dataset for"):
        mixture({})
