"""Whatever is a table of mixtures and finite metrics, a law either predicts finite numbers or says why it will not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixopt.errors import SwarmError
from mixopt.laws import LAWS, make
from mixopt.laws.quadratic import Quadratic
from mixopt.laws.sparse_quadratic import SparseQuadratic
from mixopt.mixture import FloatArray

FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(params=sorted(LAWS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def checked(name: str, X_RD: FloatArray, Y_RM: FloatArray, new_ND: FloatArray) -> None:
    """Fit and predict; the answer is finite with positive deviations, or the refusal says how many runs there are."""
    try:
        P_NM, std_NM = make(name).fit(X_RD, Y_RM).predict(new_ND, return_std=True)
    except SwarmError as refusal:
        assert len(str(refusal)) > 40
        return
    assert P_NM.shape == std_NM.shape == (len(new_ND), Y_RM.shape[1])
    assert np.isfinite(P_NM).all()
    assert np.isfinite(std_NM).all()
    assert (std_NM > 0).all()


@st.composite
def swarms(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mixtures with zeros, one-hot rows and duplicates; metrics that may be constant, tiny, huge or outlying."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    domains, runs = draw(st.sampled_from([2, 3, 6])), draw(st.integers(2, 24))
    X_RD = rng.dirichlet(np.full(domains, draw(st.sampled_from([0.05, 1.0, 50.0]))), runs)
    X_RD[rng.random(X_RD.shape) < draw(st.sampled_from([0.0, 0.5]))] = 0
    X_RD[X_RD.sum(axis=1) == 0, 0] = 1
    X_RD /= X_RD.sum(axis=1, keepdims=True)
    if draw(st.booleans()):
        X_RD[: min(domains, runs)] = np.eye(domains)[: min(domains, runs)]
    if draw(st.booleans()):
        X_RD[runs // 2 :] = X_RD[0]
    if draw(st.booleans()):
        X_RD = np.hstack([X_RD, np.zeros((runs, 1))])  # a domain that no run has
    A_MD = rng.normal(size=(2, X_RD.shape[1]))
    Y_RM = draw(st.sampled_from([1e-4, 1.0, 1e4])) * (2 + np.exp(X_RD @ A_MD.T) + 0.01 * rng.random((runs, 2)))
    if draw(st.booleans()):
        Y_RM[:, 1] = Y_RM[0, 1]
    if draw(st.booleans()):
        Y_RM[0, 0] *= 10
    corners_ND = np.eye(X_RD.shape[1])
    return X_RD, Y_RM, np.vstack([X_RD, corners_ND, corners_ND.mean(axis=0, keepdims=True)])


@FEW
@given(swarm=swarms())
def test_finite_or_refused(name: str, swarm: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    checked(name, *swarm)


def test_two_hundred_domains_with_as_few_runs_as_the_law_allows(name: str) -> None:
    rng = np.random.default_rng(0)
    runs = make(name).min_runs(200)
    X_RD = rng.dirichlet(np.full(200, 0.05), runs)
    Y_RM = 2 + np.exp(X_RD @ rng.normal(size=(200, 1)))
    checked(name, X_RD, Y_RM, np.vstack([X_RD[:5], np.eye(200)[:5]]))
    with pytest.raises(SwarmError, match=f"needs at least {runs}"):
        make(name).fit(X_RD[1:], Y_RM[1:])


@pytest.mark.parametrize("kind", [Quadratic, SparseQuadratic])
def test_a_quadratic_has_an_exact_curve_where_it_is_convex_and_none_where_it_is_not(
    kind: type[Quadratic | SparseQuadratic],
) -> None:
    rng = np.random.default_rng(0)
    X_RD, c_D = rng.dirichlet(np.ones(4), 80), rng.dirichlet(np.ones(4))
    bowl_R = ((X_RD - c_D) ** 2).sum(axis=1)
    law = kind().fit(X_RD, np.column_stack([bowl_R, -bowl_R]))
    assert law.exact(np.array([0.0, 1.0])) is None
    curve = law.exact(np.array([1.0, 0.0]))
    assert curve is not None
    p_D = rng.dirichlet(np.ones(4))
    value, gradient_D, hessian_DD = curve(p_D)
    assert value == pytest.approx(float(law.predict(p_D[None])[0, 0]), rel=1e-9)
    assert np.linalg.eigvalsh(hessian_DD).min() >= -1e-9
    move_D = np.array([1e-5, -1e-5, 0, 0])
    assert gradient_D @ move_D == pytest.approx((curve(p_D + move_D)[0] - curve(p_D - move_D)[0]) / 2, rel=1e-5)
