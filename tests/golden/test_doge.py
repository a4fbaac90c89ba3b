"""DoGE's scores and weights for three unit gradients.

Source of the numbers: computed from the rule of the code Olivia-fsm/DoGE with a learning rate of 5e-4 and mu = 0.01.
"""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.mixture import FloatArray
from mixopt.policies.doge import Alignment, scores
from mixopt.policy import Feedback

NAMES = ("a", "b", "c")
RATE, MU = 5e-4, 0.01
EVEN = np.full(3, 1 / 3)


def gram(*gradients: tuple[float, float]) -> FloatArray:
    return np.array(gradients) @ np.array(gradients).T


UNIT = gram((1, 0), (0.6, 0.8), (0.8, 0.6))
OPPOSED = gram((1, 0), (0.6, 0.8), (-1, 0))


def weights(gram_DD: FloatArray) -> FloatArray:
    policy = Alignment(rounds=1, eta=RATE / MU)
    state = policy.update(policy.init(NAMES, Feedback(0, 100, {})), Feedback(100, 100, {"gram": gram_DD}))
    assert policy.matrix(state) == pytest.approx(gram_DD)
    assert policy.answer(state) == state.alpha
    return state.alpha.array(NAMES)


def test_scores_and_weights() -> None:
    assert scores(UNIT, EVEN) == pytest.approx([1.4, 1.56, 1.76], abs=1e-5)
    assert weights(UNIT) == pytest.approx([0.330448, 0.333102, 0.336450], abs=1e-6)


def test_opposed_gradients_count_as_none() -> None:
    """Without the self term they add up to -0.4, 0 and -1.6."""
    assert scores(OPPOSED, EVEN).tolist() == [0, 0, 0]
    assert weights(OPPOSED) == pytest.approx(EVEN, abs=1e-12)


def test_the_paper_keeps_the_self_term_and_negative_scores() -> None:
    """<g_j, mean of all g>: g = (1, 0), (.6, .8), (-1, 0), whose mean is (.2, .266667)."""
    assert scores(OPPOSED, EVEN, "paper") == pytest.approx([0.2, 1 / 3, -0.2])


def test_long_gradients_are_shortened_before_anything_else() -> None:
    """(20, 0) counts as (5, 0): scores 5 (.6 + .8), 3 + .96, 4 + .96 over the mean length 7 / 3, the first cut at 5."""
    assert scores(gram((20, 0), (0.6, 0.8), (0.8, 0.6)), EVEN) == pytest.approx([3.0, 3.96 * 3 / 7, 4.96 * 3 / 7])
    assert scores(gram((5, 0), (5, 0), (5, 0)), EVEN) == pytest.approx([5.0, 5.0, 5.0])  # 50 / 5, cut


def test_a_target_keeps_the_self_term() -> None:
    """Out of domain the code removes nothing: for target a alone the scores are <g_j, g_a>."""
    assert scores(UNIT, np.array([1.0, 0, 0])) == pytest.approx([1, 0.6, 0.8], abs=1e-5)
    assert scores(UNIT, np.array([0.5, 0.5, 0])) == pytest.approx([1.6, 1.6, 0.8 + 0.96], abs=1e-5)
