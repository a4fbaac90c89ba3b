"""One table over all backends: what a stack would draw from the exported files is what the plan says.

The resolution that each row states is the largest deviation that the stack's own rounding can cause: one sample for
every domain and pass over it; for documents, the last bits of a float. `deviation` compares with the plan, so a tail
that was left out counts as well.
"""

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.backends import BACKENDS, export_all, make
from mixopt.backends.base import deviation, number, quoted, settle
from mixopt.errors import ExportError, JobError
from mixopt.handoff import Plan, PlannedDomain
from mixopt.mixture import SUM_TOLERANCE, Mixture
from mixopt.yaml_text import parse_as_pyyaml, parse_yaml

GOLDEN = Path(__file__).parents[1] / "golden" / "backends"
SEQUENCE = 4096
TARGET = 10_000_000_000
LENGTHS = (700.0, 1500.0, 300.0)
ODD_NAMES = (
    *("no", "2023", "1e5", "nan", "null", "~", "-", "*", "[x]", "{x}", "$x", "a: b # c", "my web", "it's", 'quo"te'),
    *(
        "back\\slash",
        "new\nline: 1",
        "tab\there",
        "a/b",
        "naïve",
        "网页",
        "😀",
        "\u2028",
        "%41",
        "A",
        "a",
        " ",
        "|",
        "#",
    ),
)


def plan_of(
    *mixtures: dict[str, float], target: int = TARGET, starts: tuple[int, ...] = (0,), epochs: float = 0.7
) -> Plan:
    phases = tuple((start, Mixture(m)) for start, m in zip(starts, mixtures, strict=True))
    domains = tuple(
        PlannedDomain(
            name,
            available_tokens=max(100_000, int(target * max(m[name] for m in mixtures) / (epochs * (1 + k % 5)))),
            mean_tokens_per_doc=LENGTHS[k % 3],
        )
        for k, name in enumerate(sorted(mixtures[0]))
    )
    return Plan(target, domains, phases)


def dirichlet(names: list[str], seed: int = 0) -> dict[str, float]:
    return dict(zip(names, np.random.default_rng(seed).dirichlet(np.ones(len(names))).tolist(), strict=True))


