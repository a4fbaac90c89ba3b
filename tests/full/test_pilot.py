"""The pilot of a full run, around a model that is a function of the row: what policies hear, what is written, restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixopt.errors import RunFailed
from mixopt.mixture import Mixture, Segment
from mixopt.policy import Feedback, Signal, Train, Valid
from mixopt.progress import Silent
from pipelines import feedback
from pipelines.full.course import EVENTS, LOCK, RECORD, Course
from pipelines.full.evaluate import HeldOut
from pipelines.full.events import Events, read
from pipelines.full.pilot import Pilot
from pipelines.full.ranks import Ranks
from pipelines.full.stream import Batch, Stream
from proxies.evaluate import bits_per_byte

Make = Callable[..., Course]
TIMES = ("tokens_per_second", "mfu", "data_share")


def losses(rows: np.ndarray) -> torch.Tensor:
    """A row's loss: something else for each row, and never the same for two domains."""
    return torch.from_numpy(rows[:, 1:].mean(1) / 100)


@dataclass(frozen=True)
class Listening:
    """Three segments of five steps, which end with all that can be heard; its state is what it heard."""

    needs: frozenset[Signal] = frozenset({Train(), Valid(0.5), Valid()})

    def init(self, names: Sequence[str], start: Feedback) -> tuple[Any, ...]:
        return ((start.seen, *start.signals["valid"].tolist()),)

    def segment(self, state: tuple[Any, ...]) -> Segment:
        shares = [(0.5, 0.25, 0.25), (1.0, 0.0, 0.0), (0.25, 0.5, 0.25), (0.0, 0.0, 1.0)][len(state) - 1]
        return Segment(Mixture(dict(zip(("code", "law", "web"), shares, strict=True))), 5 * 512)

    def update(self, state: tuple[Any, ...], feedback: Feedback) -> tuple[Any, ...]:
        heard = [-1.0 if x != x else x for x in feedback.signals["train"].tolist()]  # noqa: PLR0124 - NaN is no JSON
        return (*state, (feedback.seen, *heard))

    def load(self, body: Any) -> tuple[Any, ...]:
        return tuple(map(tuple, body))

    def to_json(self) -> dict[str, Any]:
        return {"policy": "listening"}


def listening(course: Course) -> Course:
    course.__dict__["feed"] = Listening()
    return course


def fly(course: Course, path: Path, *, hold: int = 1, until: int = 99, state: Any = None) -> tuple[Pilot, Any]:
    """Train to a step, from the beginning or from a state; the pilot, and its state before it would go on."""
    stream = Stream(course.sampler)
    pilot = Pilot(course, stream, Events(path), Ranks(), HeldOut(course, Ranks(), 4), losses, hold)
    if state is None:
        pilot.begin()
    else:
        stream.load(state["stream"])
        pilot.load(state["pilot"])
        pilot.resume()
    while pilot.step < min(until, course.steps):
        batch = stream.next()
        pilot.hear(losses(batch.rows), batch, 0.001 * pilot.step)
    pilot.settle()
    return pilot, json.loads(json.dumps({"stream": stream.state(), "pilot": pilot.state()}))


def told(path: Path) -> list[dict[str, Any]]:
    """Events without clocks, starts and checkpoints."""
    events = [e for e in read(path) if e["kind"] not in ("start", "checkpoint")]
    return [{key: value for key, value in e.items() if key not in TIMES} for e in events]


def test_a_policy_hears_what_was_trained(course: Make, tmp_path: Path) -> None:
    run = listening(course())
    pilot, _ = fly(run, tmp_path / "events.jsonl")
    stream, segments = Stream(run.sampler), []
    for shares in ((0.5, 0.25, 0.25), (1.0, 0.0, 0.0), (0.25, 0.5, 0.25)):
        stream.follow(np.array(shares), 5)
        segments.append([stream.next() for _ in range(5)])

    def means(batches: Sequence[Batch]) -> list[float]:
        domains = np.concatenate([b.domains_N for b in batches])
        values = np.concatenate([losses(b.rows).numpy() for b in batches])
        return [values[domains == j].mean() if (domains == j).any() else -1.0 for j in range(3)]

    assert [heard[0] for heard in pilot.policy] == [0, 2560, 5120, 7680, 8192]
    for heard, batches in zip(pilot.policy[1:4], segments, strict=True):
        assert heard[1:] == pytest.approx(means(batches))
    assert pilot.policy[2][2:] == (-1.0, -1.0)  # law and web were not drawn
    assert [at for at, _ in pilot.trace] == [0, 2560, 5120, 7680]
    assert pilot.policy[4][1:3] == (-1.0, -1.0)  # the last segment is cut to the one step that is left


def test_held_out_losses_and_their_units(course: Make, tmp_path: Path) -> None:
    run = course()
    pilot, _ = fly(run, tmp_path / "events.jsonl")
    valid = [event for event in read(tmp_path / "events.jsonl") if event["kind"] == "valid"]
    assert [event["step"] for event in valid] == [4, 8, 12, 16]
    for name in run.names:
        expected = losses(run.store.held_out(name, 256)).mean().item()
        metrics = valid[-1]["metrics"]
        assert metrics[f"loss/{name}"] == pytest.approx(expected)
        assert metrics[f"bpb/{name}"] == pytest.approx(bits_per_byte(expected, run.manifest[name].valid))
    record = pilot.record()
    assert record["metrics"] == valid[-1]["metrics"]
    assert record["trajectory"] == [[event["tokens"], event["metrics"]] for event in valid]
    assert (record["tokens"], record["trace"]) == (8192, [[0, dict(run.plan.mixture)]])
    assert sum(record["drawn"].values()) == 8192
    assert record["epochs"]["law"] == pytest.approx(record["drawn"]["law"] / (run.store.blocks("law") * 64))


