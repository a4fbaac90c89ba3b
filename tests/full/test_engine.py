"""The engine in earnest: two workers on a CPU train the 1m model, are killed, and go on as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mixopt.yaml_text import dump_yaml
from pipelines.full.course import LOCK, load
from pipelines.full.events import read
from pipelines.full.saved import set_damaged_aside, sound
from pipelines.full.train import prepare
from pipelines.local_executor import ONE_THREAD

from .conftest import AIOLI, FULL, full

pytest.importorskip("olmo_core")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
FEEDS = {"static": "static", "schedule": "schedule", "aioli": AIOLI}
KILLED = "aioli"  # the feed of the run that is killed in earnest
TIMES = ("tokens_per_second", "mfu", "data_share")
STOPPED = 6  # two steps after the first checkpoint
SECONDS = 240


def told(folder: Path) -> list[dict[str, Any]]:
    """Events without clocks, starts and checkpoints."""
    events = [e for e in read(folder / "full" / "events.jsonl") if e["kind"] not in ("start", "checkpoint")]
    return [{key: value for key, value in e.items() if key not in TIMES} for e in events]


def record(folder: Path) -> dict[str, Any]:
    """The record without clocks."""
    body = json.loads((folder / "full" / "record.json").read_text())
    return {key: value for key, value in body.items() if key not in ("seconds", "machine")}


def drill(*folders: Path, workers: int = 2) -> None:
    """Train these run directories, as `drill.py` does."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(workers), "--standalone"]
    command = [sys.executable, *launcher, str(ROOT / "tests/full/drill.py"), *map(str, folders)]
    subprocess.run(command, check=True, cwd=ROOT, env=ENVIRONMENT, timeout=SECONDS, capture_output=True)


@pytest.fixture(scope="module")
def runs(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each feed trained, and those that are not killed later trained with an interruption too, as `static, stopped`."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    for name, feed in FEEDS.items():
        for label in (name, *([] if name == KILLED else [f"{name}, stopped"])):
            found[label] = shutil.copytree(searched, root / label)
            locked(found[label], feed=feed)
            if label != name:
                (found[label] / "abort").write_text(str(STOPPED))
    drill(*found.values())
    return found


def locked(folder: Path, **changes: Any) -> None:
    """What `mixopt train` does before it launches workers."""
    course = prepare(folder, full(**changes))
    course.folder.mkdir(exist_ok=True)
    (course.folder / LOCK).write_text(course.lock())


@pytest.mark.parametrize("feed", sorted({*FEEDS} - {KILLED}))
def test_a_run_that_was_stopped_is_the_undisturbed_one(runs: dict[str, Path], feed: str) -> None:
    stopped = runs[f"{feed}, stopped"]
    assert told(stopped) == told(runs[feed])  # every loss and proportion, to the last bit
    assert record(stopped) == record(runs[feed])
    starts = [e["step"] for e in read(stopped / "full" / "events.jsonl") if e["kind"] == "start"]
    assert starts == [0, 4]


def test_it_learns_and_says_so(runs: dict[str, Path]) -> None:
    events = read(runs["static"] / "full" / "events.jsonl")
    steps = [event for event in events if event["kind"] == "step"]
    assert len(steps) == 16
    assert steps[0]["loss"] == pytest.approx(np.log(257), abs=0.3)
    assert steps[-1]["loss"] < 2.6
    for event in steps:
        rows = {name: event["proportions"][name] for name in event["domains"]}
        mean = sum(rows[name] * loss for name, loss in event["domains"].items())
        assert event["loss"] == pytest.approx(mean, rel=0.02)  # shares of a step miss those intended by less than a row
        assert 0 <= event["data_share"] < 1
    assert [e["path"] for e in events if e["kind"] == "checkpoint"] == [f"checkpoints/step{n}" for n in (4, 8, 12, 16)]
    assert sorted(p.name for p in (runs["static"] / "full" / "checkpoints").glob("step*")) == ["step12", "step16"]
    assert events[0]["world_size"] == 2
    assert events[-1] == {"kind": "end", "step": 16, "tokens": 8192}


def test_transformers_reads_the_weights(runs: dict[str, Path], tmp_path: Path) -> None:
    """A Llama of another implementation finds the held-out losses that the engine measured last."""
    transformers = pytest.importorskip("transformers")
    arguments = ["weights", str(runs["static"]), "--out", str(tmp_path / "hf"), "--shard", "2_000_000", "--json"]
    command = [sys.executable, "-m", "pipelines", *arguments]
    found = subprocess.run(command, check=True, cwd=ROOT, env=ENVIRONMENT, timeout=SECONDS, capture_output=True)
    files = {Path(file).name for file in json.loads(found.stdout.splitlines()[-1])["files"]}
    assert {"model-00001-of-00003.safetensors", "model.safetensors.index.json", "config.json"} <= files
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "hf")
    course = load(runs["static"])
    for name in course.names:
        rows = torch.from_numpy(course.store.held_out(name, course.full.valid_tokens).astype(np.int64))
        with torch.no_grad():
            logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        assert float(loss) == pytest.approx(record(runs["static"])["metrics"][f"loss/{name}"], abs=1e-5)


