"""What scale laws are made of: power laws of many curves, water-filling, derivatives, nesting, the step to the next size."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mixopt.errors import SwarmError
from mixopt.laws import make
from mixopt.laws.effdata import EffData
from mixopt.mixture import FloatArray
from mixopt.scale_laws import additive, multiplicative, shukor, shukor_joint
from mixopt.scale_laws.base import Runs, Units
from mixopt.scale_laws.dai_zheng import DaiZheng, fill
from mixopt.scale_laws.nested import Nested
from mixopt.scale_laws.power import fit_power
from mixopt.scale_laws.transfer import Transfer

DOMAINS = 3
Terms = Callable[[FloatArray, FloatArray], FloatArray]


def water() -> DaiZheng:
    law = DaiZheng()
    law.units_, law.smallest_, law.scale_K = Units(1.0, 1.0), 0.3, np.array([1.0, 2.0, 0.5])
    return law


@pytest.mark.parametrize(
    ("value", "slopes", "parameters"),
    [
        (additive._value, additive._slopes, 5 + 1 + 2 * DOMAINS),
        (multiplicative._value, multiplicative._slopes, 6 + 1 + 2 * DOMAINS),
        (shukor._value, shukor._slopes, 5 + 2 * DOMAINS),
        (shukor_joint._value, shukor_joint._slopes, 5 + 4 * DOMAINS),
        (water()._value, water()._slopes, 5 * DOMAINS + 1),
    ],
    ids=["additive", "multiplicative", "shukor", "shukor_joint", "dai_zheng"],
)
def test_derivatives_are_those_of_the_values(value: Terms, slopes: Terms, parameters: int) -> None:
    rng = np.random.default_rng(0)
    theta_BP = 0.5 * rng.normal(size=(2, parameters))
    F_NF = np.column_stack([rng.normal(size=(9, 2)), rng.dirichlet(np.ones(DOMAINS), 9)])
    J_BNP, step = slopes(theta_BP, F_NF), 1e-6
    for k, e_P in enumerate(step * np.eye(parameters)):
        numeric_BN = (value(theta_BP + e_P, F_NF) - value(theta_BP - e_P, F_NF)) / (2 * step)
        np.testing.assert_allclose(J_BNP[:, :, k], numeric_BN, rtol=1e-5, atol=1e-7)


def test_water_is_filled_where_it_helps_most() -> None:
    """The optimality conditions of min sum h c x^-b: equal marginal gains above the least, smaller ones at the least."""
    rng = np.random.default_rng(0)
    h, c, b, least = rng.dirichlet(np.ones(6), 50), rng.uniform(0.5, 2, 6), rng.uniform(0.2, 0.6, 6), 0.4
    total_N = np.linspace(6 * least, 12, 50)
    x_ND = fill(np.log(h * c * b)[None], (b + 1)[None, None], np.full((1, 50), least), total_N[None])[0]
    np.testing.assert_allclose(x_ND.sum(axis=1), total_N, rtol=1e-9)
    assert (x_ND >= least).all()
    gain_ND, above_ND = h * c * b * x_ND ** -(b + 1), x_ND > least
    for gain_D, above_D in zip(gain_ND[1:], above_ND[1:], strict=True):
        np.testing.assert_allclose(gain_D[above_D], gain_D[above_D][0], rtol=1e-6)
        assert (gain_D[~above_D] <= gain_D[above_D][0] * (1 + 1e-6)).all()
    assert not above_ND.all()


@pytest.mark.parametrize("tied", [True, False])
def test_power_laws_are_found_with_points_missing(tied: bool) -> None:
    rng = np.random.default_rng(1)
    x_CK, seen_CK = np.geomspace(1e9, 1e11, 6) * np.ones((5, 1)), np.ones((5, 6))
    seen_CK[0, :3], seen_CK[3, 1] = 0, 0
    alpha_C1 = np.full((5, 1), 0.37) if tied else rng.uniform(0.2, 0.8, (5, 1))
    c_CM, k_CM = rng.uniform(1, 2, (5, 2)), rng.uniform(0.5, 1, (5, 2))

    def truth(x_CK: FloatArray) -> FloatArray:
        return c_CM[:, None] + k_CM[:, None] * ((x_CK / 1e10) ** -alpha_C1)[:, :, None]

    y_CKM = np.where(seen_CK[:, :, None] > 0, truth(x_CK), np.nan)
    laws = fit_power(x_CK, y_CKM, seen_CK, tied)
    np.testing.assert_allclose(laws.alpha_C, alpha_C1[:, 0], rtol=1e-3)
    far_CM, variance_CM = laws.at(np.full(5, 1e12))
    np.testing.assert_allclose(far_CM, truth(np.full((5, 1), 1e12))[:, 0], atol=1e-3)
    assert (variance_CM >= 0).all()


def test_power_laws_know_how_far_they_are_asked_to_go() -> None:
    rng = np.random.default_rng(2)
    x_CK = np.geomspace(1, 10, 8) * np.ones((200, 1))
    y_CKM = (1 + x_CK**-0.5)[:, :, None] + 0.01 * rng.normal(size=(200, 8, 1))
    far_CM, variance_CM = fit_power(x_CK, y_CKM, np.ones((200, 8)), tied=False).at(np.full(200, 30.0))
    assert 0.8 <= (np.abs(far_CM - 1 - 30**-0.5) < 1.645 * np.sqrt(variance_CM)).mean() <= 0.99


def ladder(tokens: tuple[float, ...], sizes: tuple[float, ...] = (1e8, 2e8, 4e8)) -> Runs:
    X_CD = np.random.default_rng(3).dirichlet(np.ones(DOMAINS), 12)
    N_R, T_R = np.repeat(np.array([(N, T) for N in sizes for T in tokens]).T, len(X_CD), axis=1)
    return Runs(np.tile(X_CD, (len(sizes) * len(tokens), 1)), N_R, T_R)


def log_linear(runs: Runs) -> FloatArray:
    rise_R = np.exp(runs.mixtures_RD @ np.array([0.5, -0.5, 0.2]))
    return 1 + rise_R * (runs.parameters_R / 1e8) ** -0.3 * (runs.tokens_R / 1e10) ** -0.4


def test_nested_laws_say_what_they_need() -> None:
    runs = ladder((1e10, 2e10))
    law = Nested().fit(runs, log_linear(runs))
    assert np.isfinite(law.predict(Runs.at(runs.mixtures_RD[:3], 8e8, 2e10))).all()
    with pytest.raises(SwarmError, match=r"0 mixtures can be followed to 8e\+08 parameters and 4e\+10 tokens .*three"):
        law.predict(Runs.at(runs.mixtures_RD[:3], 8e8, 4e10))
    two = ladder((1e10, 2e10, 3e10), (1e8, 2e8))
    law = Nested().fit(two, log_linear(two))
    assert np.isfinite(law.predict(Runs.at(two.mixtures_RD[:3], 2e8, 4e10))).all()
    with pytest.raises(SwarmError, match="0 mixtures can be followed to 8e"):
        law.predict(Runs.at(two.mixtures_RD[:3], 8e8, 2e10))
    with pytest.raises(SwarmError, match="must not be negative"):
        Nested().fit(two, log_linear(two) - 3)


@pytest.mark.parametrize("mixture", ["loglinear", "effdata", "linear"])
def test_nested_laws_say_what_their_law_of_mixtures_would_there(mixture: str) -> None:
    runs, new = ladder((1e10, 2e10, 3e10)), Runs.at(np.random.default_rng(4).dirichlet(np.ones(DOMAINS), 8), 8e8, 6e10)
    there = Runs.at(runs.mixtures_RD[:12], 8e8, 6e10)
    expected_N = make(mixture).fit(there.mixtures_RD, log_linear(there)).predict(new.mixtures_RD)
    found_N = Nested(mixture=mixture).fit(runs, log_linear(runs)).predict(new)
    np.testing.assert_allclose(found_N, expected_N, atol=1e-3)


def test_water_needs_a_metric_for_each_domain() -> None:
    runs = ladder((1e10,))
    Y_RM = np.tile(log_linear(runs)[:, None], DOMAINS)
    with pytest.raises(SwarmError, match="one metric for each of 3 domains .*got 2 metrics"):
        DaiZheng().fit(runs, Y_RM[:, :2])
    with pytest.raises(SwarmError, match="own .0, 0, 1."):
        DaiZheng(own=[0, 0, 1]).fit(runs, Y_RM)


W_MD = np.array([[1.0, 0.1, 0.03], [0.05, 1.0, 0.1]])


def two_sizes(X_ND: FloatArray, level: float, bend: float) -> FloatArray:
    return level + 1.5 * level * (0.01 + (W_MD * (X_ND[:, None] + 0.003) ** bend).sum(axis=2)) ** -0.2


def small_law() -> EffData:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(DOMAINS), 128)
    return EffData(own=[0, 1]).fit(X_RD, two_sizes(X_RD, 1.3, 0.6) + 0.01 * rng.normal(size=(128, 2)))


def test_a_few_large_runs_move_the_small_sizes_law() -> None:
    rng, small = np.random.default_rng(1), small_law()
    X_RD, new_ND = rng.dirichlet(np.ones(DOMAINS), 4), rng.dirichlet(np.ones(DOMAINS), 200)
    law = Transfer(small).fit(X_RD, two_sizes(X_RD, 1.0, 0.65))
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    error_NM = np.abs(P_NM - two_sizes(new_ND, 1.0, 0.65))
    assert error_NM.mean() < 0.1 * np.abs(small.predict(new_ND) - two_sizes(new_ND, 1.0, 0.65)).mean()
    assert (error_NM < 1.645 * std_NM).mean() >= 0.85
    assert np.isfinite(std_NM).all()


def test_many_large_runs_overrule_the_small_size() -> None:
    X_RD = np.random.default_rng(2).dirichlet(np.ones(DOMAINS), 200)
    Y_RM = two_sizes(X_RD, 1.0, 0.9)
    error = np.abs(Transfer(small_law()).fit(X_RD, Y_RM).predict(X_RD) - Y_RM).mean()
    assert error < 0.03 * Y_RM.std(axis=0).mean()


def test_without_drift_only_the_level_moves() -> None:
    small = small_law()
    X_RD = np.random.default_rng(2).dirichlet(np.ones(DOMAINS), 20)
    Y_RM = two_sizes(X_RD, 1.0, 0.9)
    moved_RM = Transfer(small, drift=1e-6).fit(X_RD, Y_RM).predict(X_RD) - small.predict(X_RD)
    np.testing.assert_allclose(moved_RM, np.broadcast_to(moved_RM[0], moved_RM.shape), atol=1e-4)
    np.testing.assert_allclose(moved_RM[0], (Y_RM - small.predict(X_RD)).mean(axis=0), atol=0.05)


def test_a_step_in_level_alone_leaves_the_optimum() -> None:
    rng = np.random.default_rng(3)
    X_RD, new_ND = rng.dirichlet(np.full(DOMAINS, 20.0), 64), rng.dirichlet(np.full(DOMAINS, 20.0), 30)
    small = EffData(own=[0, 1]).fit(X_RD, two_sizes(X_RD, 1.0, 0.6))
    spread, step = small.predict(X_RD).std(axis=0), 0.5
    few_RD = X_RD[:3]
    law = Transfer(small).fit(few_RD, two_sizes(few_RD, 1.0, 0.6) - step)
    assert step > 10 * spread.max()
    error_NM = law.predict(new_ND) - (two_sizes(new_ND, 1.0, 0.6) - step)
    assert np.abs(error_NM).max() < 0.25 * spread.min()


def test_transferred_law_has_the_derivatives_and_draws_of_what_it_predicts() -> None:
    X_RD = np.random.default_rng(2).dirichlet(np.ones(DOMAINS), 8)
    law, p_ND, step = Transfer(small_law()).fit(X_RD, two_sizes(X_RD, 1.0, 0.65)), X_RD[:2], 1e-6
    weights_M = np.array([0.3, 0.7])
    value, slope_D, hessian_DD = law.curve(weights_M)(p_ND[0])
    assert value == pytest.approx(float(law.predict(p_ND[:1])[0] @ weights_M), abs=1e-12)
    for j, e_D in enumerate(step * np.eye(DOMAINS)):
        numeric_NM = (law.predict(p_ND + e_D) - law.predict(p_ND - e_D)) / (2 * step)
        np.testing.assert_allclose(law.gradient(p_ND)[:, :, j], numeric_NM, rtol=1e-5)
        above, below = (law.curve(weights_M)(p_ND[0] + way * e_D)[1] for way in (1, -1))
        np.testing.assert_allclose(hessian_DD[j], (above - below) / (2 * step), rtol=1e-4)
    np.testing.assert_allclose(slope_D, weights_M @ law.gradient(p_ND[:1])[0], rtol=1e-12)
    drawn = np.array([other.predict(p_ND) for other in law.draw(np.random.default_rng(0), 200)])
    noise_M = np.sqrt(law.fitted_.posterior.noise_M) * law.fitted_.scale_M
    unsure_NM = np.sqrt(law.predict(p_ND, return_std=True)[1] ** 2 - noise_M**2)
    np.testing.assert_allclose(drawn.std(axis=0), unsure_NM, rtol=0.35)


def test_transfer_refuses_what_it_cannot_use() -> None:
    small, X_RD = small_law(), np.random.default_rng(2).dirichlet(np.ones(DOMAINS), 5)
    with pytest.raises(SwarmError, match="1 good runs are too few"):
        Transfer(small).fit(X_RD[:1], two_sizes(X_RD[:1], 1, 0.6))
    with pytest.raises(SwarmError, match="of 3 domains and 2 metrics .got 3 and 1"):
        Transfer(small).fit(X_RD, two_sizes(X_RD, 1, 0.6)[:, 0])
    with pytest.raises(SwarmError, match="of 3 domains and 2 metrics .got 4 and 2"):
        Transfer(small).fit(np.hstack([X_RD, np.zeros((5, 1))]), two_sizes(X_RD, 1, 0.6))
