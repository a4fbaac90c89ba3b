"""R&B's balance step for three domains.

Source of the numbers: computed from the rule of the paper (arXiv:2505.00358) with lambda = 1.
"""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.mixture import Mixture
from mixopt.policies.rnb import Balance, State
from mixopt.policies.rounds import Round
from mixopt.policy import Feedback

NAMES = ("a", "b", "c")
GRAM = np.array([[2.0, 1, 0], [1, 1, 0], [0, 0, 0.5]])
BALANCED = np.array([0.441898, 0.335747, 0.222355])


@pytest.mark.parametrize("before", [(1 / 3, 1 / 3, 1 / 3), (0.8, 0.1, 0.1), (0.0, 0.0, 1.0)])
def test_one_step_whatever_was_before(before: tuple[float, ...]) -> None:
    policy = Balance(rounds=2)
    state = State(NAMES, Round(2, 100), Mixture.from_array(NAMES, np.array(before)))
    after = policy.update(state, Feedback(50, 100, {"gram": GRAM}))
    assert after.p.array(NAMES) == pytest.approx(BALANCED, abs=1e-6)
    assert policy.matrix(after) == pytest.approx(GRAM)


def test_the_floor_is_shared_evenly() -> None:
    policy = Balance(rounds=2, floor=0.3)
    after = policy.update(policy.init(NAMES, Feedback(0, 100, {})), Feedback(50, 100, {"gram": GRAM}))
    assert after.p.array(NAMES) == pytest.approx(0.7 * BALANCED + 0.1, abs=1e-6)


def test_gradients_that_say_nothing_are_uniform() -> None:
    policy = Balance(rounds=2)
    after = policy.update(policy.init(NAMES, Feedback(0, 100, {})), Feedback(50, 100, {"gram": np.zeros((3, 3))}))
    assert after.p.array(NAMES) == pytest.approx(np.full(3, 1 / 3))
