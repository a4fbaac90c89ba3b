"""Schedules made by hand, plans made of a trace, and schedules as a method of a job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.errors import DataError, JobError
from mixopt.handoff import load
from mixopt.job import parse
from mixopt.methods.schedule import Planned
from mixopt.mixture import Mixture, Schedule, Segment, condensed, mean
from mixopt.policies.schedules import annealing, replayed, replaying, two_stages

A, B = Mixture({"x": 1.0, "y": 0.0}), Mixture({"x": 0.0, "y": 1.0})


def shares(schedule: Schedule) -> list[tuple[float, float]]:
    return [(start, mixture["x"]) for start, mixture in schedule.phases]


def test_annealing_walks_straight_and_arrives() -> None:
    assert shares(annealing(A, B, 3)) == [(0.0, 1.0), (pytest.approx(1 / 3), 0.5), (pytest.approx(2 / 3), 0.0)]
    late = annealing(A, B, 2, begin=0.6)
    assert shares(late) == [(0.0, 1.0), (0.6, 0.5), (pytest.approx(0.8), 0.0)]
    assert shares(annealing(A, B, 1, begin=0.9)) == [(0.0, 1.0), (0.9, 0.0)]
    assert shares(annealing(A, B, 1)) == [(0.0, 0.0)]
    with pytest.raises(JobError, match=r"annealing: .*\(got 0, 0\.0\)"):
        annealing(A, B, 0)


def test_two_stages_last_as_long_as_their_tokens() -> None:
    """100 + 300 special tokens, then 400 general with a quarter of the special: 400 of 900 tokens, then (25, 75, 400) / 500."""
    plan = two_stages({"code": 100, "math": 300}, {"chat": 400}, 0.25)
    (_, first), (begin, second) = plan.phases
    assert begin == pytest.approx(400 / 900)
    assert dict(first) == pytest.approx({"chat": 0.0, "code": 0.25, "math": 0.75})
    assert dict(second) == pytest.approx({"chat": 0.8, "code": 0.05, "math": 0.15})
    with pytest.raises(JobError, match="no domain both special and general"):
        two_stages({"code": 1}, {"code": 1}, 0.1)
    with pytest.raises(JobError, match="both need tokens"):
        two_stages({"code": 0}, {"chat": 1}, 0.1)


def test_replay_raises_the_old_domains_to_the_floor() -> None:
    mixture = Mixture({"new": 0.98, "web": 0.02, "wiki": 0.0})
    old = Mixture({"new": 0.0, "web": 0.5, "wiki": 0.5})
    kept = replayed(mixture, old, 0.1)
    assert kept["web"] + kept["wiki"] == pytest.approx(0.1)
    assert kept["wiki"] == pytest.approx(0.08 / 0.98 / 2)
    assert replayed(mixture, old, 0.02) == mixture
    with pytest.raises(DataError, match="unknown domain 'webb'; did you mean 'web'"):
        replayed(mixture, Mixture({"new": 0.0, "webb": 0.5, "wiki": 0.5}), 0.1)
    twice = replaying(Schedule(((0.0, mixture), (0.5, old))), old, 0.1)
    assert [m["new"] for _, m in twice.phases] == [pytest.approx(0.9), 0.0]


def test_a_trace_becomes_a_plan() -> None:
    """Equal neighbours are one phase; then the two that differ least over the fewest tokens: .5 and .6, at (1 .5 + 2 .6) / 3."""
    mixtures = [Mixture({"x": x, "y": 1 - x}) for x in (1.0, 0.5, 0.6, 0.0)]
    trace = [Segment(m, n) for m, n in zip([mixtures[0], *mixtures], (3, 2, 10, 20, 15), strict=True)]
    assert shares(condensed(trace)) == [(0.0, 1.0), (0.1, 0.5), (0.3, 0.6), (0.7, 0.0)]
    assert shares(condensed(trace, 3)) == [(0.0, 1.0), (0.1, pytest.approx(17 / 30)), (0.7, 0.0)]
    assert shares(condensed(trace, 1)) == [(0.0, pytest.approx(22 / 50))]


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1)), min_size=1, max_size=30),
    st.integers(1, 10),
)
@settings(max_examples=60, deadline=None)
def test_a_plan_has_the_mean_of_its_trace(parts: list[tuple[int, float]], phases: int) -> None:
    trace = [Segment(Mixture({"x": x, "y": 1 - x}), tokens) for tokens, x in parts]
    plan = condensed(trace, phases)
    assert len(plan.phases) <= phases
    assert plan.mean["x"] == pytest.approx(mean([(s.tokens, s.mixture) for s in trace])["x"], abs=1e-9)
    assert Schedule.of(plan.plain()) == plan


def job(phases: Any) -> dict[str, Any]:
    domains = {"web": {"path": "web"}, "code": {"path": "code"}}
    data = {"domains": domains, "tokenizer": {"train": 4096}}
    method = {"name": "schedule", "phases": phases}
    return {"name": "planned", "data": data, "target": {"tokens": 1000}, "method": method}


def test_a_schedule_is_a_method_of_a_job() -> None:
    parsed = parse(job([[0.0, {"web": 0.9, "code": 0.1}], [0.8, {"web": 0.5, "code": 0.5}]]), "job")
    method = parsed.make_method()
    assert isinstance(method, Planned)
    assert dict(method.schedule.mean) == pytest.approx({"web": 0.82, "code": 0.18})
    assert parsed.is_baseline
    assert parse(parsed.to_json(), "again") == parsed


def test_all_that_is_wrong_with_phases_is_said_at_once() -> None:
    body = job([[0.1, {"web": 0.9, "code": 0.3}], [0.8, {"wep": 0.5, "code": 0.5}]])
    with pytest.raises(JobError) as caught:
        parse(body | {"export": ["megatrn"]}, "job")
    said = str(caught.value)
    for part in (
        "export: unknown backend 'megatrn'",
        "method.phases[0]: mixture: proportions sum to 1.2",
        "method.phases: must start at 0 and increase below 1 (got starts [0.1, 0.8])",
        "method.phases: every phase needs the same domains",
        "method.phases[1]: unknown domain 'wep'; did you mean 'web'?",
        "method.phases[1]: no proportion for web",
    ):
        assert part in said
    with pytest.raises(JobError, match=r"method\.phases: must start at 0"):
        parse(job([]), "job")


def test_the_start_of_a_policy_has_the_jobs_domains() -> None:
    body = job([]) | {"method": {"name": "ado", "prior": {"web": 0.5, "cod": 0.5}}}
    with pytest.raises(JobError, match=r"method\.prior: unknown domain 'cod'; did you mean 'code'"):
        parse(body, "job")


JOB = """
name: planned
store: {root}/store
data: {{domains: {{code: {{path: "{texts}/code/*.txt"}}, law: {{path: "{texts}/law/*.txt"}}, web: {{path: "{texts}/web/*.txt"}}}}, tokenizer: bytes}}
target: {{tokens: 100_000, max_epochs: 4}}
proxies: {{size: 10k, tokens: 20_000}}
method: {{name: schedule, phases: [[0.0, {{code: 0.4, law: 0.2, web: 0.4}}], [0.75, {{code: 0.4, law: 0.4, web: 0.2}}]]}}
validate: {{seeds: 0}}
tracking: none
"""


def test_a_planned_schedule_is_searched_written_and_exported(
    mixopt: Callable[..., tuple[int, dict[str, Any], str]], texts: Path, tmp_path: Path
) -> None:
    (tmp_path / "planned.yaml").write_text(JOB.format(root=tmp_path, texts=texts))
    code, found, said = mixopt("search", tmp_path / "planned.yaml", "--out", tmp_path / "run")
    assert code == 0, said
    assert found["recommendation"] == pytest.approx({"code": 0.4, "law": 0.25, "web": 0.35})
    assert "The schedule has 2 phases: law from 20.0 to 40.0 %" in (tmp_path / "run" / "report.md").read_text()
    plan = load(tmp_path / "run" / "mixture.json")
    assert [start for start, _ in plan.schedule] == [0, 75_000]
    assert len(plan.phases) == 1
    code, found, said = mixopt("export", tmp_path / "run", "--to", "hf-datasets")
    assert code == 0
    assert found["notes"][0].startswith("The search followed a schedule of 2 phases")
    assert "exported is its mean by tokens" in " ".join(said.split())


def test_shares_of_a_random_walk_are_kept() -> None:
    rng = np.random.default_rng(0)
    trace = [Segment(Mixture.from_array("abc", w_D), 100) for w_D in rng.dirichlet(np.ones(3), 50)]
    assert len(condensed(trace).phases) == 8
