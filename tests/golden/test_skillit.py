"""Skill-It's rule worked by hand: the first mixture, a window of losses, and the two graphs.

Source of the algorithm: Chen et al. 2023, arXiv:2307.14430, its reference code at 807b3bf, and for the graph of loss
drops that of Aioli at a236112. With eta = .2 and G = [[1, .5, 0], [0, 1, .5], [0, 0, 1]], trained domains in rows,
G 1 = (1.5, 1.5, 1) and G (2, 1, .5) = (2.5, 1.25, .5).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from mixopt.errors import JobError
from mixopt.methods.skillit import SkillIt as Method
from mixopt.methods.skillit import density, drops, pairs
from mixopt.policies.skillit import SkillIt, proportions
from mixopt.policy import Feedback

NAMES = ("a", "b", "c")
G_DD = np.array([[1, 0.5, 0], [0, 1, 0.5], [0, 0, 1]])
GRAPH = {j: dict(zip(NAMES, row, strict=True)) for j, row in zip(NAMES, G_DD.tolist(), strict=True)}
L_D = np.array([2.0, 1.0, 0.5])
FIRST, AFTER = (0.344253, 0.344253, 0.311493), (0.408310, 0.317992, 0.273698)


def test_proportions() -> None:
    assert proportions(G_DD, np.ones(3), 0.2) == pytest.approx(FIRST, abs=1e-6)
    assert proportions(G_DD, L_D, 0.2) == pytest.approx(AFTER, abs=1e-6)
    assert proportions(G_DD.T, L_D, 0.2) != pytest.approx(AFTER, abs=1e-2)


def test_rounds_begin_anew_with_the_last_losses() -> None:
    policy = SkillIt(GRAPH, eta=0.2, window=2, rounds=4)
    state = policy.init(NAMES, Feedback(0, 100, {"valid": 9 * np.ones(3)}))
    assert policy.matrix(state) is None
    assert policy.segment(state).mixture.array(NAMES) == pytest.approx(FIRST, abs=1e-6)
    state = policy.update(state, Feedback(25, 100, {"valid": L_D}))
    assert policy.segment(state).mixture.array(NAMES) == pytest.approx(AFTER, abs=1e-6)
    for seen, losses_D in ((50, 2 * L_D), (75, 3 * L_D)):
        state = policy.update(state, Feedback(seen, 100, {"valid": losses_D}))
    segment = policy.segment(state)
    assert segment.tokens == 25
    assert segment.mixture.array(NAMES) == pytest.approx(proportions(G_DD, 5 * L_D, 0.2))


@pytest.mark.parametrize("knob", [{"rounds": 0}, {"window": 0}, {"eta": 0.0}, {"part": 0.0}, {"part": 1.5}])
def test_the_policy_refuses_what_the_method_refuses(knob: dict[str, Any]) -> None:
    for make in (Method, partial(SkillIt, GRAPH)):
        with pytest.raises(JobError, match=rf"method\.{next(iter(knob))}\b.*: must be"):
            make(**knob)


def test_the_matrix_of_the_dynamic_law_has_evaluated_domains_in_rows() -> None:
    """A_ij = L_i G_ji: training a (column 0) lowers a by 2 * 1 and b by 1 * .5, and c by nothing."""
    policy = SkillIt(GRAPH)
    state = policy.update(policy.init(NAMES, Feedback(0, 100, {})), Feedback(10, 100, {"valid": L_D}))
    A_DD = policy.matrix(state)
    assert A_DD is not None
    assert A_DD.tolist() == [[2, 0, 0], [0.5, 1, 0], [0, 0.25, 0.5]]
    p_D = np.exp(0.2 * A_DD.sum(axis=0))
    assert p_D / p_D.sum() == pytest.approx(policy.segment(state).mixture.array(NAMES))


def test_drops_are_relative_and_never_negative() -> None:
    """Training a takes b from 2 to 1.5, a quarter; training b takes a from 4 to 5, which counts as nothing."""
    before_D, alone_DD = np.array([4.0, 2.0]), np.array([[2.0, 1.5], [5.0, 1.0]])
    assert drops(before_D, alone_DD) == pytest.approx(np.array([[0.5, 0.25], [0.0, 0.5]]))


def test_pairs_draw_an_edge_where_company_helps() -> None:
    """With b in company a ends at 1.9 rather than 2.0: an edge from b to a; b itself ends no lower with a: no edge."""
    alone_DD = np.array([[2.0, 9.0], [9.0, 1.0]])
    found = pairs(("a", "b"), alone_DD, {("a", "b"): np.array([1.9, 1.0])})
    assert found.tolist() == [[1.0, 0.0], [0.5, 1.0]]


def test_density() -> None:
    assert density(np.eye(3)) == 0
    assert density(np.ones((3, 3))) == 1
    assert density(np.array([[0.4, 0.1], [0.3, 0.2]])) == pytest.approx((0.1 / 0.2 + 0.3 / 0.4) / 2)
    assert density(np.array([[1, 0.5], [0, 1]]), 0.5) == 0.5
