from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.domains import Domain
from mixopt.errors import JobError, SwarmError
from mixopt.laws.base import Curve
from mixopt.laws.loglinear import LogLinear
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import minimise, simulate
from mixopt.space import MixtureSpace

SPACES = {"max_examples": 200, "deadline": None, "derandomize": True}


def space_of(
    prior_D: FloatArray, lower_D: FloatArray | None = None, upper_D: FloatArray | None = None, tokens: int = 10**9
) -> MixtureSpace:
    names = [f"d{j:03d}" for j in range(len(prior_D))]
    bounds = [dict(zip(names, map(float, b), strict=True)) if b is not None else {} for b in (lower_D, upper_D)]
    domains = tuple(Domain(name, tokens) for name in names)
    return MixtureSpace(domains, 10**9, prior=Mixture.from_array(names, prior_D), lower=bounds[0], upper=bounds[1])


def allowed(space: MixtureSpace, p_D: FloatArray) -> bool:
    return space.violations(Mixture.from_array(space.names, p_D)) == []


def exponential(t_MD: FloatArray) -> Curve:
    law = LogLinear()
    law.log_c_, law.t_ = np.zeros(len(t_MD)), t_MD
    return law.curve(np.full(len(t_MD), 1 / len(t_MD)))


def straight(a_D: FloatArray) -> Curve:
    return lambda p_D: (float(a_D @ p_D), a_D, np.zeros((len(a_D), len(a_D))))


def left_to_gain(curve: Curve, space: MixtureSpace, kl: float, p_D: FloatArray) -> float:
    """What the linear program over the space could still gain at p: an upper bound for a convex objective."""
    gradient_D = curve(p_D)[1] + kl * np.log(np.maximum(p_D, 1e-300) / np.maximum(space.prior_D, 1e-12))
    best_D, rest = space.lower_D.copy(), 1 - space.lower_D.sum()
    for j in np.argsort(gradient_D):
        best_D[j] += (taken := min(rest, space.upper_D[j] - space.lower_D[j]))
        rest -= taken
    return float(gradient_D @ (p_D - best_D))


@st.composite
def spaces(draw: st.DrawFn) -> MixtureSpace:
    count = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    inside_D = rng.dirichlet(np.full(count, draw(st.sampled_from([0.05, 1.0, 20.0]))))
    lower_D = inside_D * rng.choice([0, 0.5, 1], size=count, p=[0.6, 0.3, 0.1])
    upper_D = np.minimum(1, np.where(rng.random(count) < 0.5, 1, inside_D * rng.choice([1, 1.2, 3], size=count)))
    return space_of(rng.dirichlet(np.full(count, draw(st.sampled_from([0.1, 1.0])))), lower_D, upper_D)


@settings(**SPACES)
@given(spaces(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.001, 0.05, 1.0]), st.sampled_from([0.1, 1.0, 10.0]))
def test_minimise_is_allowed_and_leaves_nothing_to_gain(
    space: MixtureSpace, seed: int, kl: float, slope: float
) -> None:
    t_MD = slope * np.random.default_rng(seed).normal(size=(4, len(space.names)))
    curve = exponential(t_MD - max(0, t_MD.max() - 2))
    p_D = minimise(curve, space, kl)
    assert allowed(space, p_D)
    assert math.isclose(p_D.sum(), 1, abs_tol=1e-9)
    assert left_to_gain(curve, space, kl, p_D) <= 1e-7 * (1 + np.abs(curve(p_D)[1]).max())


def test_minimise_takes_two_hundred_domains_with_caps() -> None:
    rng = np.random.default_rng(0)
    space = space_of(rng.dirichlet(np.ones(200)), upper_D=np.full(200, 0.02))
    curve = exponential(rng.normal(size=(13, 200)))
    for kl in (0.0, 0.05):
        p_D = minimise(curve, space, kl)
        assert allowed(space, p_D)
        assert left_to_gain(curve, space, kl, p_D) <= 1e-8


def test_epoch_caps_bind() -> None:
    domains = (Domain("big", 10**12), Domain("small", 10**9))
    space = MixtureSpace(domains, 10**11, max_epochs=4.0)
    p_D = minimise(straight(np.array([1.0, 0.0])), space)
    np.testing.assert_allclose(p_D, [0.96, 0.04], atol=1e-8)


@pytest.mark.parametrize(
    ("lower_D", "upper_D", "expected"),
    [([0.2, 0.8], None, [0.2, 0.8]), (None, [0.3, 0.7], [0.3, 0.7]), ([0.0, 0.25], [1.0, 0.25], [0.75, 0.25])],
)
def test_bounds_that_leave_no_choice_are_kept(
    lower_D: list[float], upper_D: list[float], expected: list[float]
) -> None:
    lower, upper = (np.array(b) if b else None for b in (lower_D, upper_D))
    np.testing.assert_allclose(
        minimise(straight(np.array([0.0, 1.0])), space_of(np.ones(2) / 2, lower, upper)), expected
    )


