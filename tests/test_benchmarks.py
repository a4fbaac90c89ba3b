"""The benchmarks of the proxies run, in tiny sizes; what they measure there means nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
INSTALLED = "datasets lightgbm matplotlib mlflow pandas pydantic ray rich safetensors scipy sklearn tokenizers typer"
BARE = """
import runpy, sys

absent = set(sys.argv.pop(1).split())

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in absent else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def benchmark(*arguments: str, absent: str = "") -> tuple[list[dict], str]:
    """Rows and standard error of a run in which these packages cannot be imported."""
    script = str(ROOT / "benchmarks" / "proxy_throughput.py")
    command = [sys.executable, "-c", BARE.replace("sys.argv[0]", repr(script)), absent, *arguments, "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])["rows"], ended.stderr


def check(rows: list[dict]) -> None:
    assert len({row["what"] for row in rows}) == len(rows)
    for row in rows:
        assert set(row) == {"what", "value", "peer", "ratio", "reach", "ok", "note"}
        assert math.isfinite(row["value"]) and row["value"] > 0
        if row["peer"] is not None:
            assert row["ratio"] == pytest.approx(row["value"] / row["peer"])
        assert (row["reach"] is None) == (row["ok"] is None)


def test_gpu_part_with_torch_and_numpy_alone() -> None:
    rows, said = benchmark("--smoke", "--only", "alone", "peak", "ladder", absent=INSTALLED)
    check(rows)
    assert sum(row["reach"] is not None for row in rows) == 3
    assert len(rows) == 5
    lines = said.splitlines()
    assert lines[-1].split()[0] == f"{len(lines)}/{len(lines)}"


@pytest.mark.slow
def test_smoke() -> None:
    rows, _ = benchmark("--device", "cpu", "--smoke")
    check(rows)
    assert len(rows) == 9
    stack = next(row for row in rows if "stack of 2 against alone" in row["what"])
    assert stack["ok"]


def test_laws_on_a_generated_swarm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(3), 40)
    Y_RM = 2 + (X_RD[:, :2] + 0.05) ** -0.3 + 0.01 * rng.normal(size=(40, 2))
    for name, columns, table in (("ratios", "abc", X_RD), ("metrics", "ab", Y_RM)):
        rows = [f"{r}," + ",".join(repr(float(cell)) for cell in table[r]) for r in range(40)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"run,{','.join(columns)}", *rows]) + "\n")
    command = [sys.executable, str(ROOT / "benchmarks" / "laws.py"), "--laws", "effdata,linear", "--quick", "--json"]
    files = [str(tmp_path / f"{name}.csv") for name in ("ratios", "metrics")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [*command, "--swarm", *files], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["rows"]
    check(rows)
    errors = {row["what"]: row["value"] for row in rows}
    assert errors["effdata, 30 runs: error"] < 0.5 * errors["linear, 30 runs: error"]


def test_policies_that_hear() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "policies.py"), "--smoke", "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["rows"]
    check(rows)
    assert [row["reach"] for row in rows] == [0.98, None, None, None]
    assert rows[-1]["value"] == pytest.approx(8 * 32 * 64 * 4 / 1e6)


@pytest.mark.slow
def test_full_training_against_plain_loops() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "full_train.py"), "--tiny", "--json"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(ended.stdout.splitlines()[-1])["rows"]
    check(rows)
    assert [row["what"].rpartition(" ")[2] for row in rows] == ["fsdp2", "nanogpt", "rows"] * 2
    assert all(row["ok"] is None for row in rows)  # nothing is asked of a CPU
