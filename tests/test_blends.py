"""What stacks with Megatron's data pipeline draw from exported blends, by megatron-core itself over small token files."""

import json
import warnings
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mixopt.backends import make
from mixopt.backends.blends import drawn_of, prefixes_of, settle_phases, split_notes
from mixopt.backends.megatron import Megatron, blend_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan, PlannedDomain, Sources
from mixopt.mixture import Mixture
from mixopt.yaml_text import parse_as_pyyaml

SEQUENCE = 64
SAMPLES = 2000
MIXTURE = {"code": 0.3, "law": 2e-4, "math": 0.2, "web": 0.4998, "wiki": 0.0}
TOKENS = {"code": 12_000, "law": 5_000, "math": 40_000, "web": 90_000, "wiki": 5_000}

TOKENIZER = SimpleNamespace(eod=0, vocab_size=100, pad=99, unique_identifiers={})
PLAIN = dict.fromkeys(("reset_position_ids", "reset_attention_mask", "eod_mask_loss", "create_attention_mask"), False)


@pytest.fixture(scope="module")
def core():
    """megatron-core, which warns that it is on a machine without an accelerator."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("megatron.core")
        from megatron.core.datasets import gpt_dataset, helpers, indexed_dataset, utils
        from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder

    return SimpleNamespace(
        builder=BlendedMegatronDatasetBuilder,
        gpt=gpt_dataset,
        draw=helpers.build_blending_indices,
        indexed=indexed_dataset,
        parse=utils.get_blend_from_list,
    )


@pytest.fixture(scope="module")
def plan(core, tmp_path_factory) -> Plan:
    """Each token of domain k is k + 1; documents end with 0. Code is read 3.2 times, law is below one sample."""
    root = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    domains = []
    for k, (name, tokens) in enumerate(TOKENS.items()):
        prefix = str(root / f"{name}_text_document")
        writer = core.indexed.IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16)
        cuts = np.unique([0, *rng.integers(2, tokens, tokens // 15), tokens])
        for start, end in pairwise(cuts.tolist()):
            document = np.full(end - start, k + 1, np.uint16)
            document[-1] = 0
            writer.add_document(document, [len(document)])
        writer.finalize(f"{prefix}.idx")
        domains.append(PlannedDomain(name, tokens, sources=Sources(megatron_prefix=prefix)))
    return Plan(SEQUENCE * SAMPLES, tuple(domains), ((0, Mixture(MIXTURE)),))


def blend_file(core, out: Path):
    return core.parse((out / "blend.txt").read_text().split())


def nemo_paths(core, out: Path):
    """PreTrainingDataModule hands the words on and drops the weight of a single path."""
    prefixes, weights = core.parse(json.loads((out / "paths.json").read_text())["paths"])
    return prefixes, None if len(prefixes) == 1 else weights


def bridge_blend(core, out: Path):
    blend = json.loads((out / "blend.json").read_text())
    return blend["prefixes"], blend["weights"]


READERS = {"megatron": blend_file, "nemo": nemo_paths, "megatron-bridge": bridge_blend}


def train_set(core, blend, cache: Path):
    config = core.gpt.GPTDatasetConfig(
        random_seed=1,
        sequence_length=SEQUENCE,
        blend=blend,
        split="990,8,2",
        path_to_cache=str(cache),
        tokenizer=TOKENIZER,
        **PLAIN,
    )
    return core.builder(core.gpt.GPTDataset, [SAMPLES, 10, 10], lambda: True, config).build()[0]


@pytest.mark.parametrize("name", READERS)
def test_the_real_builder_draws_the_intended_tokens(name, core, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    make(name, sequence=SEQUENCE).export(plan, tmp_path)
    train = train_set(core, READERS[name](core, tmp_path), tmp_path / "cache")
    drawn: Counter[int] = Counter()
    for k in range(SAMPLES):
        tokens = train[k]["tokens"].numpy()
        drawn.update(tokens[tokens > 0].tolist())
    exported = make(name, sequence=SEQUENCE).read_back(tmp_path)
    total = sum(drawn.values())
    shares = {d: drawn[k + 1] / total for k, d in enumerate(plan.names) if drawn[k + 1]}
    assert set(shares) == set(exported) == {"code", "math", "web"}
    assert shares == pytest.approx(exported, abs=2e-3), "documents end at other rates"
    assert shares == pytest.approx({"code": 0.3, "math": 0.2, "web": 0.5}, abs=2e-3)


@pytest.mark.parametrize("name", READERS)
def test_the_real_builder_takes_a_single_domain(name, core, plan, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    single = Plan(plan.target_tokens, plan.domains, ((0, Mixture({**dict.fromkeys(TOKENS, 0.0), "code": 1.0})),))
    make(name, sequence=SEQUENCE).export(single, tmp_path)
    train = train_set(core, READERS[name](core, tmp_path), tmp_path / "cache")
    assert len(train) >= SAMPLES
    assert set(train[SAMPLES - 1]["tokens"].tolist()) <= {0, 1}
    assert make(name).read_back(tmp_path) == {"code": 1.0}


def neox_weights(out: Path) -> list[float]:
    return parse_as_pyyaml((out / "gpt_neox.yml").read_text())["train-data-weights"]


def lm_engine_weights(out: Path) -> list[float]:
    return parse_as_pyyaml((out / "lm_engine.yml").read_text())["datasets"][0]["class_args"]["data_path"][::2]


def fast_llm_weights(out: Path) -> list[float]:
    return parse_as_pyyaml((out / "training.yaml").read_text())["weights"]


def nanotron_weights(out: Path) -> list[float]:
    return parse_as_pyyaml((out / "nanotron.yaml").read_text())["data_stages"][0]["data"]["dataset"]["dataset_weights"]


INDEXED = {
    "gpt-neox": neox_weights,
    "lm-engine": lm_engine_weights,
    "fast-llm": fast_llm_weights,
    "nanotron": nanotron_weights,
}


def drawn_by(core, weights: list[float], size: int) -> np.ndarray:
    """How many samples of each dataset `build_blending_indices` puts into a blend."""
    index, of_dataset = np.zeros(size, np.int16), np.zeros(size, np.int64)
    normal = (np.array(weights) / np.sum(weights)).tolist()
    core.draw(index, of_dataset, normal, len(weights), size, False)
    return np.bincount(index, minlength=len(weights))


@pytest.mark.parametrize("name", INDEXED)
def test_the_real_index_over_exported_weights_draws_what_is_read_back(name, core, plan, tmp_path):
    """Of these stacks the copies of the same function are not installed; megatron-core has the original."""
    make(name, sequence=SEQUENCE).export(plan, tmp_path)
    drawn = drawn_by(core, INDEXED[name](tmp_path), SAMPLES)
    exported = make(name, sequence=SEQUENCE).read_back(tmp_path)
    assert list(exported) == ["code", "math", "web"]
    assert (drawn / SAMPLES).tolist() == pytest.approx(list(exported.values()), abs=1 / SAMPLES)


@pytest.mark.parametrize(("domains", "size"), [(2, 7), (12, 5000), (200, 200_000)])
def test_the_real_index_stays_within_a_sample_of_the_rule(domains, size, core):
    weights = np.random.default_rng(domains).dirichlet(np.ones(domains)).tolist()
    rule = list(drawn_of([str(k) for k in range(domains)], weights, size).values())
    assert np.abs(drawn_by(core, weights, size) - rule).max() <= 1


@pytest.mark.parametrize(
    "words",
    [
        ["0.5", "web", "0.3", "2023"],
        ["2023", "2024"],
        ["0.5", "web", "code"],
        ["0.5", "web", "code", "math"],
        ["web", "code", "0.5", "math"],
    ],
)
def test_the_rule_parses_as_the_real_one_does(words, core):
    try:
        expected = core.parse(words)
    except AssertionError:
        with pytest.raises(ExportError, match="not numbers"):
            blend_of(words)
    else:
        assert blend_of(words) == expected


def test_small_datasets_are_told_of_the_split_that_hangs(core, tmp_path):
    """A split of no documents has no tokens, and `_get_num_epochs` of gpt_dataset.py adds epochs until there are enough."""
    config = core.gpt.GPTDatasetConfig(
        random_seed=1, sequence_length=SEQUENCE, blend=(["d"], None), split="990,8,2", tokenizer=TOKENIZER, **PLAIN
    )
    begin, end = config.split_matrix[2]
    assert round(begin * 250) == round(end * 250) == 250
    assert round(begin * 251) == 250
    books = [PlannedDomain(n, 10**9, mean) for n, mean in (("books", 10**9 / 250), ("web", 700.0))]
    plan = Plan(10**9, tuple(books), ((0, Mixture({"books": 0.5, "web": 0.5})),))
    for name in ("lm-engine", "megatron", "megatron-bridge", "nemo"):
        make(name).export(plan, tmp_path / name)
        assert 'With 250 documents or fewer ("books") the split has none' in (tmp_path / name / "README.md").read_text()
    assert len(split_notes(Plan(10**9, (books[1],), ((0, Mixture({"web": 1.0})),)))) == 1
    unknown = PlannedDomain("web", 10**9)
    assert "(any dataset)" in split_notes(Plan(10**9, (unknown,), ((0, Mixture({"web": 1.0})),)))[1]


def test_more_datasets_than_an_index_holds_are_refused(plan):
    with pytest.raises(ExportError, match="megatron: at most 2 datasets in a blend \\(got 3\\)"):
        settle_phases(Megatron(SEQUENCE), plan, [SAMPLES], largest=2)
    assert len(prefixes_of("megatron", plan)) == len(TOKENS), "domains without a proportion do not count"
