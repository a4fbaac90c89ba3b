"""DynamixSFT's proportions and rewards with numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.policies.dynamixsft import DynamixSFT, proportions, rewards
from mixopt.policy import Feedback


def test_proportions() -> None:
    """Q = (.9, .4, 0), p0 = (.7, .2, .1), beta = 4, gamma = .3."""
    p_K = proportions(np.array([0.9, 0.4, 0.0]), np.array([0.7, 0.2, 0.1]), 4.0, 0.3)
    assert p_K == pytest.approx([0.771417, 0.125962, 0.102621], abs=1e-6)


def test_the_best_domain_may_have_no_prior() -> None:
    """Then all of 1 - gamma is the other one's, however sharp beta is."""
    p_K = proportions(np.array([0.0, 1.0]), np.array([1.0, 0.0]), 1000.0, 0.3)
    assert p_K == pytest.approx([0.85, 0.15])


def test_rewards_are_relative_and_between_zero_and_one() -> None:
    """Drops (.2, .1, .1) of losses (4, 4, 1) are 5, 2.5 and 10 percent."""
    assert rewards(np.array([4.0, 4.0, 1.0]), np.array([0.2, 0.1, 0.1])) == pytest.approx([1 / 3, 0, 1], abs=1e-6)
    assert rewards(np.ones(3), np.zeros(3)).tolist() == [0, 0, 0]


def test_values_remember() -> None:
    """Two equal rounds with memory .95: Q of the best is 1 - .95^2 of its reward, 1; only the diagonal counts."""
    policy = DynamixSFT(rounds=10)
    state = policy.init(("a", "b"), Feedback(0, 100, {"valid": np.ones(2)}))
    for k in (1, 2):
        signals = {"valid": np.array([2.0, 2.0]), "drops": np.array([[0.2, 9.0], [9.0, 0.1]])}
        state = policy.update(state, Feedback(10 * k, 100, signals))
    assert state.value == pytest.approx((1 - 0.95**2, 0.0))
    assert state.now["a"] == pytest.approx(0.7 / (1 + np.exp(-4 * (1 - 0.95**2))) + 0.15)