# In the manner of RegMix's published optimum: one domain leads, several have proportions near 1e-7.
TINY = Mixture.normalised(
    {
        "cc": 0.87,
        "owt": 0.08,
        "arxiv": 0.03,
        "wiki": 0.0199,
        "bio": 3e-5,
        "law": 2e-7,
        "irc": 1e-7,
        "subs": 5e-8,
        "z": 0.0,
    }
)
PLANS = {
    "three": plan_of({"web": 0.5, "code": 0.3, "math": 0.2}),
    "repeated": plan_of({"web": 0.5, "code": 0.3, "math": 0.2}, epochs=3.3),
    "tiny proportions": plan_of(dict(TINY)),
    "zeros": plan_of({"web": 0.6, "code": 0.4, "math": 0.0, "books": 0.0}),
    "single": plan_of({"web": 1.0}),
    "single among zeros": plan_of({"web": 1.0, "code": 0.0}),
    "200 domains": plan_of(dirichlet([f"domain-{k}" for k in range(200)])),
    "odd names": plan_of(dirichlet(list(ODD_NAMES))),
    "short run": plan_of({"web": 0.5, "code": 0.3, "math": 0.2}, target=1_000_000),
    "sum just off 1": plan_of({"web": 0.5 + 4e-7, "code": 0.5 + 4e-7}),
}
SCHEDULE = plan_of(
    {"web": 0.5, "code": 0.3, "math": 0.2}, {"web": 0.2, "code": 0.8, "math": 0.0}, starts=(0, TARGET // 5 * 4)
)


def samples(plan: Plan) -> float:
    return len(plan.names) * SEQUENCE / plan.target_tokens


def passes(plan: Plan) -> float:
    return sum(math.ceil(e) + 1 for e in plan.epochs.values()) * SEQUENCE / plan.target_tokens


def block_of(plan: Plan) -> int:
    """The largest block of sequences that both block stacks can have in each phase; levanter's largest is 2**15."""
    return 2 ** min(15, int(math.log2(min(plan.tokens) / SEQUENCE)))


def in_blocks(plan: Plan) -> float:
    """One sample of a block for every domain, and what documents of other lengths make of it."""
    return len(plan.names) * max(LENGTHS) / min(LENGTHS) / block_of(plan)


def kept(plan: Plan) -> float:
    """One document for every domain, and the one that is kept at least."""
    return 2 * len(plan.names) * max(LENGTHS) / plan.target_tokens


def single(plan: Plan) -> float:
    """Sums in single precision, and a domain of documents of another length beside them."""
    return len(plan.names) * max(LENGTHS) / min(LENGTHS) * 2.0**-23


def elements(plan: Plan, documents: bool) -> tuple[dict[str, float], float]:
    """Shares of documents, or of sequences, and one of them as a share of the run."""
    length = {d.name: d.mean_tokens_per_doc if documents else SEQUENCE for d in plan.domains}
    rate = sum(p / length[d] for d, p in plan.mixture.items())
    return {d: p / length[d] / rate for d, p in plan.mixture.items()}, 1 / rate / plan.target_tokens


def hundreds(plan: Plan, documents: bool = False) -> float:
    """Whole numbers with 100 as the smallest, rounded to the nearest, and one element for every domain."""
    shares, one = elements(plan, documents)
    least, count = min(p for p in shares.values() if p >= one), len(shares)
    return least * (1 + count) / 198 + count * one


def hundreds_of_documents(plan: Plan) -> float:
    """The same of documents, weighed by their lengths, and what that does to the sum."""
    return 3 * max(LENGTHS) / min(LENGTHS) * hundreds(plan, documents=True)


@dataclass(frozen=True)
class Row:
    resolution: Callable[[Plan], float]
    files: tuple[str, ...]
    schedule: bool
    yaml: str = ""
    documents: bool = False
    tail: str = "below one sample of the run"


BLOCK = "below half a sample of a block"
BITS = "below one document of the run or 2**-24 of its documents"


ROWS = {
    "axolotl": Row(kept, ("axolotl.yaml", "numbers.json", "README.md"), False, "axolotl.yaml", documents=True),
    "easydel": Row(in_blocks, ("mixture.py", "numbers.json", "README.md"), True, documents=True, tail=BLOCK),
    "fairseq2": Row(
        single, ("fairseq2.yaml", "numbers.json", "README.md"), False, "fairseq2.yaml", documents=True, tail=BITS
    ),
    "fast-llm": Row(samples, ("training.yaml", "numbers.json", "README.md"), False, "training.yaml"),
    "gpt-neox": Row(samples, ("gpt_neox.yml", "numbers.json", "README.md"), False, "gpt_neox.yml"),
    "grain": Row(hundreds, ("mixture.py", "numbers.json", "README.md"), True),
    "hf-datasets": Row(lambda plan: 1e-12, ("mixture.py", "numbers.json", "README.md"), False, documents=True),
    "levanter": Row(in_blocks, ("levanter.yaml", "numbers.json", "README.md"), True, "levanter.yaml", tail=BLOCK),
    "litdata": Row(lambda plan: 1e-12, ("mixture.py", "numbers.json", "README.md"), False),
    "llm-foundry": Row(samples, ("llm_foundry.yaml", "numbers.json", "README.md"), True, "llm_foundry.yaml"),
    "lm-engine": Row(samples, ("lm_engine.yml", "numbers.json", "README.md"), False, "lm_engine.yml"),
    "maxtext": Row(hundreds_of_documents, ("grain_mixture.json", "numbers.json", "README.md"), True, documents=True),
    "megatron": Row(samples, ("blend.txt", "numbers.json", "README.md"), True),
    "megatron-bridge": Row(samples, ("blend.json", "numbers.json", "README.md"), False),
    "nanotron": Row(samples, ("nanotron.yaml", "numbers.json", "README.md"), True, "nanotron.yaml"),
    "nemo": Row(samples, ("paths.json", "numbers.json", "README.md"), False),
    "olmo-core": Row(passes, ("sources.yaml", "numbers.json", "README.md"), False, "sources.yaml"),
    "olmo-core-composable": Row(samples, ("mixture.py", "numbers.json", "README.md"), True),
    "streaming": Row(samples, ("mixture.py", "numbers.json", "README.md"), True),
    "torchtitan": Row(hundreds, ("mixture.py", "numbers.json", "README.md"), False),
}
YAML = [name for name, row in ROWS.items() if row.yaml]


def left_out_by(name: str, plan: Plan) -> float:
    """The sum of the proportions that a stack cannot show in a run of this length."""
    share, one = elements(plan, ROWS[name].documents)
    least = {BLOCK: 0.5 / block_of(plan), BITS: max(one, 2.0**-24)}.get(ROWS[name].tail, one)
    return sum(p for d, p in plan.mixture.items() if share[d] < least)


def allowed(name: str, plan: Plan) -> float:
    return ROWS[name].resolution(plan) + left_out_by(name, plan) + SUM_TOLERANCE


def test_every_backend_has_a_row():
    assert set(ROWS) == set(BACKENDS)
    assert list(BACKENDS) == sorted(BACKENDS)
    assert {name: stack.schedule for name, stack in BACKENDS.items()} == {n: row.schedule for n, row in ROWS.items()}


@pytest.mark.parametrize("case", PLANS)
@pytest.mark.parametrize("name", ROWS)
def test_the_round_trip_gives_the_plan_back(name, case, tmp_path):
    plan, backend = PLANS[case], make(name)
    files = backend.export(plan, tmp_path)
    assert tuple(path.name for path in files) == ROWS[name].files
    assert all(path.read_bytes() for path in files)
    exported = backend.read_back(tmp_path)
    assert math.fsum(exported.values()) == pytest.approx(1, abs=1e-12)
    assert set(exported) <= set(plan.names)
    assert deviation(plan, backend, tmp_path) <= allowed(name, plan)
    assert backend.command(tmp_path)


@pytest.mark.parametrize("name", ROWS)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3), st.floats(0.1, 4))
@settings(max_examples=40, deadline=None)
def test_any_mixture_survives_the_round_trip(name, tmp_path_factory, w, epochs):
    total = math.fsum(w)
    plan = plan_of({f"d{k}": p / total for k, p in enumerate(w)}, epochs=epochs)
    out, backend = tmp_path_factory.mktemp("out"), make(name)
    backend.export(plan, out)
    assert deviation(plan, backend, out) <= allowed(name, plan)


