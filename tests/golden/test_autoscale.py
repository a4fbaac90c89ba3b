"""AutoScale's rule for larger budgets and its fit of one domain, against its notebook.

Source of the numbers: AutoScale's repository at f3cae22: the best tokens of seven domains at 0.3 and 1.2 billion, and
two of the curves that it fits; the rows that follow from them were computed apart.
"""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.errors import SwarmError
from mixopt.laws.autoscale import domain_fit, next_scale

N03 = np.array([1.55818971, 0.2, 1.1645966, 1.42333261, 1.49550525, 0.68184781, 0.47652801]) * 0.3 / 7
N12 = np.array([1.63121445, 0.2, 1.30180479, 1.21425702, 1.83266187, 0.62006189, 0.2]) * 1.2 / 7


def test_the_next_budget() -> None:
    expected = [1.170968, 0.137143, 0.997837, 0.710327, 1.539997, 0.386657, 0.057559]
    np.testing.assert_allclose(next_scale(N03, N12), expected, atol=1e-6)


def test_the_budgets_after_that() -> None:
    sums = [next_scale(N03, N12, steps).sum() for steps in (1, 2, 3, 4)]
    np.testing.assert_allclose(sums, [5.000487, 21.38933, 93.22815, 412.44003], rtol=1e-6)


def test_half_way_between_two_budgets_is_their_geometric_mean() -> None:
    np.testing.assert_allclose(next_scale(N03, N12, -0.5), np.sqrt(N03 * N12))
    assert next_scale(N03, N12, -0.5).sum() == pytest.approx(0.596115, abs=1e-6)


@pytest.mark.parametrize("curve", [(2.665873, 1.249202, 0.802654), (3.319174, 1.926671, 0.940325)])
def test_a_domain_is_fitted_through_its_three_losses(curve: tuple[float, float, float]) -> None:
    """CommonCrawl's and arXiv's curves, from the losses that they have at a fifth, once and three times the base."""
    a, b, c = curve
    x_K = np.array([0.2, 1.0, 3.0])
    assert domain_fit(x_K, (x_K + a) ** -b + c) == pytest.approx(curve, rel=1e-3)


@pytest.mark.parametrize("y_K", [[3.0, 3.1, 2.9], [3.0, 2.9]])
def test_losses_that_do_not_fall_or_are_too_few_are_refused(y_K: list[float]) -> None:
    with pytest.raises(SwarmError, match="three losses or more"):
        domain_fit(np.array([0.2, 1.0, 3.0])[: len(y_K)], np.array(y_K))
