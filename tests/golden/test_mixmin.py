"""MixMin on two domains and three examples, worked out by hand: the optimum makes the first two equally likely."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.domains import Domain
from mixopt.errors import SwarmError
from mixopt.limits import Trust
from mixopt.mixmin import ensemble, mixmin
from mixopt.space import MixtureSpace

LOG_XD = np.log([[0.6, 0.2], [0.1, 0.5], [0.3, 0.3]])
DOMAINS = (Domain("one", 10**9), Domain("two", 10**9))


def test_two_proxies_and_three_examples() -> None:
    """P_1 = (.6, .1, .3), P_2 = (.2, .5, .3): p = (.375, .625), 1.101206 nats; the even mixture has 1.108079."""
    p_D = mixmin(LOG_XD, MixtureSpace(DOMAINS, 10**9)).array(("one", "two"))
    np.testing.assert_allclose(p_D, [0.375, 0.625], atol=1e-7)
    curve = ensemble(LOG_XD, 2)
    assert curve(p_D)[0] == pytest.approx(1.101206, abs=1e-6)
    assert curve(np.full(2, 0.5))[0] == pytest.approx(1.108079, abs=1e-6)


def test_constraints_of_the_real_run_hold() -> None:
    capped = mixmin(LOG_XD, MixtureSpace(DOMAINS, 10**9, upper={"two": 0.55}))
    assert capped["two"] == pytest.approx(0.55, abs=1e-7)
    near = mixmin(LOG_XD, MixtureSpace(DOMAINS, 10**9, trust=Trust(l1=0.1)))
    assert near["two"] == pytest.approx(0.55, abs=1e-7)


def test_derivatives() -> None:
    curve, p_D, step = ensemble(np.random.default_rng(0).normal(size=(7, 3)), 3), np.array([0.5, 0.2, 0.3]), 1e-6
    for j, unit_D in enumerate(np.eye(3)):
        up, down = curve(p_D + step * unit_D), curve(p_D - step * unit_D)
        assert (up[0] - down[0]) / (2 * step) == pytest.approx(curve(p_D)[1][j], rel=1e-6)
        np.testing.assert_allclose((up[1] - down[1]) / (2 * step), curve(p_D)[2][j], rtol=1e-6)


def test_likelihoods_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(SwarmError, match=r"2 domains.*shape \(3, 1\)"):
        mixmin(LOG_XD[:, :1], MixtureSpace(DOMAINS, 10**9))
    with pytest.raises(SwarmError, match="not finite"):
        mixmin(LOG_XD - [[np.inf], [0], [0]], MixtureSpace(DOMAINS, 10**9))