@pytest.mark.parametrize("name", ROWS)
def test_zeros_and_tails_are_left_out_and_listed(name, tmp_path):
    plan = PLANS["tiny proportions"]
    make(name).export(plan, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert 'Left out, proportion 0: "z".' in page
    kept = make(name).read_back(tmp_path)
    assert "z" not in kept
    if ROWS[name].documents and ROWS[name].tail not in (BLOCK, BITS):
        assert 'Left out, below one sample of the run: "subs".' in page, "500 tokens, where a document has 1500"
        assert {"law", "irc"} <= set(kept)
    else:
        assert f'Left out, {ROWS[name].tail}: "irc", "law", "subs".' in page
        assert "bio" in kept


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.tail == Row.tail and not row.documents])
def test_the_tail_may_be_refused_or_pooled(name, tmp_path):
    small = plan_of(dict(TINY), target=TARGET)
    with pytest.raises(ExportError, match="below one sample of the run: irc 1e-07, law 2e-07, subs 5e-08"):
        make(name, tail="raise").export(small, tmp_path)
    with pytest.raises(ExportError, match="even when pooled"):
        make(name, tail="pool").export(small, tmp_path)
    longer = plan_of(dict(TINY), target=15_000_000_000)
    make(name, tail="pool").export(longer, tmp_path)
    exported = make(name).read_back(tmp_path)
    assert exported["law"] * longer.target_tokens == pytest.approx(3.5e-7 * longer.target_tokens, abs=SEQUENCE)
    assert "irc" not in exported
    with pytest.raises(ExportError, match="every proportion is below one sample"):
        make(name).export(plan_of({"web": 0.5, "code": 0.5}, target=1000), tmp_path)


