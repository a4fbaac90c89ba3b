"""The Gaussian process and the stack on awkward swarms; the gradient of what the process climbs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixopt.errors import SwarmError
from mixopt.laws import make
from mixopt.laws.auto import _weights
from mixopt.laws.effdata import EffData
from mixopt.laws.gp import GP
from mixopt.laws.lbfgs import minimise
from mixopt.laws.marginal import Inputs, evidence, noise
from mixopt.mixture import FloatArray

NAMES = ["gp", "auto"]


def swarm(runs: int, domains: int, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    X_RD = rng.dirichlet(np.ones(domains), runs)
    X_RD = np.where(X_RD * domains < 0.3, 0.0, X_RD)
    X_RD /= X_RD.sum(axis=1, keepdims=True)
    return X_RD, 2 + (X_RD[:, :2] + 0.01) ** -0.3 + 0.01 * rng.normal(size=(runs, 2))


def sane(law: GP, X_ND: FloatArray) -> None:
    P_NM, std_NM = law.predict(X_ND, return_std=True)
    assert np.isfinite(P_NM).all()
    assert np.isfinite(std_NM).all()
    assert (std_NM > 0).all()


def test_the_gradient_of_the_evidence() -> None:
    X_RD, Y_RM = swarm(30, 4)
    y_R, h_R, inputs = (Y_RM[:, 0] - Y_RM[:, 0].mean()) / Y_RM[:, 0].std(), X_RD[:, 0], Inputs.of(X_RD, 1e-3)
    theta_P = np.r_[np.full(4, 0.7), np.full(4, -6.0), 0.1, -0.2, -2.0, -2.5]
    gradient_P = evidence(inputs, X_RD, h_R, y_R, theta_P)[1]
    for p, e_P in enumerate(1e-5 * np.eye(12)):
        up, down = (evidence(inputs, X_RD, h_R, y_R, theta_P + s * e_P)[0] for s in (1, -1))
        assert gradient_P[p] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-6)


def test_every_problem_goes_down_by_itself() -> None:
    target_BP = np.array([[1.0, -2.0, 0.5], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    bend_P = np.array([1.0, 10.0, 100.0])
    x_BP = minimise(
        lambda x, which: ((bend_P * (x - target_BP[which]) ** 2).sum(axis=1), 2 * bend_P * (x - target_BP[which])),
        np.zeros((3, 3)),
        30,
    )
    np.testing.assert_allclose(x_BP, target_BP, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_duplicates_and_absent_domains(name: str) -> None:
    X_RD, Y_RM = swarm(20, 5)
    X_RD[:, 4] = 0
    X_RD /= X_RD.sum(axis=1, keepdims=True)
    X_RD, Y_RM = np.vstack([X_RD, X_RD, X_RD[:1]]), np.vstack([Y_RM, Y_RM, Y_RM[:1]])
    sane(make(name).fit(X_RD, Y_RM), np.vstack([X_RD, np.eye(5)]))


@pytest.mark.parametrize("name", NAMES)
def test_all_runs_the_same_mixture(name: str) -> None:
    X_RD, Y_RM = np.full((20, 4), 0.25), 3 + np.random.default_rng(0).normal(size=(20, 2))
    law = make(name).fit(X_RD, Y_RM)
    sane(law, np.eye(4))
    np.testing.assert_allclose(law.predict(X_RD[:1])[0], Y_RM.mean(axis=0), atol=0.1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_unit_of_a_metric_does_not_matter(name: str, scale: float) -> None:
    X_RD, Y_RM = swarm(24, 4)
    expected = make(name).fit(X_RD, Y_RM).predict(X_RD)
    np.testing.assert_allclose(make(name).fit(X_RD, scale * Y_RM).predict(X_RD), scale * expected, rtol=1e-3)


def test_two_hundred_domains() -> None:
    X_RD, Y_RM = swarm(120, 200)
    sane(GP(iterations=5).fit(X_RD, Y_RM), np.vstack([X_RD, np.eye(200)]))


def test_a_mean_is_learned_first_and_left_as_it_was() -> None:
    X_RD, Y_RM = swarm(40, 4)
    mean = EffData()
    law = GP(mean=mean).fit(X_RD, Y_RM)
    sane(law, np.vstack([X_RD, np.eye(4)]))
    assert not hasattr(mean, "theta_")
    new_RD, new_RM = swarm(200, 4, seed=1)
    assert np.abs(law.predict(new_RD) - new_RM).mean() < 0.03
    assert law.out_of_fold_[0].shape == Y_RM.shape


@pytest.mark.parametrize("name", NAMES)
def test_own_domains_are_those_of_the_metrics(name: str) -> None:
    X_RD, Y_RM = swarm(24, 4)
    with pytest.raises(SwarmError, match="own must be a domain or None for each of 2 metrics"):
        make(name, [0]).fit(X_RD, Y_RM)
    assert make("gp").fit(X_RD, Y_RM).own_.tolist() == make("gp", [0, None]).fit(X_RD, Y_RM).own_.tolist()


def test_weights_of_the_stack() -> None:
    e_RK = np.random.default_rng(0).normal(size=(500, 3)) * [1.0, 1.0, 30.0]
    w_K = _weights(e_RK, 0.05)
    assert w_K.sum() == pytest.approx(1)
    assert w_K[2] < 0.01
    assert w_K[0] == pytest.approx(0.5, abs=0.1)
    np.testing.assert_allclose(_weights(np.zeros((5, 3)), 0.05), 1 / 3, atol=1e-6)


def test_draws_of_a_process_are_its_posterior() -> None:
    """1000 draws: deviations within 10 % (the draws allow 2.2 %, the waves the rest), means within 0.15 deviations."""
    X_RD, Y_RM = swarm(30, 4)
    law, new_ND = GP().fit(X_RD, Y_RM), swarm(6, 4, seed=1)[0]
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    noise_NM = np.column_stack([noise(law._near(new_ND[:, law.columns_], m), law.theta_[m]) for m in range(2)])
    model_NM = np.sqrt(std_NM**2 - (law.scale_ * law.factor_) ** 2 * noise_NM)
    drawn_KNM = np.array([drawn.predict(new_ND) for drawn in law.draw(np.random.default_rng(0), 1000)])
    np.testing.assert_allclose(drawn_KNM.std(axis=0), model_NM, rtol=0.1)
    assert (np.abs(drawn_KNM.mean(axis=0) - P_NM) < 0.15 * model_NM).all()


def test_single_precision_is_enough_for_deviations() -> None:
    X_RD, Y_RM = swarm(260, 4)
    Y_RM += 0.03 * np.random.default_rng(1).normal(size=Y_RM.shape)
    law, new_ND = GP(iterations=10).fit(X_RD, Y_RM), swarm(200, 4, seed=1)[0]
    std_NM = law.predict(new_ND, return_std=True)[1]
    assert {told.inverse_RR.dtype.name for told in law.told_} == {"float32"}
    for m, told in enumerate(law.told_):
        exact_RR = np.linalg.inv(told.factor_RR).T
        law.told_[m] = replace(told, inverse_RR=exact_RR)
    np.testing.assert_allclose(std_NM, law.predict(new_ND, return_std=True)[1], rtol=0.01)


def test_far_off_runs_do_not_decide_the_weights_of_the_stack() -> None:
    e_RK = np.random.default_rng(0).normal(size=(200, 2)) * [1.0, 4.0]
    e_RK[:4, 0] = 60
    assert _weights(e_RK, 0.05)[0] > 0.7
