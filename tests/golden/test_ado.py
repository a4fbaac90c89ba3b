"""ADO's rule with numbers worked out by hand, its fit on curves that are known, its smoothing against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter

from mixopt.errors import JobError
from mixopt.mixture import Mixture
from mixopt.policies.ado import ADO, FIRST, WINDOW, blend, fit, lifted, preference, slope, smoothed
from mixopt.policies.limited import Limited
from mixopt.policy import Feedback

NAMES = ("a", "b", "c")
MU = np.array([0.5, 0.3, 0.2])


def test_preference_and_mixture() -> None:
    """mu = h = (.5, .3, .2), L = (3, 2.5, 2), eps = (1.8, 1.5, 1.6), alpha = (.3, .2, .4), s = 1/2, n the same for all."""
    beta_D = np.array([3, 2.5, 2]) - [1.8, 1.5, 1.6]  # with n = 1 the law is eps + beta
    law_D3 = np.column_stack([(1.8, 1.5, 1.6), beta_D, (0.3, 0.2, 0.4)])
    rho_D = preference(MU, MU, slope(law_D3, 1.0), 0.5)
    assert rho_D == pytest.approx([0.729589, 0.188379, 0.082032], abs=1e-6)
    assert blend(MU, rho_D, 0.1) == pytest.approx([0.522959, 0.288838, 0.188203], abs=1e-6)


def test_slope_is_the_derivative_of_the_law() -> None:
    law, n, h = (1.5, 2.0, 0.3), 0.4, 1e-6
    drop = law[1] * (n - h) ** -law[2] - law[1] * (n + h) ** -law[2]
    assert slope(np.array([law]), n) == pytest.approx([drop / (2 * h)], rel=1e-6)


@pytest.mark.parametrize("law", [(2.0, 0.5, 0.3), (1.7, 0.9, 0.7), (2.4, 0.2, 0.1)])
def test_a_known_curve_is_found(law: tuple[float, float, float]) -> None:
    """And a loss of one round that is off does not matter: the fit is robust."""
    eps, beta, alpha = law
    n_T = (np.arange(60) + 0.5) / 60
    y_T = eps + beta * n_T**-alpha
    laws = fit([np.column_stack([n_T, y_T]), np.column_stack([n_T[3:], y_T[3:]])], 0.5)
    assert slope(laws, 1.0) == pytest.approx([alpha * beta] * 2, rel=0.05)
    found = laws[1]  # without the steep beginning, which smoothing bends
    assert found[0] + found[1] * n_T[3:] ** -found[2] == pytest.approx(y_T[3:], rel=2e-3)
    noisy = y_T + np.where(np.arange(60) == 30, 0.3, 0.0)
    assert slope(fit([np.column_stack([n_T, noisy])], 0.5), 1.0) == pytest.approx([alpha * beta], rel=0.1)


def test_smoothing_is_scipys_within_the_window() -> None:
    y_T = np.random.default_rng(0).normal(size=40)
    first_T = np.clip(np.arange(40) - WINDOW // 2, 0, 40 - WINDOW)
    within = [(min(y_T[i : i + WINDOW]), max(y_T[i : i + WINDOW])) for i in first_T]
    assert smoothed(y_T) == pytest.approx(np.clip(savgol_filter(y_T, WINDOW, 3), *np.transpose(within)), abs=1e-12)
    assert smoothed(y_T[: WINDOW - 1]).tolist() == y_T[: WINDOW - 1].tolist()


def test_losses_stay_positive_where_the_polynomial_falls_below_zero() -> None:
    """A loss that drops to next to nothing at once: its logarithm is taken later."""
    y_T = np.array([9.0, 9.0, 9.0, 1e-3, 1e-3, 1e-3, 1e-3])
    assert savgol_filter(y_T, WINDOW, 3).min() < 0
    assert smoothed(y_T).min() == 1e-3
    assert np.isfinite(fit([np.column_stack([np.linspace(0.1, 1, 7), y_T])], 0.5)).all()


def test_a_loss_that_rises_has_next_to_no_slope() -> None:
    n_T = (np.arange(20) + 0.5) / 20
    assert slope(fit([np.column_stack([n_T, 2 + n_T])], 0.5), 1.0)[0] < 1e-3
    assert preference(MU, MU, np.zeros(3), 0.5).tolist() == MU.tolist()


def test_the_minimum_is_exact() -> None:
    """(.9, .0995, .0005) and .05: the last is raised, the others share .95 as 9 to .995."""
    w_D = lifted(np.array([0.9, 0.0995, 0.0005]), 0.05)
    assert w_D == pytest.approx([0.95 * 0.9 / 0.9995, 0.95 * 0.0995 / 0.9995, 0.05])
    again_D = lifted(np.array([0.94, 0.055, 0.005]), 0.0545)  # lowering the second takes it below as well
    assert again_D == pytest.approx([1 - 2 * 0.0545, 0.0545, 0.0545])
    with pytest.raises(JobError, match=r"method\.minimum: 0\.5 for each of 3 domains"):
        ADO(minimum=0.5).init(("a", "b", "c"), Feedback(0, 100, {}))


def test_until_there_are_laws_it_is_the_prior_and_undrawn_domains_keep_theirs() -> None:
    """Only `c` has no loss: what the others have together does not change, what each has does, and `c` joins them later."""
    prior = {"a": 0.5, "b": 0.3, "c": 0.2}
    policy = ADO(prior=prior, rounds=20)
    state = policy.init(NAMES, Feedback(0, 2000, {}))
    for k in range(1, 15):
        losses = np.array([3 - 0.1 * k, 2.0 / k, np.nan if k < 6 else 5.0 / k])
        state = policy.update(state, Feedback(100 * k, 2000, {"train": losses}))
        assert (dict(state.now) == pytest.approx(prior)) == (k < FIRST)
        assert (state.now["c"] == pytest.approx(0.2)) == (k < 5 + FIRST)
    assert [len(past) for past in state.losses] == [14, 14, 9]


def test_a_domain_that_may_not_be_drawn_does_not_stop_the_others() -> None:
    policy = Limited(ADO(), {"c": 0.0}, 4.0)
    state = policy.init(NAMES, Feedback(0, 6000, {}))
    for k in range(1, 21):
        losses = np.array([3 - 0.1 * k, 2.0 / k, np.nan])
        state = policy.update(state, Feedback(100 * k, 6000, {"train": losses}))
    p_D = policy.segment(state).mixture.array(NAMES)
    assert p_D[2] == 0
    assert abs(p_D[0] - p_D[1]) > 0.05


def test_h_is_what_was_trained() -> None:
    """A round on (.5, .3, .2) that a limit made (.6, .4, 0): h = .9 mu + .1 of it."""
    policy = ADO(prior=dict(zip(NAMES, MU, strict=True)))
    state = policy.init(NAMES, Feedback(0, 6000, {}))
    trained = Mixture({"a": 0.6, "b": 0.4, "c": 0.0})
    asked, other = (
        policy.update(state, Feedback(100, 6000, {"train": np.ones(3)}, trained=now)).recent for now in (None, trained)
    )
    assert asked == pytest.approx(MU)
    assert other == pytest.approx([0.51, 0.31, 0.18])


def test_a_run_has_more_rounds_than_a_law_needs_losses() -> None:
    with pytest.raises(JobError, match=r"method\.rounds: must be at least 6 \(got 5\)"):
        ADO(rounds=FIRST)
