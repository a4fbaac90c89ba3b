"""What the stacks of Megatron's family refuse, each by its own rule, and what to paste for them."""

import json
import shlex
from pathlib import Path

import pytest

from mixopt.backends import export_all, following, make
from mixopt.backends.nanotron import samples_of as nanotron_samples_of
from mixopt.backends.nemo import samples_of_paths
from mixopt.errors import ExportError
from mixopt.handoff import Plan, PlannedDomain
from mixopt.mixture import Mixture
from mixopt.yaml_text import parse_as_pyyaml

TARGET = 10_000_000_000
THREE = {"code": 0.3, "math": 0.2, "web": 0.5}
LATE = {"code": 0.8, "math": 0.0, "web": 0.2}


def plan_of(*mixtures: dict[str, float], starts: tuple[int, ...] = (0,), available: int = 10 * TARGET) -> Plan:
    domains = tuple(PlannedDomain(name, available, 700.0) for name in mixtures[0])
    return Plan(TARGET, domains, tuple((s, Mixture(m)) for s, m in zip(starts, mixtures, strict=True)))


STATIC = plan_of(THREE)
SCHEDULE = plan_of(THREE, LATE, starts=(0, TARGET // 5 * 4))


def exported(name: str, out: Path, plan: Plan = STATIC):
    backend = make(name)
    backend.export(plan, out)
    return backend


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "sentence"),
    [
        ("nemo", "paths.json", '"0.3"', '"most"', "nemo: some weights of the blend are not numbers"),
        ("nemo", "paths.json", '"0.3"', '"0.0"', "weights above 0"),
        ("megatron-bridge", "blend.json", "\n  0.3,", "", "3 prefixes with 2 weights"),
        ("megatron-bridge", "blend.json", "0.3", "0.0", "weights above 0"),
        ("gpt-neox", "gpt_neox.yml", '- "data/web_text_document"\n', "", "as many weights as paths"),
        ("gpt-neox", "gpt_neox.yml", '"valid-data-paths"', '"unknown"', "needs valid-data-paths"),
        ("gpt-neox", "gpt_neox.yml", ": false", ": true", "weight_by_num_documents overrides"),
        ("lm-engine", "lm_engine.yml", "    - 0.3\n", "", "pairs of a weight and a prefix .got 5 words"),
        ("lm-engine", "lm_engine.yml", "- 0.3\n", "- most\n", "not a number"),
        (
            "lm-engine",
            "lm_engine.yml",
            "datasets:\n",
            "datasets:\n- class_name: MegatronDataset\n",
            "wants one dataset",
        ),
        ("fast-llm", "training.yaml", "- 0.3\n", "", "each with a weight"),
        ("nanotron", "nanotron.yaml", "      - 0.3\n", "", "as many weights as folders"),
        ("nanotron", "nanotron.yaml", "start_training_step: 1", "start_training_step: 2", "rising starts from 1"),
    ],
)
def test_what_the_stack_stops_at_is_an_error_of_the_file(name, file, old, new, sentence, tmp_path):
    backend = exported(name, tmp_path)
    replaced(tmp_path / file, old, new)
    with pytest.raises(ExportError, match=sentence):
        backend.read_back(tmp_path)


def test_nemo_drops_the_weight_of_a_single_path():
    assert samples_of_paths(["1.0", "/d/web"], 7) == {"/d/web": 7}
    assert samples_of_paths(["/d/web"], 7) == {"/d/web": 7}


def test_gpt_neox_has_254_datasets_at_most(tmp_path):
    """uint8_t indexes the datasets of its BlendableDataset; a domain without a proportion takes no place."""
    names = [f"d{k}" for k in range(256)]
    some = Mixture({name: 1 / 254 if k < 254 else 0.0 for k, name in enumerate(names)})
    assert len(exported("gpt-neox", tmp_path, plan_of(dict(some))).read_back(tmp_path)) == 254
    every = Mixture.normalised(dict.fromkeys(names, 1.0))
    with pytest.raises(ExportError, match=r"gpt-neox: at most 254 datasets in a blend \(got 256\)"):
        make("gpt-neox").export(plan_of(dict(every)), tmp_path)


def test_fast_llm_gives_a_single_dataset_without_a_blend(tmp_path):
    """`BlendedDatasetConfig` asserts two datasets."""
    backend = exported("fast-llm", tmp_path, plan_of({"web": 1.0, "code": 0.0}))
    assert parse_as_pyyaml((tmp_path / "training.yaml").read_text()) == {
        "type": "file",
        "path": "data/web/fast_llm_config_training.yaml",
    }
    assert backend.read_back(tmp_path) == {"web": 1.0}


