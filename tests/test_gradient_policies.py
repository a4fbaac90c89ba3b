"""GRAPE by hand, and what all policies in rounds share: lengths of rounds, knobs, proportions that recover."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mixopt.errors import JobError
from mixopt.methods import make
from mixopt.mixture import Mixture
from mixopt.policies.doge import Alignment
from mixopt.policies.doremi import GroupDRO
from mixopt.policies.grape import Grape, State, inner
from mixopt.policies.rnb import Balance
from mixopt.policies.rounds import Round, exponentiated
from mixopt.policy import Feedback, Gram, OnlinePolicy, Valid

NAMES = ("a", "b")
START = Feedback(0, 100, {})


def shares(*gains: float) -> list[float]:
    e = np.exp(gains)
    return (e / e.sum()).tolist()


def hear(policy: Grape, state: State, gram_DD: list[list[float]], losses_D: list[float]) -> State:
    signals = {"gram": np.array(gram_DD), "valid": np.array(losses_D)}
    return policy.update(state, Feedback(state.round.seen + 25, 100, signals))


def test_grape_helps_targets_and_then_weighs_those_that_improve_least() -> None:
    """g_a = (.6, 0), g_b = (0, .8), L = (2, 1), z even: alpha's gains are <g_j, (.15, .4)> = (.09, .32).

    Then z's are -<g_i / L_i, alpha_a g_a + alpha_b g_b> = -(.18 alpha_a, .64 alpha_b), in the second round alone.
    """
    policy, gram_DD, losses_D = Grape(rounds=4, eta=2.0, eta_z=3.0, slow=2), [[0.36, 0], [0, 0.64]], [2.0, 1.0]
    first = hear(policy, policy.init(NAMES, START), gram_DD, losses_D)
    assert first.alpha.array(NAMES) == pytest.approx(shares(2 * 0.09, 2 * 0.32))
    assert first.z.array(NAMES) == pytest.approx([0.5, 0.5])
    second = hear(policy, first, gram_DD, losses_D)
    alpha_D = shares(4 * 0.09, 4 * 0.32)
    assert second.alpha.array(NAMES) == pytest.approx(alpha_D)
    assert second.z.array(NAMES) == pytest.approx(shares(-3 * 0.18 * alpha_D[0], -3 * 0.64 * alpha_D[1]))
    assert second.z["a"] > second.z["b"]
    assert policy.matrix(second) == pytest.approx(np.array(gram_DD))


def test_grape_shortens_every_vector_to_one() -> None:
    """(3, 4) counts as (.6, .8), and the mean of (3, 4) and (0, 2), which is (1.5, 3), as (1.5, 3) / sqrt(11.25)."""
    g = np.array([[3.0, 4.0], [0.0, 2.0]])
    mixed = np.array([1.5, 3.0]) / np.sqrt(11.25)
    found_D = inner(g @ g.T, np.ones(2), np.array([0.5, 0.5]))
    assert found_D == pytest.approx([[0.6, 0.8] @ mixed, [0.0, 1.0] @ mixed])


def test_grape_measures_a_part_of_the_held_out_text() -> None:
    assert Grape(rows=2, part=0.5).needs == {Gram(2), Valid(0.5)}


def test_proportions_recover_from_the_bottom() -> None:
    low = exponentiated(Mixture({"a": 0.5, "b": 0.5}), NAMES, np.array([0.0, -1e6]))
    assert 0 < low["b"] < 1e-11
    assert exponentiated(low, NAMES, np.array([0.0, 40.0]))["b"] > 0.9


def test_rounds_are_even_whatever_steps_the_trainer_takes() -> None:
    """Ten rounds of 1000 tokens in steps of 30: each ends within half a step of where it should."""
    now, ends = Round(10, 1000), []
    while now.done < 10:
        seen = min(1000, now.seen + 30 * max(1, round(now.tokens / 30)))
        now = now.after(Feedback(seen, 1000, {}, 30))
        ends.append(now.seen)
    assert np.abs(np.array(ends) - np.arange(100, 1001, 100)).max() <= 15


@pytest.mark.parametrize("policy", [GroupDRO("r"), Alignment(), Balance(), Grape()])
def test_rounds_shorter_than_a_step_are_refused(policy: OnlinePolicy[Any]) -> None:
    said = r"method\.rounds: 50 rounds do not fit into a run of 49 training steps \(490 tokens, 10 a step\)\."
    with pytest.raises(JobError, match=said):
        policy.init(NAMES, Feedback(0, 490, {}, 10))
    policy.init(NAMES, Feedback(0, 500, {}, 10))


@pytest.mark.parametrize("policy", [Alignment(target={"cod": 1.0}), Balance(target={"cod": 1.0})])
def test_targets_must_be_domains(policy: OnlinePolicy[Any]) -> None:
    with pytest.raises(JobError, match=r"method\.target: unknown domain 'cod'; did you mean 'code'"):
        policy.init(("code", "law"), START)


@pytest.mark.parametrize(
    ("name", "knob", "message"),
    [
        ("doge", {"rounds": 0}, r"method\.rounds: must be at least 1 \(got 0\)"),
        ("doge", {"eta": -1.0}, r"method\.eta: must be positive \(got -1\)"),
        ("doge", {"rows": 0}, r"method\.rows: must be at least 1 \(got 0\)"),
        ("doge", {"target": {}}, r"method\.target: weights must be >= 0 and not all zero \(got {}\)"),
        ("rnb", {"target": {"a": -1.0, "b": 2.0}}, r"method\.target: weights must be >= 0 .* \(got {'a': -1\.0"),
        ("rnb", {"strength": 0.0}, r"method\.strength: must be positive \(got 0\)"),
        ("rnb", {"floor": 1.0}, r"method\.floor: must be in \[0, 1\) \(got 1\)"),
        ("grape", {"eta": 0.0}, r"method\.eta: must be positive \(got 0\)"),
        ("grape", {"eta_z": float("nan")}, r"method\.eta_z: must be positive \(got nan\)"),
        ("grape", {"slow": 0}, r"method\.slow: must be at least 1 \(got 0\)"),
        ("grape", {"part": 0.0}, r"method\.part: must be in \(0, 1\] \(got 0\)"),
    ],
)
def test_knobs(name: str, knob: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        make(name, knob)
