"""Scale laws on a generated ladder whose truth is none of theirs, and on the published runs of Data Mixing Laws.

The questions are those of `benchmarks/scale_laws.py`; figures are our own, docs/log.md. The published CSV files are read
from where they lie, never committed: the folder `mixinglaws` under MIXOPT_SWARMS or under `shared/swarms` beside the
checkout. They hold sizes of 70M, 160M and 410M; its nested law needs three sizes to predict a fourth.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mixopt.errors import SwarmError
from mixopt.scale_laws import make
from mixopt.scale_laws.nested import Nested

SWARMS = Path(os.environ.get("MIXOPT_SWARMS", Path(__file__).parents[3] / "shared" / "swarms")) / "mixinglaws"
published = pytest.mark.skipif(
    not SWARMS.is_dir(), reason=f"Data Mixing Laws' CSV files are not in {SWARMS}; set MIXOPT_SWARMS"
)


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "scale_laws.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_scale_laws", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_joint_laws_are_twice_as_good_as_nested_mixing_laws(benchmark: ModuleType) -> None:
    """Three sizes predict a fourth on mixtures that none has seen: 0.028 against 0.055 nats over three ladders."""
    pairs = [
        (
            benchmark.trained(5, 16, benchmark.SIZES, benchmark.TOKENS, seed),
            benchmark.trained(5, 100, (benchmark.NEXT,), benchmark.TOKENS[-1:], 50 + seed),
        )
        for seed in range(3)
    ]
    laws = {
        "additive": make("additive"),
        "multiplicative": make("multiplicative"),
        "nested": make("nested"),
        "nested, effdata": Nested(mixture="effdata"),
    }
    found = {name: np.mean([benchmark.judge(law, *pair) for pair in pairs], axis=0) for name, law in laws.items()}
    for name in ("additive", "multiplicative"):
        assert found[name][0] < 0.6 * found["nested"][0]
        assert found[name][0] == pytest.approx(0.0285, abs=0.004)
        assert found[name][1] >= 0.9
    assert found["nested, effdata"][0] < 1.2 * found["additive"][0]


def test_the_small_size_is_worth_several_large_runs(benchmark: ModuleType) -> None:
    rows = {(row.question, row.law): row for row in benchmark.steps_up(3)}
    for few, mae in ((4, 0.027), (8, 0.021), (16, 0.019)):
        moved = rows[f"{few} large runs", "transfer"]
        assert moved.mae == pytest.approx(mae, abs=0.003)
        assert moved.mae < 0.9 * rows[f"{few} large runs", "affine map"].mae
        assert moved.covered >= 0.88
    assert rows["8 large runs", "transfer"].mae < 0.85 * rows["8 large runs", "large runs alone"].mae


@published
def test_two_small_sizes_predict_a_third_on_mixtures_that_they_have_not_seen(benchmark: ModuleType) -> None:
    """Six mixtures at 70M and 160M, 27 others at 410M; the three losses have standard deviations of 0.11, 0.56, 0.10 nats."""
    ladder = benchmark.read(SWARMS / "3Mix.csv")
    ((train, test),) = dict(benchmark.questions(ladder))["next size"]
    assert len(np.unique(ladder.mixture_R[train])) == 6
    assert test.sum() == 27
    error, covered, _ = benchmark.judge(make("multiplicative"), ladder.take(train), ladder.take(test))
    assert error == pytest.approx(0.050, abs=0.008)
    assert covered >= 0.8
    with pytest.raises(SwarmError, match="0 mixtures can be followed"):
        benchmark.judge(make("nested"), ladder.take(train), ladder.take(test))


@published
def test_joint_laws_go_further_in_tokens_than_the_nested_law(benchmark: ModuleType) -> None:
    """15 billion tokens of 70M and 160M models predict 31: 0.024 nats against 0.033."""
    ladder = benchmark.read(SWARMS / "2Mix.csv")
    ((train, test),) = dict(benchmark.questions(ladder))["longer"]
    errors = {
        name: benchmark.judge(make(name), ladder.take(train), ladder.take(test))[0]
        for name in ("multiplicative", "shukor", "nested")
    }
    assert errors["multiplicative"] == pytest.approx(0.024, abs=0.004)
    assert errors["shukor"] < errors["multiplicative"] < 0.85 * errors["nested"]
