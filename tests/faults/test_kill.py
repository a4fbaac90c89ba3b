"""SIGKILL at random moments, for real: the same answer, bit for bit, and no finished proxy trained again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

KILLS = 10
WORDS = 400


def write_domains(root: Path) -> None:
    """Three domains of generated text: each repeats its own phrases."""
    for i, name in enumerate(("alpha", "beta", "gamma")):
        rng = np.random.default_rng(i)
        words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(20)]
        texts = [" ".join(rng.choice(words, WORDS)) for _ in range(60)]
        lines = [json.dumps({"text": text}) for text in texts]
        (root / f"{name}.jsonl").write_text("\n".join(lines) + "\n")


def write_job(root: Path, store: Path, executor: str) -> Path:
    job = root / f"{store.name}.yaml"
    job.write_text(f"""
name: kill
store: {store}
data:
  domains:
    alpha: {{path: {root}/alpha.jsonl}}
    beta: {{path: {root}/beta.jsonl}}
    gamma: {{path: {root}/gamma.jsonl}}
  tokenizer: bytes
target: {{tokens: 200_000, max_epochs: 8}}
proxies: {{size: 10k, tokens: 40_000, count: 20}}
method: {{name: olmix}}
compute: {{executor: {executor}, workers: 2}}
tracking: none
""")
    return job


def start(job: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipelines", "search", str(job), "--out", str(out), "--json"]
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process: subprocess.Popen[str]) -> dict:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])


def answer(found: dict) -> dict:
    return {key: found[key] for key in ("recommendation", "predicted", "validated")}


def records(store: Path) -> dict[str, tuple[int, int]]:
    """Every finished run: writing it again would change its inode and its time."""
    return {p.stem: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (store / "runs").rglob("[0-9a-f]*.json")}


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kill")
    write_domains(root)
    return root


@pytest.fixture(scope="module")
def undisturbed(corpus_root: Path) -> dict:
    store = corpus_root / "undisturbed"
    return finish(start(write_job(corpus_root, store, "local"), corpus_root / "out-undisturbed"))


def test_killed_driver(corpus_root: Path, undisturbed: dict) -> None:
    """Kill the whole search ten times, each time a little later in its life."""
    store = corpus_root / "driver"
    job, out = write_job(corpus_root, store, "local"), corpus_root / "out-driver"
    rng, finished, kills = random.Random(0), {}, 0
    for _ in range(KILLS):
        process = start(job, out)
        wait_for(process, store, len(finished))
        time.sleep(rng.uniform(0, 0.5))
        if process.poll() is None:
            kills += 1
        process.kill()
        process.communicate()
        now = records(store)
        assert finished.items() <= now.items(), "a finished proxy was trained again"
        finished = now
        assert not (out / "results.json").exists() or process.returncode == 0
    last = finish(start(job, out))
    assert finished.items() <= records(store).items()
    assert answer(last) == answer(undisturbed)
    assert last["proxies_trained"] + last["proxies_reused"] == 20 + 12
    assert kills >= KILLS // 2, "the search was over too soon to be killed"


@pytest.mark.ray
def test_killed_ray_workers(corpus_root: Path, undisturbed: dict) -> None:
    """Kill Ray workers ten times while they train; where a search is over before the tenth, in another one."""
    rng, kills, searches = random.Random(1), 0, 0
    while kills < KILLS:
        searches += 1
        made = search_under_fire(corpus_root, f"workers-{searches}", undisturbed, rng, KILLS - kills)
        assert made > 0, "the search was over too soon to be killed"
        kills += made


def search_under_fire(root: Path, name: str, undisturbed: dict, rng: random.Random, most: int) -> int:
    """How many workers of one search were killed before it ended with the undisturbed answer."""
    store = root / name
    process = start(write_job(root, store, "ray"), root / f"out-{name}")
    kills, seen = 0, {}
    while kills < most and process.poll() is None:
        time.sleep(rng.uniform(0.05, 0.4))
        workers = [p for p in psutil.Process(process.pid).children(recursive=True) if "_train_chunk" in title(p)]
        if workers and len(records(store)) < 28:
            for run, identity in records(store).items():
                assert seen.setdefault(run, identity) == identity, "a finished proxy was trained again"
            os.kill(rng.choice(workers).pid, signal.SIGKILL)
            kills += 1
            wait_for(process, store, len(records(store)))  # five losses of one run would end the search
    found = finish(process)
    assert seen.items() <= records(store).items()
    assert answer(found) == answer(undisturbed)
    assert found["proxies_trained"] == 20 + 12
    return kills


def title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def wait_for(process: subprocess.Popen[str], store: Path, runs: int, seconds: float = 120) -> None:
    """Until more runs than these are finished, or the search is over."""
    deadline = time.monotonic() + seconds
    while len(records(store)) <= runs and process.poll() is None:
        assert time.monotonic() < deadline, "nothing happened for two minutes"
        time.sleep(0.05)
