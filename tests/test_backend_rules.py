"""The rule of each stack, copied into its backend, against what its source does and refuses."""

import json
import math
import runpy
import sys
from collections import Counter, namedtuple
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from datasets import Dataset, IterableDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.backends import make
from mixopt.backends.axolotl import kept_of, passes
from mixopt.backends.base import deviation, number
from mixopt.backends.blocks import apportion
from mixopt.backends.easydel import counts_of as easydel_counts_of
from mixopt.backends.fairseq2 import chances
from mixopt.backends.grain import drawn_from, kept_by_grain, taken, whole_numbers
from mixopt.backends.levanter import counts_of as levanter_counts_of
from mixopt.backends.litdata import copies
from mixopt.backends.maxtext import divided, surviving
from mixopt.backends.megatron import Megatron, blend_of, samples_of
from mixopt.backends.olmo_composable import OlmoComposable
from mixopt.backends.olmo_core import OlmoCore
from mixopt.backends.olmo_parts import instances_of, length_of
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


# Levanter, and blocks


def test_levanter_rounds_down_and_gives_the_rest_to_the_largest():
    """_compute_expected_counts_per_block, marin-levanter 0.2.20, with its default block."""
    assert levanter_counts_of({"a": 0.5, "b": 0.3, "c": 0.2}, 2048) == {"a": 1025, "b": 614, "c": 409}
    assert levanter_counts_of({"a": 5.0, "b": 3.0, "c": 2.0}, 2048) == {"a": 1025, "b": 614, "c": 409}
    assert levanter_counts_of({"a": 1.0, "b": 4e-4, "z": 0.0}, 2048) == {"a": 2048, "b": 0}, "what must not happen"
    with pytest.raises(ExportError, match="at most 65535"):
        levanter_counts_of({"a": 1.0}, 2**16)
    for weights in ({"a": 0.0}, {"a": 1.5, "b": -0.5}):
        with pytest.raises(ExportError, match="positive sum"):
            levanter_counts_of(weights, 64)


@pytest.mark.parametrize("step", ["0", "3813", "3815"])
def test_levanter_needs_stages_at_whole_blocks(step, tmp_path):
    make("levanter").export(SCHEDULE, tmp_path)
    path = tmp_path / "levanter.yaml"
    text = path.read_text()
    assert "    - - 3814\n" in text
    path.write_text(text.replace("- - 3814", f"- - {step}"))
    with pytest.raises(ExportError, match="at whole blocks of 1024"):
        make("levanter").read_back(tmp_path)


