"""Learning curves with known answers, and what is said where more runs do not help."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mixopt import planner
from mixopt.errors import SwarmError
from mixopt.laws.linear import Linear

Run = Callable[..., tuple[int, dict, str]]
NOISE = 0.02


def pilot(runs: int, rng: np.random.Generator, noise: float = NOISE) -> tuple[np.ndarray, np.ndarray]:
    """A linear truth over 5 domains: the law's error is the noise, and what runs are too few to tell."""
    X_RD = rng.dirichlet(np.ones(5), runs)
    return X_RD, X_RD @ np.array([[1.0, 2.0, 1.5, 3.0, 0.5]]).T + noise * rng.standard_normal((runs, 1))


def measured(runs: int, seed: int = 0, gain: bool = False) -> tuple[planner.LearningCurve, planner.Forecast]:
    rng = np.random.default_rng(seed)
    curve = planner.learning_curve(Linear(ridge=1e-6), *pilot(runs, rng), np.ones(1), rng, gain)
    return curve, planner.forecast(curve, rng)


def test_the_curve_of_a_linear_law_is_known() -> None:
    """For D = 5 coefficients the squared error of a new run is about noise^2 (1 + 5 / n)."""
    curve, found = measured(80)
    expected = NOISE**2 * (1 + 5 / curve.size_K)
    np.testing.assert_allclose(curve.outside_K, expected, rtol=0.5)
    assert curve.outside_K[0] > curve.outside_K[-1]
    assert curve.noise is None
    for runs in (80, 320, 10_000):
        middle, low, high = found.half_width(runs)
        truth = 1.645 * NOISE * np.sqrt(1 + 5 / runs)
        assert low < truth < high
        assert middle == pytest.approx(truth, rel=0.25)


def test_intervals_of_forecasts_cover_the_truth() -> None:
    covered = []
    for seed in range(20):
        _, low, high = measured(48, seed)[1].half_width(480)
        covered.append(low < 1.645 * NOISE * np.sqrt(1 + 5 / 480) < high)
    assert np.mean(covered) >= 0.8


def test_more_runs_never_widen_and_what_is_needed_agrees() -> None:
    _, found = measured(60)
    halves = [found.half_width(runs)[0] for runs in (60, 120, 480, 10**6)]
    assert halves == sorted(halves, reverse=True)
    assert halves[-1] >= found.floor()[0]
    middle, low, high = found.needed(found.half_width(200)[0])
    assert low <= middle <= high
    assert middle > 60
    assert found.half_width(60)[1] <= halves[0] <= found.half_width(60)[2]


def test_a_gain_has_the_noise_of_two_runs() -> None:
    one, two = measured(80)[1].floor()[0], measured(80, gain=True)[1].floor()[0]
    assert two / one == pytest.approx(np.sqrt(2), rel=0.2)


def test_replicates_tell_the_noise_and_stay_on_one_side() -> None:
    rng = np.random.default_rng(0)
    X_RD, _ = pilot(20, rng)
    X_RD = np.repeat(X_RD, 4, axis=0)
    Y_RM = X_RD @ np.ones((5, 1)) + NOISE * rng.standard_normal((80, 1))
    curve = planner.learning_curve(Linear(), X_RD, Y_RM, np.ones(1), rng)
    assert curve.noise == pytest.approx(NOISE, rel=0.2)
    outside_KBR = ~np.isnan(curve.square_KBR)
    groups = outside_KBR.reshape(*outside_KBR.shape[:2], 20, 4).sum(axis=3)
    assert set(np.unique(groups)) == {0, 4}
    found = planner.forecast(curve, rng)
    assert found.floor()[1] >= planner.NORMAL * curve.noise * 0.8
    said = planner.verdict(curve, found, NOISE / 2)
    assert said.startswith("Not reachable by more proxies: replicates differ so much")
    assert found.needed(NOISE / 2)[0] == np.inf


def test_verdicts() -> None:
    curve, found = measured(60)
    assert "Probably not reachable" in planner.verdict(curve, found, NOISE / 10)
    assert "60 runs are enough" in planner.verdict(curve, found, 1.0)
    now, floor = found.half_width(60)[0], found.floor()[0]
    said = planner.verdict(curve, found, (now + floor) / 2)
    assert said.startswith("About ")
    assert "times the pilot's tokens" in said


def test_too_small_a_pilot_is_refused() -> None:
    with pytest.raises(SwarmError, match=r"6 good runs are too few for a learning curve.*Make a pilot of at least"):
        measured(6)


def test_errors_of_zero_say_nothing() -> None:
    rng = np.random.default_rng(0)
    X_RD, _ = pilot(40, rng)
    curve = planner.learning_curve(Linear(ridge=0.0), X_RD, np.zeros((40, 1)), np.ones(1), rng)
    with pytest.raises(SwarmError, match="errors are zero"):
        planner.forecast(curve, rng)


def write(folder: Path, X_RD: np.ndarray, Y_RM: np.ndarray) -> tuple[object, ...]:
    runs = pd.Index([f"r{i}" for i in range(len(X_RD))], name="run")
    names = [f"d{i}" for i in range(X_RD.shape[1])]
    pd.DataFrame(X_RD, columns=names, index=runs).to_csv(folder / "ratios.csv")
    pd.DataFrame(Y_RM, columns=["bpb/d0"], index=runs).to_csv(folder / "metrics.csv")
    return ("--ratios", folder / "ratios.csv", "--metrics", folder / "metrics.csv")


def test_the_command(mixopt: Run, tmp_path: Path) -> None:
    swarm = write(tmp_path, *pilot(48, np.random.default_rng(0)))
    code, found, seen = mixopt("plan", *swarm, "--target", "mean", "--law", "linear", "--interval", 0.034)
    assert code == 0
    assert set(found) == {
        *("law", "runs", "of", "wanted", "needed", "half_width"),
        *("floor", "noise", "measured", "verdict", "notes"),
    }
    assert set(found["needed"]) == {"runs", "low", "high", "times_pilot"}
    assert (found["law"], found["runs"], found["of"], found["noise"]) == ("linear", 48, "objective", None)
    assert [row["runs"] for row in found["half_width"]] == [48, 96, 192, 384]
    for row in (*found["half_width"], found["floor"]):
        assert row["low"] <= row["middle"] <= row["high"]
    assert found["verdict"] in seen.replace("\n", " ")
    assert mixopt("plan", *swarm, "--law", "linear", "--interval", 0.034)[1] == found
    code, gain, _ = mixopt("plan", *swarm, "--law", "linear", "--interval", 0.0001, "--gain")
    assert (gain["of"], gain["needed"]["runs"], gain["needed"]["times_pilot"]) == ("gain", None, None)
    json.dumps(gain, allow_nan=False)


def test_the_command_refuses_what_makes_no_sense(mixopt: Run, tmp_path: Path) -> None:
    swarm = write(tmp_path, *pilot(48, np.random.default_rng(0)))
    code, found, _ = mixopt("plan", *swarm, "--interval", 0)
    assert (code, found["exit_code"]) == (2, 2)
    assert "--interval: must be a positive half-width" in found["error"]
    swarm = write(tmp_path, *pilot(9, np.random.default_rng(0)))
    code, found, _ = mixopt("plan", *swarm, "--interval", 0.1)
    assert code == 3 or code == 2
    assert "too few for a learning curve" in found["error"]
