"""A run directory that a search wrote, and full runs of it small enough for seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixopt.full import Full, parse
from mixopt.job import load
from mixopt.progress import Silent
from pipelines import search
from pipelines.full.course import Course, Searched, resolve

JOB = """
name: planned
store: {store}
data:
  domains:
    code: {{path: "{texts}/code/*.txt"}}
    law: {{path: "{texts}/law/*.txt"}}
    web: {{path: "{texts}/web/*.txt"}}
  tokenizer: bytes
  validation: {{fraction: 0.2}}
target: {{tokens: 65_536, max_epochs: 4, sequence: 64}}
proxies: {{size: 10k, tokens: 10_000}}
method: {{name: schedule, phases: [[0.0, {{code: 0.7, law: 0.1, web: 0.2}}], [0.5, {{code: 0.2, law: 0.3, web: 0.5}}]]}}
compute: {{workers: 0}}
tracking: none
validate: {{seeds: 0}}
"""
FULL = {
    "model": "1m",
    "batch_tokens": 512,
    "tokens": 8192,
    "learning_rate": 0.005,
    "valid_every": 2048,
    "valid_tokens": 256,
    "checkpoint": {"every": 2048, "keep": 2},
    "launch": {"workers": 2, "device": "cpu", "by": "torchrun"},
}
AIOLI = {"policy": "aioli", "rounds": 2, "sweeps": 1, "probe_share": 0.5}


@pytest.fixture(scope="session")
def searched(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a search whose answer is a schedule; nobody may write in it."""
    root = tmp_path_factory.mktemp("searched")
    job = root / "job.yaml"
    job.write_text(JOB.format(store=root / "store", texts=texts))
    search.run(load(job), root, root / "run", Silent())
    return root / "run"


@pytest.fixture
def run_dir(searched: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(searched, tmp_path / "run")


@pytest.fixture
def course(run_dir: Path) -> Callable[..., Course]:
    """A full run of `run_dir`, with other values for some keys."""

    def make(**changes: Any) -> Course:
        return resolve(Searched.load(run_dir), full(**changes))

    return make


def full(**changes: Any) -> Full:
    """The small configuration, with other values for some keys; None leaves a key out."""
    body = FULL | changes
    return parse({key: value for key, value in body.items() if value is not None}, "full.yaml")
