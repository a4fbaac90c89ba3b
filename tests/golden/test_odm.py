"""ODM's bandit with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mixopt.policies.odm import ODM, exploration, proportions
from mixopt.policy import Feedback


def test_exploration_falls_with_the_root_of_the_turns() -> None:
    """K = 2: sqrt(ln 2 / 2) = .588705 is capped at 1/2; sqrt(ln 2 / 200) = .058871."""
    assert exploration(2, 1) == 0.5
    assert exploration(2, 100) == pytest.approx(0.0588705, abs=1e-6)


def test_proportions_by_hand() -> None:
    """R = (60, 40), t = 101: eps_100 = .0588705, its logit 1.17741, softmax .764483; eps_101 = .0585784."""
    pi_K = proportions(np.array([60.0, 40.0]), 101)
    assert pi_K == pytest.approx([0.733493, 0.266507], abs=1e-5)
    share = 1 / (1 + math.exp(-20 * math.sqrt(math.log(2) / 200)))
    assert pi_K[0] == pytest.approx((1 - 2 * exploration(2, 101)) * share + exploration(2, 101))


def test_rewards_are_counted_in_steps_and_need_a_draw() -> None:
    """A round of 25 steps with losses (4, not drawn): R = (25 * .4, 0)."""
    policy = ODM(rounds=4)
    state = policy.init(("a", "b"), Feedback(0, 800, {}, step=8))
    assert policy.segment(state).tokens == 200
    state = policy.update(state, Feedback(200, 800, {"train": np.array([4.0, np.nan])}, step=8))
    assert state.rewards == pytest.approx((10.0, 0.0))
    assert state.now.array(("a", "b")) == pytest.approx(proportions(np.array([10.0, 0.0]), 26))


def test_a_long_run_stays_finite() -> None:
    assert proportions(np.array([1e7, 0.0]), 1e6) == pytest.approx([1, 0], abs=1e-3)
