"""Log-ratios against numbers computed apart, and the properties that define them."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.compositional import clr, condition, distance, ilr, replaced
from mixopt.errors import DataError

P_D = np.array([0.7, 0.2, 0.1])


def test_three_proportions() -> None:
    np.testing.assert_allclose(clr(P_D), [1.066224, -0.186539, -0.879686], atol=1e-6)
    np.testing.assert_allclose(ilr(P_D), [0.885837, 1.077391], atol=1e-6)
    assert distance(P_D, np.array([0.6, 0.3, 0.1])) == pytest.approx(0.408793, abs=1e-6)


def test_ilr_keeps_distances_and_forgets_scale() -> None:
    p_ND, q_ND = np.random.default_rng(0).dirichlet(np.ones(6), (2, 20))
    np.testing.assert_allclose(np.linalg.norm(ilr(p_ND) - ilr(q_ND), axis=1), distance(p_ND, q_ND))
    np.testing.assert_allclose(distance(3 * p_ND, q_ND), distance(p_ND, q_ND))
    np.testing.assert_allclose(clr(p_ND).sum(axis=1), 0, atol=1e-12)


def test_zeros_are_refused_or_replaced() -> None:
    zeros_ND = np.array([[0.5, 0.5, 0.0], [0.2, 0.0, 0.8], [0.1, 0.6, 0.3]])
    with pytest.raises(DataError, match="must be positive"):
        clr(zeros_ND)
    np.testing.assert_allclose(replaced(zeros_ND), [[0.475, 0.475, 0.05], [0.19, 0.05, 0.76], [0.1, 0.6, 0.3]])


def test_a_swarm_that_tells_domains_apart_and_some_that_do_not() -> None:
    X_RD = np.random.default_rng(0).dirichlet(np.full(5, 2.0), 200)
    assert 1 < condition(X_RD) < 2
    assert condition(np.hstack([X_RD[:, :1] / 3, 2 * X_RD[:, :1] / 3, X_RD[:, 1:]])) == np.inf
    assert condition(X_RD[:4]) == np.inf
    assert condition(np.full((9, 3), 1 / 3)) == np.inf
    assert condition(np.ones((9, 1))) == 1