def test_nanotron_begins_a_folder_again_only_with_the_loader_that_can(tmp_path):
    once = exported("nanotron", tmp_path / "once")
    again = exported("nanotron", tmp_path / "again", plan_of(THREE, available=TARGET // 4))
    texts = [(tmp_path / folder / "nanotron.yaml").read_text() for folder in ("once", "again")]
    assert ["use_old_brrr_dataloader: true" in text for text in texts] == [False, True]
    assert 'Read more than once: "code", "web".' in texts[1]
    assert once.read_back(tmp_path / "once") == again.read_back(tmp_path / "again")


def test_nanotron_launches_each_phase_one_step_after_the_last(tmp_path):
    backend = exported("nanotron", tmp_path, SCHEDULE)
    lines = [shlex.split(line) for line in backend.command(tmp_path)]
    assert lines[0][:3] == ["sed", r"s/^\( *train_steps:\).*/\1 3815/", "base.yaml"]
    assert lines[2][:3] == ["sed", r"s/^\( *train_steps:\).*/\1 4769/", "base.yaml"]
    assert lines[2][-3:] == [str(tmp_path / "nanotron_1.yaml"), ">", "train.yaml"]
    stages = parse_as_pyyaml((tmp_path / "nanotron_1.yaml").read_text())["data_stages"]
    with pytest.raises(ExportError, match=r"must start at step 3815 \(got 3816\)"):
        nanotron_samples_of(stages, 3814, 100)
    with pytest.raises(ExportError, match="names of their own"):
        nanotron_samples_of([*stages, {**stages[1], "start_training_step": 9000}], 8999, 100)


def test_what_to_paste_says_the_files_and_the_samples(tmp_path):
    out = tmp_path / "my out"
    lines = export_all(STATIC, ["all"], out)["lines"]
    assert shlex.split(lines["gpt-neox"][0]) == [
        *("python", "deepy.py", "train.py", "base.yml"),
        str(out / "gpt-neox" / "gpt_neox.yml"),
    ]
    assert shlex.split(lines["lm-engine"][0])[:3] == ["cat", "base.yml", str(out / "lm-engine" / "lm_engine.yml")]
    fast = shlex.split(lines["fast-llm"][0])
    assert parse_as_pyyaml(fast[-1].partition("=")[2]) == str(out / "fast-llm" / "training.yaml")
    samples = -(-TARGET // 4096)
    assert f"max_steps = math.ceil({samples} / global_batch_size)  # of the trainer" in lines["nemo"]
    assert f"cfg.train.train_iters = math.ceil({samples} / cfg.train.global_batch_size)" in lines["megatron-bridge"]


def test_what_is_left_out_or_pooled_is_said_with_the_epochs(tmp_path):
    plan = plan_of({"irc": 2e-7, "law": 3e-7, "web": 1 - 5e-7, "zero": 0.0}, available=TARGET // 2)
    dropped = export_all(plan, ["nemo"], tmp_path)
    assert dropped["zero"] == ["zero"]
    assert dropped["absent"] == {"nemo": ["irc", "law"]}
    assert dropped["epochs"]["nemo"] == {"web": 2.0}
    pooled = export_all(plan, ["nemo"], tmp_path, tail="pool")
    assert pooled["absent"] == {"nemo": ["irc"]}
    assert 'Pooled into "law", below one sample of the run: "irc".' in (tmp_path / "nemo" / "README.md").read_text()
    assert pooled["max_deviation"]["nemo"] < 2e-7 + 4096 / TARGET, "what irc had, and one sample"
    with pytest.raises(ExportError, match="below one sample of the run: irc 2e-07, law 3e-07"):
        export_all(plan, ["nemo"], tmp_path, tail="raise")


def test_a_named_backend_must_be_able_even_beside_all(tmp_path):
    with pytest.raises(ExportError, match="nemo: a data module has one blend"):
        export_all(SCHEDULE, ["all", "nemo"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_schedule_of_a_search_may_be_exported_in_place_of_its_mean(tmp_path):
    mean = Plan(TARGET, SCHEDULE.domains, ((0, SCHEDULE.mixture),), schedule=SCHEDULE.phases)
    assert following(mean).phases == SCHEDULE.phases
    export_all(following(mean), ["megatron"], tmp_path)
    phases = json.loads((tmp_path / "megatron" / "numbers.json").read_text())["phases"]
    assert [phase["file"] for phase in phases] == ["blend_0.txt", "blend_1.txt"]
    with pytest.raises(ExportError, match="holds no schedule"):
        following(SCHEDULE)
