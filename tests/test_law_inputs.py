"""Whatever is a table of mixtures and finite metrics, a law either predicts finite numbers or says why it will not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mixopt.errors import SwarmError
from mixopt.laws import LAWS, make
from mixopt.laws.base import ConvexLaw, Law, PosteriorLaw, SmoothLaw, SometimesConvexLaw
from mixopt.laws.lightgbm import LightGBM
from mixopt.laws.mixinglaws import MixingLaws, ThirdForm
from mixopt.laws.quadratic import Quadratic
from mixopt.laws.sparse_quadratic import SparseQuadratic
from mixopt.mixture import FloatArray

FEW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
UNIT_BOUND = ("loglinear",)  # its delta, ridge and ceiling are in nats or bits
REASONS = ("good runs are too few", "one constant", "must be positive")
SETTINGS: dict[str, Callable[[], Law]] = {
    "lightgbm climb": lambda: LightGBM("climb"),
    "mixinglaws m2": lambda: MixingLaws("m2"),
    "mixinglaws m3": ThirdForm,
}


def made(name: str) -> Law:
    return SETTINGS[name]() if name in SETTINGS else make(name)


@pytest.fixture(params=sorted([*LAWS, *SETTINGS]))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def checked(name: str, X_RD: FloatArray, Y_RM: FloatArray, new_ND: FloatArray) -> None:
    """Fit and predict: all is finite and deviations are positive, or the refusal has one of REASONS and a next step."""
    law = made(name)
    try:
        law.fit(X_RD, Y_RM)
    except SwarmError as refusal:
        assert any(reason in str(refusal) for reason in REASONS), refusal
        assert len(X_RD) < law.min_runs(X_RD.shape[1]) or "good runs" not in str(refusal)
        return
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    assert P_NM.shape == std_NM.shape == (len(new_ND), Y_RM.shape[1])
    assert np.isfinite(P_NM).all()
    assert np.isfinite(std_NM).all()
    assert (std_NM > 0).all()
    inside_ND = (new_ND + 1 / new_ND.shape[1]) / 2
    if isinstance(law, SmoothLaw):
        gradient_NMD = law.gradient(inside_ND)
        assert gradient_NMD.shape == (*P_NM.shape, new_ND.shape[1])
        assert np.isfinite(gradient_NMD).all()
    if isinstance(law, ConvexLaw):
        value, slope_D, bend_DD = law.curve(np.full(Y_RM.shape[1], 1 / Y_RM.shape[1]))(inside_ND[0])
        assert np.isfinite([value, *slope_D, *bend_DD.ravel()]).all()
    if isinstance(law, SometimesConvexLaw) and (curve := law.exact(np.full(Y_RM.shape[1], 1 / Y_RM.shape[1]))):
        assert np.isfinite([x for part in curve(inside_ND[0]) for x in np.ravel(part)]).all()
    if isinstance(law, PosteriorLaw):
        for drawn in law.draw(np.random.default_rng(0), 3):
            assert np.isfinite(drawn.predict(new_ND)).all()


@st.composite
def swarms(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Mixtures with zeros, one-hot rows and duplicates; metrics that may be constant, tiny, huge or outlying."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    domains, runs = draw(st.sampled_from([1, 2, 3, 6])), draw(st.integers(2, 24))
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
    if draw(st.booleans()):
        X_RD = np.hstack([X_RD[:, :1] / 3, X_RD[:, :1] * 2 / 3, X_RD[:, 1:]])  # two that always move together
    A_MD = rng.normal(size=(2, X_RD.shape[1]))
    Y_RM = 2 + np.exp(X_RD @ A_MD.T) + 0.01 * rng.random((runs, 2))
    Y_RM *= [draw(st.sampled_from([1e-4, 1.0, 1e4])), draw(st.sampled_from([1e-4, 1.0]))]
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
    runs = made(name).min_runs(200)
    X_RD = rng.dirichlet(np.full(200, 0.05), runs)
    Y_RM = 2 + np.exp(X_RD @ rng.normal(size=(200, 1)))
    checked(name, X_RD, Y_RM, np.vstack([X_RD[:5], np.eye(200)[:5]]))
    with pytest.raises(SwarmError, match=f"needs at least {runs}"):
        made(name).fit(X_RD[1:], Y_RM[1:])


def test_one_domain_is_its_mean_or_refused(name: str) -> None:
    """There is one mixture, so nothing but the level and the noise can be learned."""
    y_R = 2 + 0.1 * np.random.default_rng(0).normal(size=40)
    try:
        mean, std = made(name).fit(np.ones((40, 1)), y_R).predict(np.ones((1, 1)), return_std=True)
    except SwarmError as refusal:
        assert "one constant" in str(refusal)
        return
    assert mean[0] == pytest.approx(y_R.mean(), abs=0.05)
    assert std[0] == pytest.approx(0.1, rel=0.5)


def test_the_same_mixture_again_and_again_is_its_mean_or_refused(name: str) -> None:
    X_RD, y_R = np.full((40, 4), 0.25), 2 + 0.1 * np.random.default_rng(0).normal(size=40)
    try:
        P_N, std_N = made(name).fit(X_RD, y_R).predict(np.vstack([X_RD[:1], np.eye(4)]), return_std=True)
    except SwarmError as refusal:
        assert "one constant" in str(refusal)
        return
    assert P_N[0] == pytest.approx(y_R.mean(), abs=0.05)
    assert std_N[0] == pytest.approx(0.1, rel=0.5)
    assert np.isfinite([*P_N, *std_N]).all()


def test_an_outlier_moves_no_law_by_more_than_a_mean_would(name: str) -> None:
    """One loss of 60 is 6 too large: a mean would move by 0.1, least squares with a number for each domain by 0.13."""
    rng = np.random.default_rng(0)
    X_RD, new_ND = rng.dirichlet(np.ones(4), 60), rng.dirichlet(np.full(4, 3.0), 100)
    y_R = 2 + np.exp(X_RD @ [-1.0, 0.5, 0.2, -0.3])
    plain = made(name).fit(X_RD, y_R).predict(new_ND)
    y_R[7] += 6
    moved_N = np.abs(made(name).fit(X_RD, y_R).predict(new_ND) - plain)
    assert np.median(moved_N) < 0.2


def test_metrics_of_different_scales_do_not_mind_each_other(name: str) -> None:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(4), 60)
    y_R = 2 + np.exp(X_RD @ [-1.0, 0.5, 0.2, -0.3]) + 0.01 * rng.normal(size=60)
    both_NM = made(name).fit(X_RD, np.column_stack([y_R, 1e6 * y_R])).predict(X_RD)
    alone_NM = made(name).fit(X_RD, np.column_stack([y_R, y_R])).predict(X_RD)
    np.testing.assert_allclose(both_NM[:, 0], alone_NM[:, 0], rtol=1e-3)
    if name not in UNIT_BOUND:
        np.testing.assert_allclose(both_NM[:, 1], 1e6 * alone_NM[:, 1], rtol=1e-3)


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