def test_proportions_change_where_they_shall(runs: dict[str, Path]) -> None:
    def trace(feed: str) -> list[list[Any]]:
        return record(runs[feed])["trace"]

    assert len(trace("static")) == 1
    assert trace("schedule") == [
        [0, {"code": 0.7, "law": 0.1, "web": 0.2}],
        [4096, {"code": 0.2, "law": 0.3, "web": 0.5}],
    ]
    probes = [max(mixture.values()) for _, mixture in trace("aioli")]
    assert probes.count(0.75) == 6  # one for each domain in each of two rounds
    assert record(runs["aioli"])["state"]["round"]["done"] == 2


def test_one_worker_agrees_with_two_and_takes_over_from_them(runs: dict[str, Path], tmp_path: Path) -> None:
    alone, heir = (shutil.copytree(runs["static"], tmp_path / name) for name in ("alone", "heir"))
    shutil.rmtree(alone / "full")
    locked(alone, launch={"workers": 1, "device": "cpu"}, micro_batch_tokens=128)  # also in other parts
    (heir / "full" / "record.json").unlink()
    shutil.rmtree(heir / "full" / "checkpoints" / "step16")
    locked(heir, launch={"workers": 1, "device": "cpu"})
    drill(alone, heir, workers=1)
    for folder in (alone, heir):
        ours, theirs = told(folder), told(runs["static"])
        assert len(ours) == len(theirs)
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.get("drawn") == other.get("drawn")
            assert mine.get("loss", 0) == pytest.approx(other.get("loss", 0), abs=2e-5)
            assert mine.get("metrics", {}) == pytest.approx(other.get("metrics", {}), abs=2e-5)
    assert told(heir)[: 3 * 5] == told(runs["static"])[: 3 * 5]  # up to the checkpoint it began with


def test_damaged_checkpoints_are_set_aside(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(runs["static"] / "full" / "checkpoints", tmp_path / "checkpoints")
    largest = max((folder / "step16" / "model_and_optim").iterdir(), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)
    assert sound(folder / "step12")
    set_damaged_aside(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["step12", "step16.damaged"]
    set_damaged_aside(tmp_path / "nowhere")


@pytest.fixture
def command(run_dir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `mixopt train` in a process of its own, and ends what is left of it."""
    config, started = run_dir / "full.yaml", []
    config.write_text(dump_yaml(FULL | {"feed": FEEDS[KILLED]}))

    def start(*settings: str) -> subprocess.Popen[str]:
        overrides = [part for setting in settings for part in ("--set", setting)]
        line = [sys.executable, "-m", "pipelines", "train", str(run_dir), "--config", str(config), *overrides]
        process = subprocess.Popen(
            line, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(path: Path, part: str, process: subprocess.Popen[str]) -> None:
    """Until the file holds this. Fails if the process ends before."""
    end = time.monotonic() + SECONDS
    while not path.exists() or part not in path.read_text():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


def workers_of(run_dir: Path) -> list[int]:
    """Processes that train this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if (
            b"pipelines.full.worker" in words
            and str(run_dir).encode() in words
            and b"torch.distributed.run" not in words
        ):
            found.append(int(path.parent.name))
    return sorted(found)


@pytest.mark.slow
def test_killed_workers_and_drivers(
    runs: dict[str, Path], run_dir: Path, command: Callable[..., subprocess.Popen[str]]
) -> None:
    events = run_dir / "full" / "events.jsonl"
    driver = command()
    wait_for(events, '"checkpoint", "step": 4', driver)
    os.kill(workers_of(run_dir)[-1], signal.SIGKILL)  # all are started again
    wait_for(events, '"checkpoint", "step": 8', driver)
    assert '"resumed": true' in events.read_text()
    driver.kill()
    driver.communicate()
    assert not (run_dir / "full" / "record.json").exists()
    end = time.monotonic() + 10
    while workers_of(run_dir):
        assert time.monotonic() < end, "workers live on without their driver"
        time.sleep(0.1)
    last = command("launch.restarts=0")
    said, _ = last.communicate(timeout=SECONDS)
    assert last.returncode == 0, said
    assert "Held-out bits per byte" in said
    assert told(run_dir) == told(runs[KILLED])
    assert record(run_dir) == record(runs[KILLED])


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_ray(runs: dict[str, Path], run_dir: Path, command: Callable[..., subprocess.Popen[str]]) -> None:
    pytest.importorskip("ray")
    driver = command("launch.by=ray")
    said, _ = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0, said
    assert told(run_dir) == told(runs[KILLED])
