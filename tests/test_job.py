"""The job file: strict, all errors at once, YAML 1.2."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixopt.domains import Domain
from mixopt.errors import JobError
from mixopt.job import load, parse
from mixopt.limits import Group, Trust
from mixopt.methods.olmix import Olmix
from mixopt.methods.regmix import RegMix
from mixopt.runs import Objective
from mixopt.yaml_text import dump_yaml, parse_yaml
from pipelines.plan import make_space, objective

MINIMAL = {"name": "x", "data": {"source": "environment"}, "target": {"tokens": 1000}}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "my-job.yaml"
    path.write_text(text)
    return path


def problems(body: dict) -> str:
    with pytest.raises(JobError) as caught:
        parse(body, "job")
    return str(caught.value)


def test_yaml_1_2(tmp_path: Path) -> None:
    job = load(
        write(
            tmp_path,
            """
data:
  domains:
    no: {path: a/*.jsonl}
    on: {path: b/*.jsonl, tokens: 800_000_000_000}
target: {tokens: 25_000_000_000, upper: {no: 5e-1}}
proxies: {learning_rate: 1e-5}
""",
        )
    )
    assert job.name == "my-job"
    assert job.target.tokens == 25_000_000_000
    assert job.target.upper == {"no": 0.5}
    assert job.proxies.learning_rate == 1e-5
    assert set(job.data.domains or {}) == {"no", "on"}


def test_everything_wrong_is_said_at_once() -> None:
    said = problems(
        {
            "name": "x",
            "data": {"source": "environment", "tokenizr": "bytes"},
            "target": {"tokens": "25e9x", "max_epocs": 4},
            "proxies": {"cuont": 3, "size": 4},
            "validate": {"seeds": -1},
            "metod": "olmix",
        }
    )
    for sentence in (
        "data.tokenizr: no such key; did you mean 'tokenizer'?",
        "target.tokens: input should be a valid integer",
        "target.max_epocs: no such key; did you mean 'max_epochs'?",
        "proxies.cuont: no such key; did you mean 'count'?",
        "validate.seeds: input should be greater than or equal to 0 (got -1)",
        "metod: no such key; did you mean 'method'?",
    ):
        assert sentence in said


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": "olmx"}, "method.name: unknown method 'olmx'; did you mean 'olmix'?"),
        ({"method": {"name": "olmix", "kll": 1}}, "method.kll: no such key; did you mean 'kl'?"),
        ({"method": {"name": "regmix", "keep": "many"}}, "method.keep: input should be a valid integer"),
        ({"method": {"name": "regmix", "law": "gpu"}}, "method.law: input should be 'auto'"),
        ({"export": ["megatorn"]}, "export: unknown backend 'megatorn'; did you mean 'megatron'?"),
        ({"validate": {"seeds": 2}}, "validate.seeds: an interval needs at least 3 paired seeds"),
        ({"data": {}}, "data: give exactly one of domains and source"),
        ({"data": {"domains": {"a": {"path": "x", "hf": {"path": "y"}}, "b": {"path": "z"}}}}, "data.domains.a: give"),
        ({"data": {"source": "environment", "tokenizer": {}}}, "data.tokenizer: give one of"),
        ({"target": {"tokens": 0}}, "target.tokens: input should be greater than 0 (got 0)"),
        ({"target": {"tokens": float("inf")}}, "target.tokens"),
        ({"target": {"tokens": 5, "upper": {"web": 2}}}, "target.upper.web: input should be less than or equal to 1"),
        ({"target": {"tokens": 5, "trust": {"k": 1}}}, "target.trust.k: no such key"),
        ({"target": {"tokens": 5, "trust": {"kl": 0}}}, "target.trust.kl: input should be greater than 0"),
        (
            {"target": {"tokens": 5, "groups": {"g": {"domains": []}}}},
            "target.groups.g.domains: list should have at least 1",
        ),
        (
            {"target": {"tokens": 5, "groups": {"g": {"domains": ["a"], "lower": 0.5, "upper": 0.1}}}},
            "lower 0.5 is above",
        ),
        ({"objective": {"floors": {"web": -1}}}, "objective.floors.web: input should be greater than -1"),
        ({"name": "../x"}, "name: string should match pattern"),
        ({"compute": {"executor": "slurm"}}, "compute.executor: input should be 'local' or 'ray' (got 'slurm')"),
    ],
)
def test_one_thing_wrong(change: dict, sentence: str) -> None:
    assert sentence in problems({**MINIMAL, **change})


def test_unknown_domains_in_bounds_and_weights() -> None:
    body = {
        **MINIMAL,
        "data": {"domains": {"web": {"path": "w"}, "code": {"path": "c"}}},
        "target": {"tokens": 5, "lower": {"wbe": 0.1}, "groups": {"text": {"domains": ["web", "cde"]}}},
        "objective": {"weights": {"cod": 2}, "floors": {"wb": 0.01}},
    }
    said = problems(body)
    assert "target.lower: unknown domain 'wbe'; did you mean 'web'?" in said
    assert "objective.weights: unknown domain 'cod'; did you mean 'code'?" in said
    assert "objective.floors: unknown domain 'wb'; did you mean 'web'?" in said
    assert "target.groups.text.domains: unknown domain 'cde'; did you mean 'code'?" in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x 1\nb: *x", "line 2: aliases are not allowed"),
        ("a: 1\na: 2", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("2023: x", "key 2023 is read as a int; put it in quotes"),
        ("a: {true: 1}", "key True is read as a bool"),
    ],
)
def test_yaml_traps(text: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        parse_yaml(text, "job")


def test_yaml_round_trip() -> None:
    body = {"no": "yes", "x": 1e-05, "n": 25_000_000_000, "s": "1e-5", "l": [1, {"a": None}]}
    assert parse_yaml(dump_yaml(body), "here") == body


def test_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "data: {source: environment}\ntarget: {tokens: 1000}\nmethod: olmix\n")
    job = load(path, ["proxies.count=64", "method.kl=1e-3", "target.upper.python=0.5"])
    assert (job.proxies.count, job.target.upper) == (64, {"python": 0.5})
    assert job.make_method() == Olmix(kl=1e-3)
    assert load(path, ["method=regmix"]).make_method() == RegMix()
    with pytest.raises(JobError, match=r"--set proxies: must look like"):
        load(path, ["proxies"])
    with pytest.raises(JobError, match="proxies.cuont: no such key"):
        load(path, ["proxies.cuont=64"])


def test_missing_file_and_wrong_shape(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    with pytest.raises(JobError, match=r"must be a mapping of keys \(got list\)"):
        load(write(tmp_path, "- 1"))


def test_paths_start_at_the_job_and_know_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TEXTS", "/texts")
    body = {**MINIMAL, "data": {"domains": {"a": {"path": "$TEXTS/a.txt"}, "b": {"path": "b/*.jsonl"}}}}
    domains = parse(body, "job").data_config(tmp_path).domains or {}
    assert domains["a"].path == "/texts/a.txt"
    assert domains["b"].path == str(tmp_path / "b/*.jsonl")
    monkeypatch.delenv("TEXTS")
    assert "names an environment variable that is not set" in problems(body)


def test_resolved_job_is_a_job() -> None:
    job = parse(MINIMAL, "job")
    assert parse(job.to_json(), "resolved") == job


def test_sections_that_are_fine_are_checked_beside_those_that_are_not() -> None:
    body = {
        "name": "x",
        "data": {"source": "environment"},
        "target": {"tokns": 5, "tokens": 5},
        "proxies": {"size": "11k"},
        "method": "olmx",
        "export": ["mega"],
    }
    with pytest.raises(JobError) as caught:
        parse(body, "job", sizes=("10k", "100k"))
    for sentence in (
        "target.tokns: no such key; did you mean 'tokens'?",
        "proxies.size: unknown size '11k'; did you mean '10k'?",
        "method.name: unknown method 'olmx'",
        "export: unknown backend 'mega'",
    ):
        assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"method": {"name": "regmix", "keep": 500_000}}, "method.keep: must be between 1 and candidates"),
        ({"method": {"name": "olmix", "kl": -1}}, "method.kl: must be at least 0"),
        ({"compute": {"device": "gpu"}}, "compute.device: string should match"),
        ({"target": {"tokens": 5, "prior": {"a": 0.5, "b": 0.2}}}, "target.prior: must sum to 1 (got 0.7)"),
        ({"target": {"tokens": 5, "prior": {"a": 1.0}}}, "target.prior: no proportion for b"),
        ({"objective": {"weights": {"a": 0, "b": 0}}}, "objective: no domain has a positive weight"),
        ({"objective": {"domains": []}}, "objective: no domain has a positive weight"),
        ({"objective": {"domains": ["a"], "weights": {"b": 2}}}, "objective.weights: 'b' is not among"),
    ],
)
def test_one_thing_wrong_between_keys(change: dict, sentence: str) -> None:
    data = {"domains": {"a": {"path": "a.txt"}, "b": {"path": "b.txt"}}}
    assert sentence in problems({**MINIMAL, "data": data, **change})


@pytest.mark.parametrize("given", ["none", None, {"mlflow": "none"}, {"mlflow": None}])
def test_tracking_none_stays_none(given: object) -> None:
    job = parse({**MINIMAL, "tracking": given}, "job")
    assert job.tracking.mlflow is None
    assert parse(parse_yaml(dump_yaml(job.to_json()), "lock"), "lock").tracking.mlflow is None


def test_groups_trust_and_floors_reach_the_space_and_the_objective() -> None:
    target = {"tokens": 1000, "trust": {"kl": 0.5}, "groups": {"text": {"domains": ["web", "law"], "upper": 0.7}}}
    asked = {"domains": ["web"], "floors": {"code": 0.01}}
    job = parse({**MINIMAL, "target": target, "objective": asked}, "job")
    space = make_space(job, tuple(Domain(name, 1000) for name in ("code", "law", "web")))
    assert (space.groups, space.trust) == ({"text": Group(("web", "law"), 0.0, 0.7)}, Trust(kl=0.5))
    found = objective(job.objective, space.names)
    assert (found.metrics, found.weights_M.tolist()) == (("bpb/code", "bpb/web"), [0.0, 1.0])
    assert found.floors == {"bpb/code": 0.01}
    assert found.value({"bpb/code": 9.0, "bpb/web": 2.0}) == 2.0


@pytest.mark.parametrize("fraction", [-1.0, float("nan"), float("inf")])
def test_floors_that_mean_nothing_are_refused(fraction: float) -> None:
    with pytest.raises(JobError, match=r"objective\.floors: must be finite and above -1"):
        Objective({"bpb/web": 1.0}, {"bpb/code": fraction})