def test_levanter_keeps_phases_apart(tmp_path):
    """Rounding errors that cancel over the run are errors of both phases."""
    one, two = {"code": 0.7, "math": 0.0, "web": 0.3}, {"code": 0.3, "math": 0.0, "web": 0.7}
    make("levanter").export(plan_of(one, two, starts=(0, TARGET // 2)), tmp_path)
    data = parse_as_pyyaml((tmp_path / "levanter.yaml").read_text())["data"]
    for (_, weights), meant in zip(data["train_weights"], (one, two), strict=True):
        assert weights["web"] == pytest.approx(meant["web"], abs=3e-4), "19 of a block of 64 would be 0.297"


@pytest.mark.parametrize("name", ["levanter", "easydel"])
def test_blocks_refuse_what_they_cannot_hold(name, tmp_path):
    tiny = plan_of({"a": 1 - 1e-6, "b": 1e-6})
    with pytest.raises(ExportError, match=f"{name}: below half a sample of a block: b 1e-06"):
        make(name, tail="raise").export(tiny, tmp_path)
    with pytest.raises(ExportError, match="even when pooled"):
        make(name, tail="pool").export(tiny, tmp_path)
    make(name, tail="pool").export(plan_of({"a": 1 - 2e-4, "b": 1e-4, "c": 1e-4}), tmp_path)
    assert make(name).read_back(tmp_path)
    short = plan_of(THREE, LATE, starts=(0, TARGET - 10_000))
    with pytest.raises(ExportError, match=f"{name}: a phase is shorter than one block of 64 samples"):
        make(name).export(short, tmp_path)
    with pytest.raises(ExportError, match=f"{name}: a phase is shorter than one block"):
        make(name).export(plan_of(THREE, target=10_000), tmp_path)


@given(st.lists(st.floats(1e-12, 1), min_size=1, max_size=64), st.integers(6, 17))
@settings(max_examples=100, deadline=None)
def test_counts_of_a_block_are_whole_near_and_never_zero(amounts, power):
    block, drawn = 2**power, {f"d{k}": amount for k, amount in enumerate(amounts)}
    counts = apportion(drawn, block)
    assert sum(counts.values()) == block
    assert min(counts.values()) >= 1
    exact = {name: block * amount / math.fsum(drawn.values()) for name, amount in drawn.items()}
    raised = sum(1 for amount in exact.values() if amount < 1)
    assert all(abs(counts[name] - exact[name]) <= 1 + raised for name in drawn)
    weights = {name: count / block for name, count in counts.items()}
    assert easydel_counts_of(weights, block) == counts
    if power < 16:
        assert levanter_counts_of(weights, block) == counts


# EasyDeL


def test_easydel_checks_sums_and_names_of_every_point(tmp_path):
    """MixStageConfig and WeightSchedulePoint, easydel 0.3.0: sums to 1e-6, the same names in every point."""
    make("easydel").export(SCHEDULE, tmp_path)
    path = tmp_path / "numbers.json"
    text = path.read_text()
    for k in (0, 1):
        numbers = json.loads(text)
        numbers["phases"][k]["weights"]["web"] += 2e-6
        path.write_text(json.dumps(numbers))
        with pytest.raises(ExportError, match="must sum to 1"):
            make("easydel").read_back(tmp_path)
    numbers = json.loads(text)
    del numbers["phases"][1]["weights"]["math"]
    path.write_text(json.dumps(numbers))
    with pytest.raises(ExportError, match="the same datasets"):
        make("easydel").read_back(tmp_path)


def test_easydel_says_that_one_dataset_is_not_repeated(tmp_path):
    for mixture, said in (({"code": 1.0, "web": 0.0}, True), ({"code": 0.5, "web": 0.5}, False)):
        make("easydel").export(plan_of(mixture), tmp_path)
        assert ("does not start again" in (tmp_path / "README.md").read_text()) is said


def test_easydel_counts_documents_where_a_phase_begins(tmp_path):
    """8e9 tokens of .3/700 + .2/1500 + .5/300 documents are 17,828,571; a block is 4096."""
    make("easydel").export(SCHEDULE, tmp_path)
    (_, second) = json.loads((tmp_path / "numbers.json").read_text())["phases"]
    assert second["step"] == round(8e9 * (0.3 / 700 + 0.2 / 1500 + 0.5 / 300) / 4096) * 4096
    assert f"document {second['step']:,} as whole blocks" in (tmp_path / "README.md").read_text()


# axolotl


def test_axolotl_keeps_whole_documents_and_never_none():
    """_load_and_process_single_dataset, axolotl 0.21.0; SFTDataset.weight is in (0, 1]."""
    assert kept_of(0.5, 1001) == 500 / 1001
    assert kept_of(1e-9, 1001) == 1 / 1001
    assert kept_of(1.0, 1001) == 1.0
    assert kept_of(0.3, None) == 0.3
    for weight in (0.0, -0.1, 1.0000001):
        with pytest.raises(ExportError, match="above 0 and at most 1"):
            kept_of(weight, 10)


def test_axolotl_reads_whole_epochs_again(tmp_path):
    web = PlannedDomain("web", 1000, 10.0)
    assert passes(3300.0, web) == pytest.approx([1.0, 1.0, 1.0, 0.3])
    assert passes(2000.0, web) == [1.0, 1.0]
    assert passes(2000.1, web) == [1.0, 1.0], "a hundredth of a document"
    assert passes(0.1, web) == pytest.approx([1e-4]), "a domain that is there at all has an entry"
    make("axolotl").export(plan_of(THREE), tmp_path)
    config = parse_as_pyyaml((tmp_path / "axolotl.yaml").read_text())
    code = [entry["weight"] for entry in config["datasets"] if entry["path"] == "data/code.jsonl"]
    assert code == pytest.approx([1, 1, 1, 0.3])
    assert config["dataset_exact_deduplication"] is False, "or the further epochs were gone"


def test_axolotl_pools_and_refuses_single_documents(tmp_path):
    small = {"a": 1 - 1.2e-7, "b": 1e-7, "c": 2e-8}
    with pytest.raises(ExportError, match="below one sample of the run: b 1e-07, c 2e-08"):
        make("axolotl", tail="raise").export(plan_of(small), tmp_path)
    with pytest.raises(ExportError, match="even when pooled"):
        make("axolotl", tail="pool").export(plan_of(small), tmp_path)
    make("axolotl", tail="pool").export(plan_of(small, target=13 * 10**9), tmp_path)
    assert set(make("axolotl").read_back(tmp_path)) == {"a", "b"}


# fairseq2


def test_fairseq2_sums_in_single_precision():
    """sample_data_source, fairseq2n 0.8: float32 sums, divided by the last of them."""
    assert chances([1.0, 1.0]) == [0.5, 0.5]
    assert chances([3.0, 1.0]) == [0.75, 0.25]
    assert chances([1.0, 2.0**-26, 1.0]) == [0.5, 0.0, 0.5], "a weight that is lost in the sum is never drawn"
    assert chances([0.3, 0.2, 0.5]) == pytest.approx([0.3, 0.2, 0.5], abs=2.0**-23)
    for weights in ([0.0, 0.0], [1.5, -0.5]):
        with pytest.raises(ExportError, match="positive sum"):
            chances(weights)


def test_fairseq2_pools_and_refuses_below_its_bits(tmp_path):
    small = plan_of({"a": 1 - 1.2e-7, "b": 1e-7, "c": 2e-8}, target=10**12)
    with pytest.raises(ExportError, match=r"2\*\*-24 of its documents: b 1e-07, c 2e-08"):
        make("fairseq2", tail="raise").export(small, tmp_path)
    with pytest.raises(ExportError, match="even when pooled"):
        make("fairseq2", tail="pool").export(small, tmp_path)
    more = plan_of({"a": 1 - 1.4e-7, "b": 1.2e-7, "c": 2e-8}, target=10**12)
    make("fairseq2", tail="pool").export(more, tmp_path)
    assert set(make("fairseq2").read_back(tmp_path)) == {"a", "b"}


@pytest.mark.parametrize("name", ["easydel", "fairseq2"])
def test_stacks_that_draw_documents_need_lengths(name, tmp_path):
    plan = plan_of(THREE)
    blind = Plan(TARGET, tuple(PlannedDomain(d.name, d.available_tokens) for d in plan.domains), plan.phases)
    with pytest.raises(ExportError, match=f"{name}: .* mean_tokens_per_doc is not known for code, math, web"):
        make(name).export(blind, tmp_path)


# OLMo-core, composable


def test_composable_sources_give_sizes_as_olmo_core_calculates_them():
    """calculate_sample_sizes, ai2-olmo-core 3.0.0, called on these numbers: 3200, 6400 and 22400 tokens."""
    specs = [("a", 0.1, 1.0), ("b", 0.2, 1.0), ("c", 0.7, 2.25)]
    source_specs = [{"domain": n, "ratio": p, "max_repetition_factor": f, "part": []} for n, p, f in specs]
    phase = {"num_tokens": 32_000, "source_specs": source_specs}
    assert instances_of(phase, {"a": 100, "b": 200, "c": 312}, 32) == {"a": 100, "b": 200, "c": 700}
    with pytest.raises(ExportError, match="insufficient tokens for 'c'"):
        instances_of(phase, {"a": 100, "b": 200, "c": 311}, 32)
    source_specs[0]["ratio"] = 0.0
    with pytest.raises(ExportError, match="must be above 0"):
        instances_of(phase, {"a": 100, "b": 200, "c": 312}, 32)


def test_composable_phases_have_parts_of_the_domains_for_themselves(tmp_path):
    plan = plan_of(THREE, LATE, THREE, target=10**7, starts=(0, 5 * 10**6, 8 * 10**6))
    OlmoComposable(sequence=64, batch=16).export(plan, tmp_path)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    specs = [{spec["domain"]: spec for spec in phase["source_specs"]} for phase in numbers["phases"]]
    held = {
        name: [length_of(phase[name]["part"], numbers["instances"][name]) for phase in specs if name in phase]
        for name in THREE
    }
    assert {name: sum(parts) for name, parts in held.items()} == numbers["instances"]
    assert held["math"] == pytest.approx([14_204 * 5 / 7, 14_204 * 2 / 7], rel=1e-3), "needed in the first and third"
    read = [instances_of(phase, numbers["instances"], 64)["code"] for phase in numbers["phases"]]
    assert np.divide(read, held["code"]) == pytest.approx(4.95, rel=1e-3), "each part as often as the whole"
    assert specs[1]["code"]["max_repetition_factor"] == pytest.approx(4.95, rel=1e-3)


def test_composable_sources_refuse_what_cannot_be_split_or_counted(tmp_path):
    domains = (PlannedDomain("note", 5000), PlannedDomain("web", 10**8))
    few = Mixture({"note": 0.01, "web": 0.99})
    plan = Plan(10**8, domains, ((0, few), (10**7, few), (99 * 10**6, few)))
    with pytest.raises(ExportError, match='"note" holds 1 instances, too few to be split over its 3 phases'):
        OlmoComposable().export(plan, tmp_path)
    with pytest.raises(ExportError, match="at most 4,294,967,295 instances"):
        OlmoComposable(sequence=64).export(plan_of(THREE, target=10**12), tmp_path)
    OlmoComposable().export(Plan(10**6, (PlannedDomain("note", 4000), domains[1]), ((0, few),)), tmp_path)
    assert 'below one sample of the run: "note".' in (tmp_path / "README.md").read_text()


# Grain, MaxText


@given(st.lists(st.integers(100, 5000), min_size=1, max_size=8), st.integers(0, 3000))
@settings(max_examples=50, deadline=None)
def test_grain_counts_as_if_drawn_one_by_one(numbers, position):
    """_dataset_and_key_of_next_element of grain 0.2.18: the first dataset whose count rises."""
    weights = {str(k): number for k, number in enumerate(numbers)}
    drawn = taken(position, weights)
    assert sum(drawn.values()) == position
    after = taken(position + 1, weights)
    assert sorted(after[name] - drawn[name] for name in weights) == [0] * (len(weights) - 1) + [1]
    for name, weight in weights.items():
        assert abs(drawn[name] - position * weight / sum(numbers)) < len(weights)


def test_grain_keeps_whole_numbers_and_floors_others():
    """_float_to_int_proportions of grain 0.2.18, called on these weights: it may make 99 of the smallest."""
    assert kept_by_grain({"a": 0.59, "b": 0.26, "c": 0.15}) == {"a": 393, "b": 173, "c": 100}
    assert kept_by_grain({"a": 29 / 49, "b": 19 / 49, "c": 1 / 49}) == {"a": 2900, "b": 1900, "c": 99}
    assert whole_numbers({"c": 0.2, "a": 0.5, "b": 0.3}) == {"a": 250, "b": 150, "c": 100}
    third = {"a": 0.337, "b": 0.331, "c": 0.332}
    kept, nearest = kept_by_grain(third), whole_numbers(third)
    miss = [max(abs(n[d] / sum(n.values()) - p) for d, p in third.items()) for n in (kept, nearest)]
    assert miss[1] < miss[0]
    assert kept_by_grain(nearest) == nearest
    with pytest.raises(ExportError, match="weights must be above 0"):
        kept_by_grain({"a": 1.0, "b": 0.0})


def test_grain_goes_on_counting_in_the_next_phase():
    phases = [(7, {"a": 150, "b": 100}), (5, {"a": 100, "c": 300})]
    assert drawn_from(phases[:1]) == taken(7, phases[0][1])
    drawn = drawn_from(phases)
    assert drawn["b"] == taken(7, phases[0][1])["b"]
    assert drawn["c"] == taken(12, phases[1][1])["c"] - taken(7, phases[1][1])["c"]
    assert sum(drawn.values()) == 12


@pytest.mark.parametrize("name", ["grain", "maxtext"])
def test_a_domain_may_stop_but_not_come_back(name, tmp_path):
    starts = (0, TARGET // 2, TARGET // 4 * 3)
    with pytest.raises(ExportError, match=f'{name}: "math" pauses and comes back'):
        make(name).export(plan_of(THREE, LATE, THREE, starts=starts), tmp_path)
    make(name).export(plan_of(LATE, THREE, LATE, starts=starts), tmp_path)
    assert set(make(name).read_back(tmp_path)) == set(THREE)


@given(st.lists(st.integers(100, 10**7), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_maxtext_weights_survive_its_division(numbers):
    """The smallest of 49 equal ones becomes 99, and so do the others."""
    numbers = {f"d{k}": n for k, n in enumerate([100, *numbers])}
    kept = kept_by_grain(divided(surviving(numbers)))
    assert {name: kept[name] * numbers["d0"] for name in kept} == {name: n * kept["d0"] for name, n in numbers.items()}


def test_maxtext_launches_again_for_each_phase(tmp_path):
    make("maxtext").export(SCHEDULE, tmp_path)
    assert [line.split()[2:4] + line.split()[-1:] for line in make("maxtext").command(tmp_path)] == [
        [f"grain_train_mixture_config_path={tmp_path / f'grain_mixture_{k}.json'}", "num_epoch=6", f"steps={steps}"]
        for k, steps in enumerate((3815, 4769))
    ], "code takes 4.4 epochs"
    with pytest.raises(ExportError, match="shorter than one step"):
        make("maxtext").export(plan_of({"web": 1.0}, {"web": 1.0}, target=10**6, starts=(0, 1000)), tmp_path)


# torchtitan


def test_torchtitan_packs_each_domain_before_it_mixes(tmp_path, monkeypatch):
    """The three classes that the file takes from torchtitan.components.data, of 2026-07, which no release has yet."""
    data = ModuleType("torchtitan.components.data")
    for name, fields in {
        "ConcatThenSplitPackingConfig": "dataset",
        "DatasetMixConfig": "datasets",
        "WeightedDataset": "dataset weight",
    }.items():
        setattr(data, name, namedtuple(name, fields))
    for name in ("torchtitan", "torchtitan.components"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, data.__name__, data)
    make("torchtitan").export(plan_of(THREE), tmp_path)
    mixture = runpy.run_path(str(tmp_path / "mixture.py"))["mixture"]
    mixed = mixture({name: name.upper() for name in ("web", "math", "code", "unused")})
    assert mixed == (((("CODE",), 150), (("MATH",), 100), (("WEB",), 250)),)
    with pytest.raises(KeyError, match=r"no dataset for \['math', 'web'\]"):
        mixture({"code": "CODE"})


# litdata


def test_litdata_reads_a_domain_from_as_many_datasets_as_it_needs():
    assert copies(79, 100) == [79]
    assert copies(160, 100) == [80, 80]
    assert copies(330, 100) == pytest.approx([80, 80, 80, 80, 10])


def test_litdata_leaves_out_domains_without_a_block_and_says_where_it_ends(tmp_path):
    domains = (PlannedDomain("note", 4000), PlannedDomain("web", 10**6))
    plan = Plan(10**6, domains, ((0, Mixture({"note": 0.01, "web": 0.99})),))
    make("litdata").export(plan, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert 'below one sample of the run: "note".' in page
    assert '- In the list more than once, each in its own order: "web" 2 times.' in page
    path = tmp_path / "numbers.json"
    numbers = json.loads(path.read_text())
    assert Counter(stream["domain"] for stream in numbers["streams"]) == {"web": 2}
    assert numbers["ends_after_tokens"] == pytest.approx(1.25e6, rel=0.01), "a fifth of each dataset is left"
    numbers["streams"][0]["weight"] = 0.0
    path.write_text(json.dumps(numbers))
    with pytest.raises(ExportError, match="weights must be above 0"):
        make("litdata").read_back(tmp_path)


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
