"""Searches by methods that adapt the mixture during a run: from the job to the report, and every refusal on the way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixopt.errors import DataError, JobError
from mixopt.job import Job, parse
from mixopt.policies.aioli import Aioli
from mixopt.policies.skillit import SkillIt
from mixopt.policy import Feedback
from mixopt.yaml_text import parse_yaml
from pipelines.plan import cost, setting

Run = Callable[..., tuple[int, dict, str]]
NAMES = ("code", "law", "web")
JOB = """
name: adapting
store: {store}
data:
  domains:
    code: {{path: "{texts}/code/*.txt"}}
    law: {{path: "{texts}/law/*.txt"}}
    web: {{path: "{texts}/web/*.txt"}}
  tokenizer: bytes
target: {{tokens: 300_000, max_epochs: 4}}
proxies: {{size: 10k, tokens: 10_000, count: 12}}
method: {method}
compute: {{workers: 0}}
tracking: none
validate: {{seeds: {seeds}}}
"""
AIOLI = "{name: aioli, eta: 1.0, rounds: 4, sweeps: 2, start: {code: 0.4, law: 0.2, web: 0.4}}"
SKILLIT = "{name: skillit, rounds: 4}"


def write(texts: Path, scratch: Path, method: str, seeds: int = 0) -> Path:
    path = scratch.parent / "adapting.yaml"
    path.write_text(JOB.format(store=scratch, texts=texts, method=method, seeds=seeds))
    return path


def parsed(method: str) -> Job:
    return parse(parse_yaml(JOB.format(store="s", texts="t", method=method, seeds=3), "test"), "test")


def test_aioli_from_the_job_to_the_report(mixopt: Run, texts: Path, scratch: Path) -> None:
    job, out = write(texts, scratch, AIOLI, seeds=3), scratch.parent / "out"
    code, found, seen = mixopt("search", job, "--out", out)
    assert code == 0
    assert sum(found["recommendation"].values()) == pytest.approx(1)
    assert found["predicted"] == {"objective": None, "interval": None}
    assert (found["proxies_trained"], found["validated"]["seeds"]) == (1 + 3 * 3, 3)
    assert "code" in seen
    results = json.loads((out / "results.json").read_text())
    assert (results["law"], results["fit"], results["uncertainty"]) == (None, None, None)
    assert set(results["validation"]["arms"]) == {"recommended", "prior", "uniform"}
    assert results["proposal"]["how"] == "followed"
    assert results["proxy"]["tokens"] == 12 * 10_000
    assert any("tokens went to probes" in note for note in results["notes"])
    assert results["swarm"] == {"objective": [], "best": None, "failed": []}
    assert "This method fits no law." in (out / "report.md").read_text()
    planned = cost(parsed(AIOLI), NAMES, 257)
    assert (planned["proxies"], planned["validation_runs"]) == (1, 3 * 3)
    assert results["cost"]["tokens"] == pytest.approx(planned["tokens"], rel=0.02)  # runs end on whole steps
    assert results["cost"]["flops"] == pytest.approx(planned["flops"], rel=0.2)  # the derived settings differ a little


def test_skillit_from_the_job_to_the_report(mixopt: Run, texts: Path, scratch: Path) -> None:
    job, out = write(texts, scratch, SKILLIT), scratch.parent / "out"
    code, found, seen = mixopt("search", job, "--out", out)
    assert code == 0
    assert found["proxies_trained"] == 3 + 1
    assert "Not validated" in seen
    results = json.loads((out / "results.json").read_text())
    assert results["cost"]["tokens"] == pytest.approx(12 * 10_000, rel=0.01)
    assert any("went through" in note for note in results["notes"])
    assert not (out / "ratios.csv").exists()  # runs of other lengths are no table that a law may learn from


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        ("{name: aioli, etta: 1}", r"method.etta: no such key; did you mean 'eta'\?"),
        ("{name: aiolli}", r"unknown method 'aiolli'; did you mean 'aioli'\?"),
        (
            "{name: aioli, start: {code: 0.4, lew: 0.2, web: 0.4}}",
            r"method.start: unknown domain 'lew'; did you mean 'law'\?",
        ),
        ("{name: aioli, start: {code: 0.6, web: 0.4}}", r"method.start: no proportion for law"),
        ("{name: aioli, start: {code: 0.6, law: 0.2, web: 0.4}}", r"method.start: proportions sum to 1.2"),
        ("{name: skillit, edges: pear}", r"method.edges: .*'drops' or 'pairs'"),
    ],
)
def test_bad_knobs_are_named_in_the_job(method: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        parsed(method)


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (
            "{name: aioli, rounds: 100}",
            r"method.probe_share: 0.3 of a round of 1,200 tokens in 12 intervals .*4 sweeps",
        ),
        ("{name: aioli, one_hot: 0.3}", r"method.one_hot: must be above 1/3, where every probe is the same mixture"),
        ("{name: aioli, start: {code: 0.5, law: 0.5, web: 0}}", r"method.start: gives nothing to web"),
        ("{name: skillit, graph_share: 0.001}", r"method.graph_share: 0.001 of 120,000 tokens leaves 0 steps"),
        ("{name: skillit, rounds: 1000}", r"to 1000 rounds, which need one each"),
    ],
)
def test_budgets_that_cannot_work_are_refused_before_any_text_is_read(method: str, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        cost(parsed(method), NAMES, 257)


def test_a_search_refuses_what_a_dry_run_does(mixopt: Run, texts: Path, scratch: Path) -> None:
    job = write(texts, scratch, "{name: aioli, rounds: 100}")
    said = [mixopt("search", job, *options) for options in (("--dry-run",), ("--out", scratch.parent / "out"))]
    assert [code for code, *_ in said] == [2, 2]
    assert said[0][1]["error"] == said[1][1]["error"]
    assert not (scratch.parent / "out").exists()


@pytest.mark.parametrize(
    ("method", "runs", "readings"),
    [(AIOLI, 1, 0.25 * (1 + 4 * (2 * 3 + 1))), (SKILLIT, 4, 3 * 2.0)],
)
def test_a_dry_run_counts_runs_and_readings(method: str, runs: int, readings: float) -> None:
    """Aioli reads a quarter of the held-out text at the start and after each of 6 probes and the rest of 4 rounds.

    Skill-It reads all of it before and after each of the runs for the graph; beyond these its policy is not known.
    """
    job = parsed(method)
    chosen = setting(job, 3)
    found = cost(job, NAMES, 257)
    assert (found["proxies"], found["validation_runs"]) == (runs, 3 * 3)
    assert found["tokens"] == (12 + 9) * 10_000
    evaluated = chosen.eval_tokens * 3 * (readings + (runs + 9) * job.proxies.checkpoints)
    assert found["flops"] == pytest.approx(chosen.shape.flops(257) * (found["tokens"] + evaluated / 3))
    assert any("120,000 tokens, those of 12 proxies" in reason for reason in found["reasons"])


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"rounds": 0}, "method.rounds, method.sweeps: must be at least 1"),
        ({"probe_share": 1.1}, r"method.probe_share: must be above 0 and at most 1 \(got 1.1\)"),
        ({"one_hot": 0.0}, "method.one_hot: must be above 0 and at most 1"),
        ({"part": 2.0}, "method.part: must be above 0 and at most 1"),
        ({"ema": 1.0}, "method.ema: must be at least 0 and below 1"),
        ({"ema": 0.1, "start": {"a": 0.5, "b": 0.5}}, "method.start: is forgotten at once with ema"),
        ({"eta": 0.0}, "method.eta: must be above 0"),
        ({"eta": 30.0}, "method.eta: must be above 0 and at most 25 in 20 rounds"),
    ],
)
def test_wrong_knobs_of_aioli(knobs: dict, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        Aioli(**knobs)


@pytest.mark.parametrize("knobs", [{"eta": 0.0}, {"window": 0}, {"rounds": 0}, {"graph_share": 1.0}, {"part": 0.0}])
def test_wrong_knobs_of_skillit(knobs: dict) -> None:
    with pytest.raises(JobError, match=f"method.*{next(iter(knobs))}.*: must be"):
        parsed(json.dumps({"name": "skillit"} | knobs)).make_method()


def test_a_graph_of_other_domains_is_refused() -> None:
    policy = SkillIt({"a": {"a": 1.0, "b": 0.0}, "b": {"a": 0.0, "b": 1.0}})
    with pytest.raises(JobError, match="the graph has domains a, b, the run a, c"):
        policy.init(("a", "c"), Feedback(0, 1000, {}))
    with pytest.raises(JobError, match="10 rounds do not fit into a run of 9 training steps"):
        policy.init(("a", "b"), Feedback(0, 1000, {}, 101))


def test_one_domain_has_nothing_to_probe() -> None:
    with pytest.raises(JobError, match="for at least two domains"):
        Aioli().init(("a",), Feedback(0, 1000, {}))
    with pytest.raises(DataError, match="unknown domain 'b'"):
        Aioli(start={"a": 0.5, "b": 0.5}).init(("a", "c"), Feedback(0, 1000, {}))
