"""The log-linear law and the exact proposer against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from mixopt.domains import Domain
from mixopt.laws.base import Curve
from mixopt.laws.loglinear import LogLinear
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import minimise
from mixopt.space import MixtureSpace

PRIOR = (0.6, 0.3, 0.1)
A_MD = np.array([[-2.0, 0.0, 0.0], [0.0, -3.0, 0.5], [0.2, 0.0, -1.0]])


def space(prior: tuple[float, ...], upper: dict[str, float] | None = None) -> MixtureSpace:
    names = [f"d{j}" for j in range(1, len(prior) + 1)]
    domains = tuple(Domain(name, 10**9) for name in names)
    return MixtureSpace(domains, 1, prior=Mixture.from_array(names, np.array(prior)), upper=upper or {})


def law(c_M: FloatArray, t_MD: FloatArray) -> LogLinear:
    made = LogLinear()
    made.single_, made.log_c_, made.t_ = False, np.log(c_M), t_MD
    return made


def value(curve: Curve, p_D: FloatArray, kl: float) -> float:
    return curve(p_D)[0] + kl * float(p_D @ np.log(p_D / PRIOR))


@pytest.mark.parametrize("seed", range(5))
def test_the_law_is_recovered_from_three_runs_per_parameter(seed: int) -> None:
    """c separates from the exponential, so t itself comes back and no factor is left undetermined."""
    t_D = np.array([-2.0, 0.3, -0.5])
    X_RD = np.random.default_rng(seed).dirichlet(np.ones(3), 12)
    found = LogLinear().fit(X_RD, 1 + np.exp(X_RD @ t_D))
    np.testing.assert_allclose(found.t_, [t_D], atol=1e-3)
    assert math.exp(found.log_c_[0]) == pytest.approx(1, abs=1e-3)


def test_a_constant_added_to_all_t_is_a_factor_of_the_exponential() -> None:
    p_ND, c_M = np.random.default_rng(0).dirichlet(np.ones(3), 20), np.array([0.5, 1.0, 2.0])
    plain, shifted = law(c_M, A_MD).predict(p_ND) - c_M, law(c_M, A_MD + 0.7).predict(p_ND) - c_M
    np.testing.assert_allclose(shifted, math.exp(0.7) * plain, rtol=1e-12)


def test_one_corrupted_run_hardly_moves_the_law() -> None:
    X_RD = np.random.default_rng(0).dirichlet(np.ones(3), 40)
    y_R = 1 + np.exp(X_RD @ [-2.0, 0.3, -0.5])
    y_R[7] = 9.0
    new_ND = np.random.default_rng(1).dirichlet(np.ones(3), 100)
    found = LogLinear().fit(X_RD, y_R).predict(new_ND)
    np.testing.assert_allclose(found, 1 + np.exp(new_ND @ [-2.0, 0.3, -0.5]), atol=0.02)


def test_two_domains_have_their_optimum_in_closed_form() -> None:
    """L(r) = (2 + exp(-2 r)) / 2 + (1 + 1.5 exp(-3 (1 - r))) / 2 is smallest at r = (3 - ln 2.25) / 5."""
    curve = law(np.array([2.0, 1.0]), np.array([[-2.0, 0.0], [math.log(1.5), math.log(1.5) - 3]])).curve(np.ones(2) / 2)
    p_D = minimise(curve, space((0.5, 0.5)))
    assert p_D[0] == pytest.approx((3 - math.log(2.25)) / 5, abs=1e-8)
    assert p_D[0] == pytest.approx(0.437814, abs=1e-6)
    assert curve(p_D)[0] == pytest.approx(1.847167, abs=1e-6)


@pytest.mark.parametrize(
    ("kl", "expected", "objective"),
    [
        (0.0, (0.363491, 0.474406, 0.162103), 0.553040),
        (0.05, (0.405884, 0.455272, 0.138843), 0.557692),
        (0.5, (0.521098, 0.371554, 0.107347), 0.572034),
    ],
)
def test_three_domains_have_these_optima(kl: float, expected: tuple[float, ...], objective: float) -> None:
    """Reference values by an independent solver, on weights of 1/3 and no floor."""
    curve = law(np.full(3, 1e-300), A_MD).curve(np.full(3, 1 / 3))
    p_D = minimise(curve, space(PRIOR), kl)
    np.testing.assert_allclose(p_D, expected, atol=1e-6)
    assert value(curve, p_D, kl) == pytest.approx(objective, abs=1e-6)


def test_a_cap_leaves_one_equation_in_one_unknown() -> None:
    """With p_2 held at 0.3 the rest is the root of the derivative along p_1 + p_3 = 0.7."""
    kl, curve = 0.05, law(np.full(3, 1e-300), A_MD).curve(np.full(3, 1 / 3))

    def slope(p_1: float) -> float:
        p_D = np.array([p_1, 0.3, 0.7 - p_1])
        gradient_D = np.exp(A_MD @ p_D) @ A_MD / 3 + kl * np.log(p_D / PRIOR)
        return float(gradient_D[0] - gradient_D[2])

    p_1 = brentq(slope, 1e-6, 0.7 - 1e-6, xtol=1e-14)
    p_D = minimise(curve, space(PRIOR, {"d2": 0.3}), kl)
    np.testing.assert_allclose(p_D, [p_1, 0.3, 0.7 - p_1], atol=1e-8)
    np.testing.assert_allclose(p_D, [0.501508, 0.3, 0.198492], atol=1e-6)
    assert value(curve, p_D, kl) == pytest.approx(0.576387, abs=1e-6)


def test_a_linear_loss_with_kl_tilts_the_prior() -> None:
    """min a . p + kl * KL(p || q) is at p proportional to q * exp(-a / kl)."""
    a_D, kl = np.array([0.3, 0.1, 0.2]), 0.1
    p_D = minimise(lambda p_D: (float(a_D @ p_D), a_D, np.zeros((3, 3))), space(PRIOR), kl)
    tilted_D = PRIOR * np.exp(-a_D / kl)
    np.testing.assert_allclose(p_D, tilted_D / tilted_D.sum(), atol=1e-8)
    np.testing.assert_allclose(p_D, [0.194266, 0.717722, 0.088012], atol=1e-6)