@pytest.mark.parametrize("name", ROWS)
def test_a_schedule_is_exported_or_refused(name, tmp_path):
    backend = make(name)
    if not ROWS[name].schedule:
        with pytest.raises(ExportError, match=f"{name}: .* this plan has 2 phases"):
            backend.export(SCHEDULE, tmp_path)
        return
    backend.export(SCHEDULE, tmp_path)
    batches = 512 * SEQUENCE / TARGET
    assert deviation(SCHEDULE, backend, tmp_path) <= ROWS[name].resolution(SCHEDULE) + batches
    page = (tmp_path / "README.md").read_text()
    assert 'Left out in phase 1, proportion 0: "math".' in page
    assert "Phase 1 starts at token 8,000,000,000, " in page


@pytest.mark.parametrize("name", ROWS)
def test_exporting_twice_writes_the_same_bytes(name, tmp_path):
    texts = []
    for folder in ("a", "b"):
        files = make(name).export(PLANS["odd names"], tmp_path / folder)
        texts.append([path.read_bytes() for path in files])
    assert texts[0] == texts[1]


GOLDENS = {
    # The fields of BlendedDatasetConfig in fast_llm/data/dataset/config.py and of `type: file`, which reads this file.
    "fast-llm": ("training.yaml", "fast_llm.yaml"),
    # The arguments of NeoXArgsTraining in megatron/neox_arguments/neox_args.py, with hyphens as in its own examples.
    "gpt-neox": ("gpt_neox.yml", "gpt_neox.yml"),
    # `datasets` of configs/pretraining-examples in lm-engine, data_path as _get_prefixes_weights_and_sizes_for_blend reads it.
    "lm-engine": ("lm_engine.yml", "lm_engine.yml"),
    # The two halves of `blend` of BlendedMegatronDatasetConfig, megatron-core 0.16.1.
    "megatron-bridge": ("blend.json", "megatron_bridge.json"),
    # DatasetStageArgs, DataArgs and NanosetDatasetsArgs in src/nanotron/config/config.py.
    "nanotron": ("nanotron.yaml", "nanotron.yaml"),
    # The flat list of weights and paths in the docstring of PreTrainingDataModule.
    "nemo": ("paths.json", "nemo.json"),
    # The words of `--data-args-path`, a weight and a prefix by turns: get_blend_from_list in Megatron-LM.
    "megatron": ("blend.txt", "megatron.txt"),
    # The fields of SourceMixtureConfig under `sources`, as SourceMixtureList.from_yaml reads them: ai2-olmo-core 3.0.0.
    "olmo-core": ("sources.yaml", "olmo_core.yaml"),
    # The arguments of Stream and the epoch size of StreamingDataset: mosaicml-streaming 0.13.0.
    "streaming": ("numbers.json", "streaming.json"),
    # The keys of build_text_dataloader and of Stream: llm-foundry 0.22.0, mosaicml-streaming 0.13.0.
    "llm-foundry": ("llm_foundry.yaml", "llm_foundry.yaml"),
    # The fields of LmDataConfig and DatasetComponent: marin-levanter 0.2.20.
    "levanter": ("levanter.yaml", "levanter.yaml"),
    # The arguments of MixStageConfig and WeightSchedulePoint: easydel 0.3.0.
    "easydel": ("numbers.json", "easydel.json"),
    # The fields of SFTDataset under `datasets`, one entry for each pass: axolotl 0.21.0.
    "axolotl": ("axolotl.yaml", "axolotl.yaml"),
    # The fields of LMTrainDataSource under `sources`, beside those of LMTrainDatasetSection: fairseq2 0.8.1.
    "fairseq2": ("fairseq2.yaml", "fairseq2.yaml"),
    # Whole numbers for grain.IterDataset.mix, 100 as the smallest: .5, .3, .2 are 250, 150, 100; grain 0.2.18.
    "grain": ("numbers.json", "grain.json"),
    # Weights and block size for CombinedStreamingDataset and TokensLoader, one entry for each pass: litdata 0.2.76.
    "litdata": ("numbers.json", "litdata.json"),
    # `path` and `weight` by name, as get_datasets in MaxText's grain_data_processing.py reads them, 2026-06.
    "maxtext": ("grain_mixture.json", "maxtext.json"),
    # The arguments of MixingInstanceSourceConfig and its specs: ai2-olmo-core 3.0.0.
    "olmo-core-composable": ("numbers.json", "olmo_composable.json"),
    # Proportions for HFDataSource of torchtitan 0.3.0, whole numbers for WeightedDataset after it.
    "torchtitan": ("numbers.json", "torchtitan.json"),
    # probabilities = proportions / mean tokens per document, normalised: .3/700, .2/1500, .5/300 of code, math, web.
    "hf-datasets": ("numbers.json", "hf_datasets.json"),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_exact_syntax(name, tmp_path):
    written, golden = GOLDENS[name]
    make(name).export(PLANS["repeated"], tmp_path)
    assert (tmp_path / written).read_text() == (GOLDEN / golden).read_text()


SCHEDULE_GOLDENS = {
    # One epoch size and its proportions for each phase: mosaicml-streaming 0.13.0.
    "streaming": ("numbers.json", "streaming_schedule.json"),
    # CurriculumLearning in llm-foundry 0.22.0: a duration for the first mixture, then a list of the others.
    "llm-foundry": ("llm_foundry.yaml", "llm_foundry_schedule.yaml"),
    # `train_weights` of LmDataConfig in marin-levanter 0.2.20: pairs of a batch index and weights.
    "levanter": ("levanter.yaml", "levanter_schedule.yaml"),
    # WeightSchedulePoint in easydel 0.3.0: a step that counts documents, and weights of all datasets.
    "easydel": ("numbers.json", "easydel_schedule.json"),
    # Where each phase starts and its weights for grain.IterDataset.mix: grain 0.2.18.
    "grain": ("numbers.json", "grain_schedule.json"),
    # The file of the second launch, without the domain that is not read any more: MaxText, 2026-06.
    "maxtext": ("grain_mixture_1.json", "maxtext_schedule.json"),
    # One MixingInstanceSourceConfig for each phase and the splits that lead to its part of a domain: ai2-olmo-core 3.0.0.
    "olmo-core-composable": ("numbers.json", "olmo_composable_schedule.json"),
}


@pytest.mark.parametrize("name", SCHEDULE_GOLDENS)
def test_the_exact_syntax_of_a_schedule(name, tmp_path):
    written, golden = SCHEDULE_GOLDENS[name]
    make(name).export(SCHEDULE, tmp_path)
    assert (tmp_path / written).read_text() == (GOLDEN / golden).read_text()


def test_the_exact_syntax_of_stages(tmp_path):
    """The second launch of nanotron: steps of 512 samples of 4096 tokens, the last stage one step after 3815."""
    make("nanotron").export(SCHEDULE, tmp_path)
    assert (tmp_path / "nanotron_1.yaml").read_text() == (GOLDEN / "nanotron_schedule.yaml").read_text()


def test_the_lines_to_paste(tmp_path):
    plan, out = PLANS["three"], tmp_path / "my out"
    result = export_all(plan, list(ROWS), out)
    assert set(result["files"]) == set(result["max_deviation"]) == set(result["lines"]) == set(ROWS)
    assert result["lines"]["nemo"] == make("nemo").command(out / "nemo")
    assert all(path.exists() for files in result["files"].values() for path in files)
    assert [shlex.split(line) for line in make("megatron").command(out / "megatron")] == [
        ["--data-args-path", str(out / "megatron" / "blend.txt"), "--split", "990,8,2"]
        + ["--seq-length", "4096", "--train-samples", "2441407"]
    ]
    steps = "--train_seq_len 4096 --trainer.train_batch_size 512 --trainer.num_train_steps 4769"
    launches = {
        "llm-foundry": ["composer scripts/train/train.py train.yaml"],
        "axolotl": ["axolotl preprocess train.yaml", "axolotl train train.yaml"],
        "fairseq2": ["python -m recipes.lm.train output --config-file train.yaml"],
        "levanter": [f"python -m levanter.main.train_lm --config_path train.yaml {steps}"],
    }
    for name, launch in launches.items():
        cat, *lines = make(name).command(out / name)
        assert shlex.split(cat) == ["cat", "base.yaml", str(out / name / ROWS[name].yaml), ">", "train.yaml"]
        assert lines == launch
    assert [shlex.split(line) for line in make("maxtext").command(out / "maxtext")] == [
        ["dataset_type=grain", "grain_file_type=arrayrecord"]
        + [f"grain_train_mixture_config_path={out / 'maxtext' / 'grain_mixture.json'}", "num_epoch=4", "packing=true"]
        + ["use_truncation=false", "max_target_length=4096", "steps=4769"]
    ]
    for name in [name for name, row in ROWS.items() if row.files[0] == "mixture.py"] + [
        "olmo-core",
        "nemo",
        "megatron-bridge",
    ]:
        compile("\n".join(make(name).command(out / name)), name, "exec")
    with pytest.raises(ExportError, match="Export again"):
        make("olmo-core").command(tmp_path / "nowhere")


def test_all_folders_appear_or_none(tmp_path):
    with pytest.raises(ExportError, match="olmo-core: .*\nhf-datasets: "):
        export_all(SCHEDULE, ["megatron", "olmo-core", "hf-datasets"], tmp_path)
    assert not list(tmp_path.iterdir())
    export_all(PLANS["three"], ["megatron"], tmp_path)
    export_all(SCHEDULE, ["megatron"], tmp_path)
    assert not (tmp_path / "megatron" / "blend.txt").exists(), "an earlier export is replaced as a whole"
    assert [path.name for path in tmp_path.iterdir()] == ["megatron"]
    (tmp_path / "streaming").mkdir()
    with pytest.raises(ExportError, match="streaming is there and was not exported by mixopt"):
        export_all(PLANS["three"], ["streaming"], tmp_path)
    with pytest.raises(JobError, match="unknown 'megatrn'; did you mean 'megatron'"):
        export_all(PLANS["three"], ["megatrn"], tmp_path)


def test_with_all_who_cannot_is_listed_and_its_old_export_removed(tmp_path):
    export_all(PLANS["three"], ["all"], tmp_path)
    result = export_all(SCHEDULE, ["all"], tmp_path)
    follow = {name for name, row in ROWS.items() if row.schedule}
    assert set(result["files"]) == set(result["max_deviation"]) == set(result["lines"]) == follow
    assert set(result["refused"]) == set(ROWS) - follow
    assert result["refused"]["nemo"].startswith("a data module has one blend, this plan has 2 phases. ")
    assert {path.name for path in tmp_path.iterdir()} == follow
    with pytest.raises(JobError, match="unknown 'megatrn'"):
        export_all(SCHEDULE, ["all", "megatrn"], tmp_path)
    hopeless = plan_of({"web": 0.5, "code": 0.5}, target=100)
    with pytest.raises(ExportError, match="\nstreaming: every proportion is below one sample"):
        export_all(hopeless, ["all"], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == follow, "nothing is touched where nobody can"


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("case", ["odd names", "tiny proportions"])
def test_both_readers_of_yaml_see_the_same(name, case, tmp_path):
    make(name).export(PLANS[case], tmp_path)
    text = (tmp_path / ROWS[name].yaml).read_text(encoding="utf-8")
    content = parse_as_pyyaml(text)
    assert content == yaml.safe_load(text) == parse_yaml(text, name)
    if name == "llm-foundry":
        assert list(content["train_loader"]["dataset"]["streams"]) == list(settle_all(PLANS[case]))


@pytest.mark.parametrize("name", [name for name in YAML if ROWS[name].schedule])
def test_both_readers_of_yaml_see_the_same_schedule(name, tmp_path):
    files = [path for path in make(name).export(SCHEDULE, tmp_path) if path.suffix == ".yaml"]
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert parse_as_pyyaml(text) == yaml.safe_load(text) == parse_yaml(text, name)


def settle_all(plan: Plan) -> Mixture:
    return settle(plan.mixture, dict.fromkeys(plan.names, SEQUENCE / plan.target_tokens), "drop").mixture


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=0), st.text())
@settings(max_examples=200, deadline=None)
def test_numbers_and_texts_survive_yaml_1_1(value, text):
    if not text.isascii() and any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return
    line = f"{quoted(text)}: {number(value)}  # {quoted(text)}\n"
    assert yaml.safe_load(line) == {text: value}
