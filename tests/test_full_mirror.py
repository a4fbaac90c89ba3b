"""The mirror of a full run: the same points whoever looked when, none twice after a restart, no harm to the training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mixopt.errors import JobError
from mixopt.progress import Silent
from mixopt.runs import Objective
from mixopt.yaml_text import dump_yaml
from pipelines.full import mirror
from pipelines.full.mirror import Curves, FullRun, Tail, experiment, following, summary
from pipelines.outbox import Entry, Outbox, experiment_name

BATCH, STEPS = 1000, 2000
AVAILABLE = {"web": 1_000_000, "code": 50_000}
NOWHERE = "http://127.0.0.1:9"


def step(n: int) -> dict[str, Any]:
    return {
        "kind": "step",
        "step": n,
        "tokens": n * BATCH,
        "loss": 4.0 - n / STEPS,
        "domains": {"web": 3.0 + n / STEPS, **({"code": 2.0} if n % 2 else {})},
        "proportions": {"web": 0.75, "code": 0.25},
        "drawn": {"web": 750 * n, "code": 250 * n},
        "learning_rate": 0.001,
        "tokens_per_second": 1e5,
        "mfu": None,
        "data_share": 0.001,
    }


def story(first: int = 1, last: int = STEPS, *, resumed: bool = False) -> list[dict[str, Any]]:
    """What a run from one step to another writes: a validation at each quarter, the end after the last step."""
    start = {"kind": "start", "step": first - 1, "tokens": (first - 1) * BATCH, "target_tokens": STEPS * BATCH}
    start |= {"model": "1m", "parameters": 10, "batch_tokens": BATCH, "domains": list(AVAILABLE), "resumed": resumed}
    told: list[dict[str, Any]] = [start]
    for n in range(first, last + 1):
        told.append(step(n))
        if n % (STEPS // 4) == 0:
            metrics = {"bpb/web": 1.5, "bpb/code": float(n), "loss/web": 9.0}
            told.append({"kind": "valid", "step": n, "tokens": n * BATCH, "metrics": metrics})
    return [*told, {"kind": "end", "step": last, "tokens": last * BATCH}] if last == STEPS else told


def write(path: Path, told: Sequence[dict[str, Any]], mode: str = "a") -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open(mode) as file:
        file.writelines(json.dumps(event) + "\n" for event in told)


@pytest.fixture
def run(tmp_path: Path) -> FullRun:
    return FullRun(folder=tmp_path / "full", name="job", experiment="e", params={"mixture": "m1"}, available=AVAILABLE)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr("pipelines.mlflow_tracker.CLOSE_SECONDS", 0.01)


class Bar:
    """A progress display that remembers."""

    def __init__(self) -> None:
        self.label, self.total, self.amount = "", 0.0, 0.0

    @contextmanager
    def task(self, label: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
        self.label, self.total = label, total or 0.0

        def advance(amount: float) -> None:
            self.amount += amount

        yield advance


def test_a_file_that_is_cut_back_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == (False, [])
    write(path, [{"n": 1}, {"n": 2}])
    with path.open("a") as file:
        file.write('{"n": 3')
    assert tail.read() == (False, [{"n": 1}, {"n": 2}])
    with path.open("a") as file:
        file.write("}\n")
    assert tail.read() == (False, [{"n": 3}])
    assert tail.read() == (False, [])
    write(path, [{"n": 1}, {"n": 20}, {"n": 30}, {"n": 40}], "w")  # longer than it was
    assert tail.read() == (True, [{"n": 1}, {"n": 20}, {"n": 30}, {"n": 40}])
    path.unlink()
    assert tail.read() == (False, [])


def test_points_are_means_over_equal_parts_of_the_run() -> None:
    curves = Curves(AVAILABLE)
    points = [point for event in story() for point in curves.add(event)]
    losses = [(at, value) for key, value, at in points if key == "loss"]
    assert len(losses) == mirror.POINTS
    assert losses[0] == (4, pytest.approx(4.0 - 2.5 / STEPS))
    assert losses[-1] == (STEPS, pytest.approx(4.0 - (STEPS - 1.5) / STEPS))
    assert [at for key, _, at in points if key == "bpb/code"] == [500, 1000, 1500, 2000]
    assert 9.0 not in [value for key, value, _ in points if key == "loss/web"], "held-out losses have another name"


def test_a_point_has_every_curve() -> None:
    point = summary([step(1), step(2)], AVAILABLE)
    assert point["loss/web"] == pytest.approx(3.0 + 1.5 / STEPS)
    assert point["loss/code"] == 2.0, "absent in one of the steps"
    assert point["proportions/code"] == 0.25
    assert point["epochs/code"] == 500 / 50_000
    assert "mfu" not in point
    assert summary([step(1) | {"mfu": 0.5, "loss": float("nan")}], AVAILABLE).keys() >= {"mfu", "tokens_per_second"}


def entries(run: FullRun) -> list[Entry]:
    return [entry for _, _, entry in Outbox(run.folder, NOWHERE).read()]


def points_of(run: FullRun) -> list[tuple[str, float, int]]:
    return [(key, value, at) for entry in entries(run) for key, value, at in entry.metrics]


def test_killed_cut_back_and_resumed_it_is_one_run_without_points_twice(run: FullRun) -> None:
    path = run.folder / "events.jsonl"
    with pytest.raises(RuntimeError), following(run, NOWHERE, Silent(), lambda lines: None):
        write(path, story(last=1203))
        raise RuntimeError("a worker died")
    with following(run, NOWHERE, Silent(), lambda lines: None):  # back to the checkpoint at 1000
        write(path, [*story(last=1000), *story(1001, resumed=True)], "w")
    with following(run, NOWHERE, Silent(), lambda lines: None):  # nothing to do, as where only the export was missing
        pass
    curves = Curves(AVAILABLE)
    assert points_of(run) == [point for event in story() for point in curves.add(event)]
    assert len({entry.key for entry in entries(run)}) == 1
    assert [(e.part, e.error) for e in entries(run) if e.part == "last"] == [
        ("last", "RuntimeError: a worker died"),
        ("last", ""),
    ]
    assert entries(run)[-1].part == "last"
    (params,) = (entry.params for entry in entries(run) if entry.params)
    assert params == {"mixture": "m1", "tokens": "2000000", "model": "1m", "parameters": "10", "batch_tokens": "1000"}


def test_the_terminal_has_a_bar_and_lines(run: FullRun) -> None:
    path, said, bar = run.folder / "events.jsonl", list[str](), Bar()
    with following(run, None, bar, said.extend):
        write(path, story(last=1203))
    assert (bar.label, bar.total, bar.amount) == ("train 1m", STEPS * BATCH, 1203 * BATCH)
    assert said[0] == "100,000 of 2,000,000 tokens: loss 3.9500, 100,000 tokens/s"
    assert sum(line.startswith("validated: bpb/web 1.5000, bpb/code") for line in said) == 2
    assert len(said) == 12 + 2
    again = list[str]()
    bar = Bar()
    with following(run, None, bar, again.extend):
        write(path, [*story(last=1000), *story(1001, resumed=True)], "w")
    assert again[0].startswith("1,300,000 of")
    assert bar.amount == STEPS * BATCH


def test_trouble_with_showing_is_a_sentence(run: FullRun, caplog: pytest.LogCaptureFixture) -> None:
    def broken(lines: Sequence[str]) -> None:
        raise OSError("no terminal")

    with following(run, NOWHERE, Silent(), broken):
        write(run.folder / "events.jsonl", story())
    assert "the training goes on, but is shown no more (OSError: no terminal)" in caplog.text
    assert entries(run)[-1].part == "last", "the other view is not touched"


def test_it_stands_beside_the_search(tmp_path: Path) -> None:
    weights = {"bpb/web": 1.0, "bpb/code": 2.0}
    results = {"name": "job", "objective": {"weights": weights}, "provenance": {"data": "f" * 64}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "job.lock.yaml").write_text(dump_yaml({"data": {"source": None}}))
    assert experiment(tmp_path) == experiment_name("job", "f" * 64, Objective(weights))
    (tmp_path / "results.json").unlink()
    with pytest.raises(JobError, match="not the run directory of a finished search"):
        experiment(tmp_path)