def test_one_domain_is_the_whole_mixture() -> None:
    assert minimise(straight(np.ones(1)), space_of(np.ones(1)), 0.05).tolist() == [1.0]


def test_order_of_domains_moves_with_the_answer() -> None:
    rng = np.random.default_rng(1)
    t_MD, prior_D, upper_D = rng.normal(size=(3, 6)), rng.dirichlet(np.ones(6)), np.array([0.1, 0.3, 1, 1, 0.2, 1])
    order_D = rng.permutation(6)
    p_D = minimise(exponential(t_MD), space_of(prior_D, upper_D=upper_D), 0.01)
    moved_D = minimise(exponential(t_MD[:, order_D]), space_of(prior_D[order_D], upper_D=upper_D[order_D]), 0.01)
    np.testing.assert_allclose(moved_D, p_D[order_D], atol=1e-8)


def test_a_prior_of_zero_keeps_a_domain_out() -> None:
    p_D = minimise(straight(np.array([0.3, 0.2, 0.1])), space_of(np.array([0.5, 0.5, 0.0])), 0.1)
    assert p_D[2] < 1e-8


def test_a_curve_that_is_not_convex_is_refused() -> None:
    def hill(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        return float(-50 * p_D @ p_D), -100 * p_D, -100 * np.eye(3)

    with pytest.raises(SwarmError, match="not convex"):
        minimise(hill, space_of(np.array([0.5, 0.3, 0.2])))
    with pytest.raises(SwarmError, match="not finite"):
        minimise(straight(np.array([0.1, np.nan, 0.2])), space_of(np.array([0.5, 0.3, 0.2])))


@settings(**SPACES)
@given(spaces(), st.integers(0, 2**32 - 1))
def test_simulate_is_allowed(space: MixtureSpace, seed: int) -> None:
    a_D = np.random.default_rng(seed).normal(size=len(space.names))
    p_D = simulate(lambda X_ND: X_ND @ a_D, space, np.random.default_rng(seed), candidates=300, keep=5)
    assert allowed(space, p_D)
    assert math.isclose(p_D.sum(), 1, abs_tol=1e-9)


def test_simulate_comes_near_the_exact_optimum() -> None:
    prior_D = np.array([0.3, 0.3, 0.2, 0.2])
    space, curve = space_of(prior_D, upper_D=np.array([0.4, 1, 1, 1])), exponential(np.diag([-3.0, -2, -1, -1]))
    p_D = simulate(
        lambda X_ND: np.array([curve(x_D)[0] for x_D in X_ND]),
        space,
        np.random.default_rng(0),
        candidates=20_000,
        keep=32,
    )
    assert curve(p_D)[0] == pytest.approx(curve(minimise(curve, space))[0], abs=1e-3)


def test_simulate_is_the_same_for_a_seed_whatever_the_block() -> None:
    space, a_D = space_of(np.array([0.5, 0.3, 0.2])), np.array([0.1, 0.3, 0.2])
    drawn: list[int] = []

    def score(X_ND: FloatArray) -> FloatArray:
        drawn.append(len(X_ND))
        return X_ND @ a_D

    first = simulate(score, space, np.random.default_rng(3), candidates=25_000, keep=10)
    assert drawn == [10_000, 10_000, 5_000]
    best_ND = np.random.default_rng(3).dirichlet(space.prior_D, 25_000)
    best_ND = best_ND[np.argsort(best_ND @ a_D, kind="stable")[:10]]
    np.testing.assert_allclose(first, best_ND.mean(axis=0), rtol=1e-12)


def test_a_candidate_outside_is_moved_as_the_space_projects_it() -> None:
    space = space_of(np.array([0.7, 0.2, 0.1]), np.array([0, 0.1, 0]), np.array([0.5, 1, 1]))
    seen: list[FloatArray] = []

    def score(X_ND: FloatArray) -> FloatArray:
        seen.append(X_ND)
        return X_ND[:, 0]

    simulate(score, space, np.random.default_rng(0), candidates=50, keep=1)
    drawn_ND = np.random.default_rng(0).dirichlet(space.prior_D, 50)
    for drawn_D, moved_D in zip(drawn_ND, seen[0], strict=True):
        inside = allowed(space, drawn_D)
        np.testing.assert_allclose(moved_D, drawn_D if inside else space.project(drawn_D), atol=1e-9)


def test_simulate_refuses_what_it_cannot_rank() -> None:
    space, rng = space_of(np.array([0.5, 0.5])), np.random.default_rng(0)
    with pytest.raises(JobError, match="keep: must be between 1 and .*100"):
        simulate(lambda X_ND: X_ND[:, 0], space, rng, candidates=100, keep=101)
    with pytest.raises(SwarmError, match="not finite"):
        simulate(lambda X_ND: np.full(len(X_ND), np.nan), space, rng, candidates=100, keep=1)
