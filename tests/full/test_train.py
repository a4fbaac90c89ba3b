"""The command, as far as it trains nothing: dry runs, runs that somebody else starts, finished runs, exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mixopt.yaml_text import dump_yaml
from pipelines.full.course import LOCK, RECORD, load
from pipelines.full.worker import FAILURE

from .conftest import FULL

Run = Callable[..., tuple[int, dict, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The small configuration as a file."""
    path = tmp_path / "full.yaml"
    path.write_text(dump_yaml(FULL))
    return path


def test_a_dry_run_says_everything_and_locks_nothing(mixopt: Run, run_dir: Path, config: Path) -> None:
    code, found, seen = mixopt("train", run_dir, "--config", config, "--dry-run", "--set", "seed=3")
    assert code == 0
    assert (found["steps"], found["tokens"], found["configuration"]["seed"]) == (16, 8192, 3)
    assert found["flops"] == pytest.approx(8192 * 6 * 1e6, rel=0.1)
    assert found["command"].endswith(f"-m pipelines.full.worker {run_dir}")
    assert "# rows of 64 tokens: target.sequence of the search" in seen
    assert "1,055,360 parameters, 16 steps" in seen
    assert not (run_dir / "full" / LOCK).exists()


def test_a_run_that_others_start_is_locked(mixopt: Run, run_dir: Path, config: Path) -> None:
    (run_dir / "full").mkdir()
    (run_dir / "full" / FAILURE).write_text('{"error": "of the last start"}')
    code, found, _ = mixopt("train", run_dir, "--config", config, "--set", "launch.by=external")
    assert code == 0
    assert found["command"].startswith("TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes MACHINES")
    assert load(run_dir).steps == 16
    assert not (run_dir / "full" / FAILURE).exists()


def test_a_finished_run_stays_as_it_is(mixopt: Run, run_dir: Path, config: Path) -> None:
    mixopt("train", run_dir, "--config", config, "--set", "launch.by=external")
    record = {"model": "1m", "tokens": 8192, "seconds": 3.0, "metrics": {"bpb/web": 1.5, "loss/web": 2.0}}
    (run_dir / "full" / RECORD).write_text(json.dumps(record))
    code, found, seen = mixopt("train", run_dir, "--config", config)
    assert (code, found) == (0, record)
    assert "Held-out bits per byte: web 1.5000." in seen
    code, found, _ = mixopt("train", run_dir, "--config", config, "--set", "learning_rate=0.1")
    assert code == 2
    assert "learning_rate was 0.005, is 0.1" in found["error"]


@pytest.mark.parametrize(
    ("setting", "part"),
    [
        ("feed=grape", "grape needs gradients of every domain"),
        ("launch.workers=3", "3 workers cannot share evenly"),
        ("batch_token=1", "batch_token: no such key; did you mean 'batch_tokens'?"),
    ],
)
def test_bad_input(mixopt: Run, run_dir: Path, config: Path, setting: str, part: str) -> None:
    code, found, _ = mixopt("train", run_dir, "--config", config, "--set", setting)
    assert code == 2
    assert part in found["error"]
    assert not (run_dir / "full" / LOCK).exists()
