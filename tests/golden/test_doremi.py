"""Group DRO's first two steps, and both clippings.

Source of the numbers: computed from the update rule of DoReMi (arXiv:2305.10429) with eta = 1, c = 1e-3.
"""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.policies.doremi import GroupDRO, State, excess
from mixopt.policy import Feedback

NAMES = ("a", "b", "c")
DIFFERENCES = [np.array([0.5, 0.1]), np.array([-0.4, 0.2]), np.array([-0.3, -0.1])]
FIRST = [0.390636, 0.319887, 0.289477]
SECOND = [0.450450, 0.302113, 0.247437]


def step(policy: GroupDRO, state: State, *lambdas: float) -> State:
    feedback = Feedback(state.round.seen + 50, 100, {"excess": np.array(lambdas)})
    return policy.update(state, feedback)


def test_two_steps() -> None:
    policy = GroupDRO("reference", rounds=2)
    first = step(policy, policy.init(NAMES, Feedback(0, 100, {})), 0.3, 0.1, 0.0)
    second = step(policy, first, 0.3, 0.1, 0.0)
    assert first.alpha.array(NAMES) == pytest.approx(FIRST, abs=1e-6)
    assert second.alpha.array(NAMES) == pytest.approx(SECOND, abs=1e-6)
    assert policy.answer(second).array(NAMES) == pytest.approx((np.array(FIRST) + SECOND) / 2, abs=1e-6)


def test_clipping_tokens_and_clipping_domains_disagree() -> None:
    assert excess(DIFFERENCES) == pytest.approx([0.3, 0.1, 0.0])
    assert excess(DIFFERENCES, "domain") == pytest.approx([0.3, 0.0, 0.0])
    assert np.isnan(excess([np.array([])])).all()


def test_a_domain_that_was_not_drawn_keeps_its_lambda() -> None:
    policy = GroupDRO("reference", rounds=2)
    first = step(policy, policy.init(NAMES, Feedback(0, 100, {})), 0.3, 0.1, 0.0)
    second = step(policy, first, np.nan, 0.1, np.nan)
    assert second.alpha.array(NAMES) == pytest.approx(SECOND, abs=1e-6)
    assert policy.matrix(second) == pytest.approx(np.diag([0.3, 0.1, 0.0]))