def test_feedback_reads_the_record(course: Make, run_dir: Path) -> None:
    run = course(feed={"policy": "static"})
    run.folder.mkdir()
    pilot, _ = fly(run, run.folder / EVENTS)
    (run.folder / LOCK).write_text(run.lock())
    (run.folder / RECORD).write_text(json.dumps(pilot.record()))
    found = feedback.run(run_dir, [], Silent())
    assert found["run"]["mixture"] == dict(run.plan.mixture)
    assert found["run"]["fixed"] is True
    assert found["run"]["metrics"] == {f"bpb/{name}": pilot.record()["metrics"][f"bpb/{name}"] for name in run.names}
    assert found["step"] is None  # the search's method has no law


@pytest.mark.parametrize("part", [0.25, 1.0])
def test_held_out_losses_for_any_number_of_workers(course: Make, part: float) -> None:
    run = course(valid_tokens=1024)  # 16 rows a domain, 12 or 48 in all: five workers do not share them evenly
    whole = HeldOut(run, Ranks(), 4).losses_D(losses, part)
    for world in (2, 5):
        counts, sums = [], np.zeros(3)
        for rank in range(world):
            seen: list[int] = []
            sums += HeldOut(run, Summed(rank, world), 4).losses_D(counting(seen), part)
            counts.append(seen)
        assert sums == pytest.approx(whole)
        assert set(counts[0]) == {4}
        assert all(count == counts[0] for count in counts)  # or they would wait for each other for ever


def counting(seen: list[int]) -> Callable[[np.ndarray], torch.Tensor]:
    """`losses`, which notes how many rows it was given."""

    def count(rows: np.ndarray) -> torch.Tensor:
        seen.append(len(rows))
        return losses(rows)

    return count


@dataclass(frozen=True)
class Summed(Ranks):
    """Workers one after another: each gives its part of the sum."""

    def total(self, values: np.ndarray) -> np.ndarray:
        return values


@pytest.mark.parametrize("hold", [1, 3, 100])
def test_lines_do_not_depend_on_when_losses_are_read(course: Make, tmp_path: Path, hold: int) -> None:
    run = listening(course(log_every=3))
    fly(run, tmp_path / "a.jsonl")
    pilot, _ = fly(run, tmp_path / "b.jsonl", hold=hold)
    assert told(tmp_path / "a.jsonl") == told(tmp_path / "b.jsonl")
    lines = [event for event in told(tmp_path / "b.jsonl") if event["kind"] == "step"]
    assert [event["step"] for event in lines] == [3, 6, 9, 12, 15, 16]
    assert lines[-1]["drawn"] == pilot.record()["drawn"]


@pytest.mark.parametrize("at", [1, 4, 5, 7, 15])
def test_a_restart_is_as_if_nothing_had_happened(course: Make, tmp_path: Path, at: int) -> None:
    run = listening(course(log_every=2))
    whole, _ = fly(run, tmp_path / "a.jsonl")
    path = tmp_path / "b.jsonl"
    _, state = fly(run, path, until=at)
    Events(path).append("step", at + 1, 0, {"loss": 1.0})  # what the killed run wrote after its checkpoint
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    resumed, _ = fly(run, path, state=state)
    assert told(tmp_path / "a.jsonl") == told(path)
    ours, theirs = resumed.record(), whole.record()
    assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    starts = [event for event in read(path) if event["kind"] == "start"]
    assert [(event["step"], event["resumed"]) for event in starts] == [(0, False), (at, True)]
    saved = [event for event in read(path) if event["kind"] == "checkpoint"]
    assert saved == [{"kind": "checkpoint", "step": at, "tokens": at * 512, "path": f"checkpoints/step{at}"}]


def test_a_loss_that_is_no_number_ends_the_run(course: Make, tmp_path: Path) -> None:
    run = course()
    stream = Stream(run.sampler)
    pilot = Pilot(run, stream, Events(tmp_path / "e"), Ranks(), HeldOut(run, Ranks(), 4), losses)
    pilot.begin()
    batch = stream.next()
    bad = losses(batch.rows)
    bad[0] = torch.nan
    with pytest.raises(RunFailed, match="training loss of code is not finite at step 1 of 16"):
        pilot.hear(bad, batch, 0.1)
    with pytest.raises(RunFailed, match="held-out loss of code, law, web is not finite at step 0"):
        Pilot(
            listening(course()),
            Stream(run.sampler),
            Events(None),
            Ranks(),
            HeldOut(run, Ranks(), 4),
            lambda rows: losses(rows) * torch.inf,
        ).begin()


def test_events_of_other_workers_are_nobody_s(tmp_path: Path) -> None:
    events = Events(None)
    events.append("end", 1, 2)
    events.cut(0, None)
    assert not list(tmp_path.iterdir())


def test_a_second_restart_from_one_checkpoint_starts_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    events = Events(path)
    events.append("start", 0, 0, {"resumed": False})
    events.append("step", 1, 10)
    events.append("step", 2, 20)
    events.append("checkpoint", 1, 10, {"path": "checkpoints/step1"})  # it was complete only then
    saved = {"kind": "checkpoint", "step": 1, "tokens": 10, "path": "checkpoints/step1"}
    for _ in range(2):
        events.cut(1, saved)
        events.append("start", 1, 10, {"resumed": True})
    assert [(event["kind"], event["step"]) for event in read(path)] == [
        ("start", 0),
        ("step", 1),
        ("checkpoint", 1),
        ("start", 1),
    ]
    events.cut(0, None)
    assert read(path) == []
