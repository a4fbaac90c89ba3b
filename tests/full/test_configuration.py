"""full.yaml: strict, all errors at once, what is not given derived with its source, and what a restart may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixopt import full as configuration
from mixopt.errors import JobError
from mixopt.full import UNHEARD, Full, load, parse
from mixopt.policies import POLICIES
from mixopt.policies.limited import Limited
from mixopt.policy import Fixed, Scheduled
from mixopt.yaml_text import dump_yaml, parse_yaml
from pipelines.full.course import LOCK, Course, Searched, inherited, resolve
from pipelines.full.course import load as locked

from .conftest import AIOLI, FULL, full


def problems(body: dict) -> str:
    with pytest.raises(JobError) as caught:
        parse(body, "full.yaml")
    return str(caught.value)


def test_everything_wrong_is_said_at_once() -> None:
    said = problems(
        {
            "model": "160mm",
            "batch_tokns": 1024,
            "sequence": 100,
            "micro_batch_tokens": 150,
            "tokens": "25e9",
            "launch": {"by": "slurm"},
            "optimizer": {"beta3": 0.1},
            "feed": {"policy": "aiolo"},
        }
    )
    for part in (
        "7 problems",
        "batch_tokns: no such key; did you mean 'batch_tokens'?",
        "unknown name '160mm'; did you mean '160m'?",
        "micro_batch_tokens: must be whole rows of sequence tokens (100; got 150, the next is 200)",
        "Write integers as 25_000_000_000.",
        "launch.by: input should be 'auto', 'ray', 'torchrun' or 'external' (got 'slurm').",
        "optimizer.beta3: no such key; did you mean 'beta2'?",
        "unknown policy 'aiolo'; did you mean 'aioli'?",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        ({"policy": "aioli", "roundz": 4}, "feed.roundz: no such key; did you mean 'rounds'?"),
        ({"policy": "aioli", "rounds": 0}, "feed.rounds, method.sweeps: must be at least 1"),
        ({"policy": "odm", "rounds": "many"}, "feed.rounds: input should be a valid integer"),
        ({"policy": "static", "rounds": 2}, "feed: static has no knobs (got rounds)."),
        ("skillit", "feed.graph: is required."),
    ],
)
def test_knobs_of_a_policy_are_checked(feed: object, said: str) -> None:
    assert said in problems({"model": "1m", "feed": feed})


@pytest.mark.parametrize("name", UNHEARD)
def test_policies_that_hear_what_is_not_measured_are_refused(name: str) -> None:
    said = problems({"model": "1m", "feed": name})
    assert f"{name} needs {UNHEARD[name]}" in said
    assert "These work: ado, aioli, odm, skillit." in said


def test_every_policy_is_known_or_refused() -> None:
    inside = {"audited", "fixed", "limited", "scheduled", "watched"}  # what others are made of
    assert set(configuration.POLICIES) | set(UNHEARD) | inside == set(POLICIES)


def test_overrides_and_the_lock_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "full.yaml"
    path.write_text(dump_yaml(FULL))
    read = load(path, ["launch.workers=8", "feed={policy: odm}", "tracking=none"])
    assert (read.launch.workers, read.feed, read.learning_rate) == (8, {"policy": "odm"}, 0.005)
    assert read.tracking is not None
    assert read.tracking.mlflow is None
    again = parse(parse_yaml(dump_yaml(read.to_json()), "lock"), "lock")
    assert again == read


def test_what_is_not_given_is_derived_with_its_source(run_dir: Path) -> None:
    given = parse({"model": "160m", "launch": {"device": "cpu"}}, "full.yaml")
    course = resolve(Searched.load(run_dir), given)
    assert (course.sequence, course.full.tokens, course.full.max_epochs, course.workers) == (64, 65_536, 4.0, 1)
    assert (course.full.precision, course.full.compile, course.full.launch.by) == ("float32", False, "torchrun")
    assert course.rows % course.workers == 0
    assert course.tokens >= 65_536 > course.tokens - course.step_tokens
    assert all(getattr(course.full, key) is not None for key in Full.model_fields)
    said = " ".join(course.reasons)
    for part in ("target.sequence", "target.max_epochs", "Step Law", "the mixture was found for", "training compute"):
        assert part in said


def test_workers_resolve_what_the_driver_locked(course: Callable[..., Course], run_dir: Path) -> None:
    found = course(batch_tokens=None, learning_rate=None, feed=AIOLI)
    found.folder.mkdir()
    (found.folder / LOCK).write_text(found.lock())
    again = locked(run_dir)
    assert again.full == found.full
    assert (again.mixture_id, again.steps, again.feed) == (found.mixture_id, found.steps, found.feed)


def test_feeds(course: Callable[..., Course]) -> None:
    static, schedule = course().feed, course(feed="schedule").feed
    assert isinstance(static, Fixed)
    assert dict(static.mixture) == pytest.approx({"code": 0.45, "law": 0.2, "web": 0.35})
    assert isinstance(schedule, Scheduled)
    assert [start for start, _ in schedule.schedule.phases] == [0.0, 0.5]
    assert course(feed=AIOLI).feed.to_json()["policy"] == "aioli"
    scarce = course(feed=AIOLI, tokens=300_000, max_epochs=3.0).feed  # law has about 45,000 tokens
    assert isinstance(scarce, Limited)
    assert scarce.ahead < 1


def test_ado_is_told_the_prior_of_the_search(course: Callable[..., Course]) -> None:
    run = course(feed={"policy": "ado"})
    prior = run.feed.to_json()
    prior = prior.get("inner", prior)["prior"]
    assert prior == pytest.approx(dict(run.searched.prior))


def test_a_plan_of_one_mixture_has_no_schedule(run_dir: Path, course: Callable[..., Course]) -> None:
    import json

    path = run_dir / "mixture.json"
    body = json.loads(path.read_text())
    del body["schedule"]
    path.write_text(json.dumps(body))
    with pytest.raises(JobError, match="schedule needs a plan with phases"):
        course(feed="schedule").feed  # noqa: B018


def begun(found: Course) -> None:
    (found.checkpoints / "step4").mkdir(parents=True)
    (found.folder / LOCK).write_text(found.lock())
    (found.checkpoints / "step4" / ".metadata.json").write_text("{}")


def test_a_restart_keeps_what_it_is_not_told(course: Callable[..., Course]) -> None:
    found = course(learning_rate=0.01, seed=7)
    begun(found)
    merged = inherited(parse({"model": "1m", "launch": {"workers": 1}}, "full.yaml"), found.folder)
    assert (merged.learning_rate, merged.seed, merged.tokens) == (0.01, 7, 8192)
    assert merged.launch.workers == 1


def test_a_restart_may_not_change_the_run(course: Callable[..., Course]) -> None:
    found = course()
    begun(found)
    with pytest.raises(JobError, match="learning_rate was 0.005, is 0.01.*seed was 0, is 3") as caught:
        inherited(full(learning_rate=0.01, seed=3), found.folder)
    assert "move" in str(caught.value)
    freely = inherited(full(launch={"workers": 4, "device": "cpu"}, micro_batch_tokens=64), found.folder)
    assert freely.micro_batch_tokens == 64


def test_a_run_without_a_checkpoint_begins_anew_as_it_is_told(course: Callable[..., Course]) -> None:
    found = course()
    found.folder.mkdir()
    (found.folder / LOCK).write_text(found.lock())
    assert inherited(full(learning_rate=0.01), found.folder).learning_rate == 0.01
