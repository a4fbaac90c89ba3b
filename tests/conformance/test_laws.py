"""Every law passes the same battery. A new law is one row of ROWS."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from mixopt.errors import JobError, SwarmError
from mixopt.laws import LAWS, Capabilities, capabilities, make, make_convex, summary
from mixopt.laws.base import ConvexLaw, Law, PosteriorLaw, SmoothLaw
from mixopt.laws.lightgbm import LightGBM
from mixopt.laws.mixinglaws import MixingLaws, ThirdForm
from mixopt.mixture import FloatArray
from mixopt.quality import spearman

RUNS, DOMAINS, METRICS = 64, 5, 2


@dataclass(frozen=True)
class Row:
    """A law's own kind of truth, and how well 64 noisy runs of it must be enough to rank new mixtures.

    `spreads`: surer inside the swarm than outside of it. `ties`: metrics learn from each other, and one changes a
    little when another is there. `settings`: a listed law with other knobs, or one that is not listed.
    """

    truth: Callable[[FloatArray, FloatArray], FloatArray]
    rank: float
    spreads: bool = True
    ties: bool = False
    settings: Callable[[], Law] | None = None


EXACT = ("linear", "quadratic", "sparse_quadratic")
WIDENED = ("auto", "effdata", "gp")  # deviations hold a factor from left-out runs, and draws are of several laws
OFFERED: dict[str, tuple[Literal["always", "sometimes", "never"], bool, bool, int]] = {
    "auto": ("never", True, True, 11),
    "effdata": ("always", True, True, 8),
    "gp": ("never", True, True, 10),
    "lightgbm": ("never", False, False, 16),
    "linear": ("always", True, True, 5),
    "loglinear": ("always", True, True, 12),
    "autoscale": ("always", True, True, 10),
    "bimix": ("always", True, True, 10),
    "implicit": ("always", True, True, 11),
    "mixinglaws": ("always", True, True, 10),
    "quadratic": ("sometimes", True, True, 10),
    "sparse_quadratic": ("sometimes", True, True, 10),
}


def linear(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 3 + X_ND @ A_MD.T


def exponential(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 1.5 + np.exp(2 * X_ND @ A_MD.T)


def steps(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 3 + (X_ND > 0.2) @ A_MD.T


def power(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 1 + 2 * (0.001 + np.sqrt(X_ND + 0.001) @ np.exp(A_MD - 1).T) ** -0.5


def exponentials(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 1.5 + np.exp(-3 * X_ND[:, None, :] * np.abs(A_MD)).sum(axis=2)


def pairs(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 3 + X_ND @ A_MD.T + 4 * X_ND[:, :1] * X_ND[:, 1:2]


def powers(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 1 + (0.2 * np.abs(A_MD) * (X_ND[:, None, :] + 0.001) ** -0.3).sum(axis=2)


def offset_powers(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 1 + ((0.01 + X_ND[:, None, :]) ** (-0.2 * np.abs(A_MD))).sum(axis=2)


def product(X_ND: FloatArray, A_MD: FloatArray) -> FloatArray:
    return 2 + np.exp(np.outer(np.prod(DOMAINS * X_ND, axis=1), [-2.0, 0.5]))


ROWS = {
    "effdata": Row(power, 0.995, ties=True),
    "lightgbm": Row(steps, 0.9, spreads=False),
    "linear": Row(linear, 0.995),
    "loglinear": Row(exponential, 0.995),
    "gp": Row(pairs, 0.99),
    "auto": Row(power, 0.995, ties=True),
    "autoscale": Row(offset_powers, 0.99),
    "bimix": Row(powers, 0.99),
    "implicit": Row(exponential, 0.98),
    "mixinglaws": Row(exponentials, 0.99),
    "quadratic": Row(pairs, 0.99),
    "sparse_quadratic": Row(pairs, 0.98),
    "lightgbm climb": Row(steps, 0.9, spreads=False, settings=lambda: LightGBM("climb")),
    "mixinglaws m2": Row(exponentials, 0.98, settings=lambda: MixingLaws("m2")),
    "mixinglaws m3": Row(product, 0.9, spreads=False, settings=ThirdForm),
}


def made(name: str) -> Law:
    settings = ROWS[name].settings
    return make(name) if settings is None else settings()


CONVEX = [name for name in ROWS if isinstance(made(name), ConvexLaw)]
SMOOTH = [name for name in ROWS if isinstance(made(name), SmoothLaw)]
POSTERIOR = [name for name in ROWS if isinstance(made(name), PosteriorLaw)]


def swarm(name: str, runs: int = RUNS, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    A_MD = np.random.default_rng(7).normal(size=(METRICS, DOMAINS))
    X_RD = rng.dirichlet(np.ones(DOMAINS), runs)
    return X_RD, ROWS[name].truth(X_RD, A_MD) + 0.01 * rng.normal(size=(runs, METRICS))


@pytest.fixture(params=sorted(ROWS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def law(name: str) -> Law:
    return made(name)


@pytest.mark.parametrize("name", LAWS)
def test_every_law_has_a_row_and_a_summary(name: str) -> None:
    assert name in ROWS
    assert summary(name).endswith(".")
    assert len(summary(name)) <= 120


def test_ranks_new_mixtures_of_its_own_truth(name: str, law: Law) -> None:
    new_ND, truth_NM = swarm(name, 500, seed=1)
    P_NM = law.fit(*swarm(name)).predict(new_ND)
    for m in range(METRICS):
        assert (spearman(P_NM[:, m], truth_NM[:, m]) or 0) >= ROWS[name].rank


def test_predictions_follow_the_shape_of_y(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    both = law.fit(X_RD, Y_RM).predict(X_RD[:7])
    column = law.fit(X_RD, Y_RM[:, :1]).predict(X_RD[:7])
    flat = law.fit(X_RD, Y_RM[:, 0]).predict(X_RD[:7])
    assert (both.shape, column.shape, flat.shape) == ((7, METRICS), (7, 1), (7,))
    np.testing.assert_allclose(both[:, 0], flat, rtol=0.01 if ROWS[name].ties else 1e-6)
    np.testing.assert_array_equal(column[:, 0], flat)


def test_standard_deviations_leave_the_mean_alone_and_follow_its_shape(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    alone = law.fit(X_RD, Y_RM).predict(X_RD[:7])
    both, std = law.predict(X_RD[:7], return_std=True)
    np.testing.assert_array_equal(both, alone)
    assert std.shape == (7, METRICS)
    flat, flat_std = law.fit(X_RD, Y_RM[:, 0]).predict(X_RD[:7], return_std=True)
    assert flat.shape == flat_std.shape == (7,)
    np.testing.assert_allclose(std[:, 0], flat_std, rtol=0.3 if ROWS[name].ties else 1e-5)


def test_standard_deviations_are_positive_and_finite_anywhere(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    Y_RM[:, 1] = 2.5
    anywhere_ND = np.vstack([X_RD, np.eye(DOMAINS), np.full(DOMAINS, 1 / DOMAINS)])
    std_NM = law.fit(X_RD, Y_RM).predict(anywhere_ND, return_std=True)[1]
    assert np.isfinite(std_NM).all()
    assert (std_NM > 0).all()
    assert std_NM[:, 1].max() < 1e-3


def test_intervals_hold_nine_new_runs_in_ten(name: str, law: Law) -> None:
    new_ND, observed_NM = swarm(name, 200, seed=1)
    P_NM, std_NM = law.fit(*swarm(name)).predict(new_ND, return_std=True)
    covered_M = (np.abs(P_NM - observed_NM) < 1.645 * std_NM).mean(axis=0)
    assert (covered_M >= 0.75).all(), covered_M


def test_it_knows_where_it_has_not_been(name: str, law: Law) -> None:
    if not ROWS[name].spreads:
        pytest.skip("trees, and a product with a zero in it, say the same everywhere far outside")
    X_RD, Y_RM = swarm(name)
    near_R = X_RD.max(axis=1) < 0.5
    law.fit(X_RD[near_R], Y_RM[near_R])
    inside_M = law.predict(X_RD[near_R].mean(axis=0)[None], return_std=True)[1][0]
    outside_MD = law.predict(np.eye(DOMAINS), return_std=True)[1].T
    assert (outside_MD.mean(axis=1) > 1.2 * inside_M).all()


def test_the_same_runs_give_the_same_bits_and_forget_the_last_fit(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    first = law.fit(X_RD, Y_RM).predict(X_RD)
    law.fit(*swarm(name, seed=5))
    np.testing.assert_array_equal(law.fit(X_RD, Y_RM).predict(X_RD), first)
    np.testing.assert_array_equal(copy.deepcopy(law).predict(X_RD), first)


def test_fitting_leaves_its_input_alone(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    kept = X_RD.copy(), Y_RM.copy()
    law.fit(X_RD, Y_RM).predict(X_RD)
    np.testing.assert_array_equal(X_RD, kept[0])
    np.testing.assert_array_equal(Y_RM, kept[1])


def test_the_order_of_runs_does_not_matter(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    order_R = np.random.default_rng(2).permutation(RUNS)
    expected = law.fit(X_RD, Y_RM).predict(X_RD)
    np.testing.assert_allclose(law.fit(X_RD[order_R], Y_RM[order_R]).predict(X_RD), expected, rtol=1e-6)


def test_the_order_of_domains_does_not_matter(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    order_D = np.random.default_rng(3).permutation(DOMAINS)
    expected = law.fit(X_RD, Y_RM).predict(X_RD)
    np.testing.assert_allclose(law.fit(X_RD[:, order_D], Y_RM).predict(X_RD[:, order_D]), expected, rtol=1e-6)


def test_a_constant_metric_is_predicted_as_such(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    Y_RM[:, 1] = 2.5
    P_NM = law.fit(X_RD, Y_RM).predict(swarm(name, 50, seed=4)[0])
    np.testing.assert_allclose(P_NM[:, 1], 2.5, atol=1e-3)
    assert np.ptp(P_NM[:, 0]) > 0.1


def test_the_fewest_runs_are_enough_and_one_less_is_refused(name: str, law: Law) -> None:
    needed = law.min_runs(DOMAINS)
    X_RD, Y_RM = swarm(name, needed)
    assert np.ptp(law.fit(X_RD, Y_RM).predict(X_RD)[:, 0]) > 0
    with pytest.raises(SwarmError, match=rf"{needed - 1} good runs .*needs at least {needed}.*proxies.count"):
        law.fit(X_RD[1:], Y_RM[1:])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(name: str, law: Law, bad: float) -> None:
    X_RD, Y_RM = swarm(name)
    Y_RM[11, 1] = bad
    with pytest.raises(SwarmError, match="metric is not finite in row 11"):
        law.fit(X_RD, Y_RM)
    X_RD[3, 0] = bad
    with pytest.raises(SwarmError, match="not finite in row"):
        law.fit(X_RD, np.ones(RUNS))


def test_rows_that_are_not_mixtures_are_refused(name: str, law: Law) -> None:
    X_RD, Y_RM = swarm(name)
    X_RD[4] *= 1.01
    with pytest.raises(SwarmError, match="sum to 1 .*row 4"):
        law.fit(X_RD, Y_RM)
    with pytest.raises(SwarmError, match="shapes"):
        law.fit(X_RD, Y_RM[:-1])


def test_mixtures_of_another_shape_are_refused(name: str, law: Law) -> None:
    law.fit(*swarm(name))
    for X_ND in (np.full(DOMAINS, 1 / DOMAINS), np.ones((3, 1)), np.full((3, DOMAINS + 1), 1 / (DOMAINS + 1))):
        with pytest.raises(SwarmError, match=rf"mixtures \[N, {DOMAINS}\] are needed"):
            law.predict(X_ND)


def test_domains_that_always_move_together_do_no_harm(name: str, law: Law) -> None:
    if isinstance(law, ThirdForm):
        pytest.skip("a product of all proportions changes when one is split")
    X_RD, Y_RM = swarm(name)
    twice_RD = np.hstack([X_RD[:, :1] / 2, X_RD[:, :1] / 2, X_RD[:, 1:]])
    P_NM = law.fit(twice_RD, Y_RM).predict(twice_RD)
    np.testing.assert_allclose(P_NM, law.fit(X_RD, Y_RM).predict(X_RD), atol=0.05)


@pytest.mark.parametrize("name", CONVEX)
def test_curve_is_the_weighted_mean_with_its_derivatives(name: str) -> None:
    law = made(name).fit(*swarm(name))
    assert isinstance(law, ConvexLaw)
    weights_M, p_D, step = np.array([0.3, 0.7]), np.full(DOMAINS, 1 / DOMAINS), 1e-5
    curve = law.curve(weights_M)
    value, gradient_D, hessian_DD = curve(p_D)
    assert value == pytest.approx(float(law.predict(p_D[None])[0] @ weights_M), rel=1e-12)
    for j, e_D in enumerate(step * np.eye(DOMAINS)):
        up, down = curve(p_D + e_D), curve(p_D - e_D)
        assert gradient_D[j] == pytest.approx((up[0] - down[0]) / (2 * step), abs=1e-7)
        np.testing.assert_allclose(hessian_DD[j], (up[1] - down[1]) / (2 * step), atol=1e-6)
    assert np.linalg.eigvalsh(hessian_DD).min() >= -1e-12


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_is_that_of_predict_by_every_proportion(name: str) -> None:
    law, step = made(name).fit(*swarm(name)), 1e-6
    assert isinstance(law, SmoothLaw)
    inside_ND = 0.9 * np.random.default_rng(6).dirichlet(np.full(DOMAINS, 3.0), 20) + 0.1 / DOMAINS
    moves = step * np.eye(DOMAINS)
    slopes = [(law.predict(inside_ND + e_D) - law.predict(inside_ND - e_D)) / (2 * step) for e_D in moves]
    found_NMD = law.gradient(inside_ND)
    assert found_NMD.shape == (20, METRICS, DOMAINS)
    np.testing.assert_allclose(found_NMD, np.stack(slopes, axis=2), rtol=1e-5, atol=1e-6)
    single_NMD = law.fit(swarm(name)[0], swarm(name)[1][:, 0]).gradient(inside_ND)
    np.testing.assert_allclose(single_NMD, found_NMD[:, :1], rtol=0.05 if ROWS[name].ties else 1e-5)


@pytest.mark.parametrize("name", [name for name in POSTERIOR if name not in WIDENED])
def test_draws_spread_as_the_deviations_say_and_are_laws_of_the_same_kind(name: str) -> None:
    """Deviations without the noise of a run, which is what those of a drawn law are; exact where the law is linear.

    Elsewhere deviations are a first-order approximation, which draws are not held to at every mixture.
    """
    new_ND = swarm(name, 20, seed=1)[0]
    law = made(name).fit(*swarm(name))
    assert isinstance(law, PosteriorLaw)
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    drawn = law.draw(np.random.default_rng(0), 400)
    noise_NM = drawn[0].predict(new_ND, return_std=True)[1]
    unsure_NM = np.sqrt(std_NM**2 - noise_NM**2)
    drawn_SNM = np.array([one.predict(new_ND) for one in drawn])
    ratio_NM = drawn_SNM.std(axis=0) / unsure_NM
    assert np.median(ratio_NM) == pytest.approx(1, abs=0.2)
    assert ratio_NM.min() > 0.8
    assert np.median(np.abs(drawn_SNM.mean(axis=0) - P_NM) / unsure_NM) < 0.5
    if name in EXACT:
        np.testing.assert_allclose(ratio_NM, 1, atol=0.15)  # four standard errors of 400 draws
        np.testing.assert_allclose(drawn_SNM.mean(axis=0), P_NM, atol=0.2 * unsure_NM.max())
    for kind, method in ((ConvexLaw, "curve"), (SmoothLaw, "gradient")):
        assert isinstance(drawn[0], kind) == isinstance(law, kind), method
    assert not np.allclose(drawn_SNM[0], drawn_SNM[1])
    again = law.draw(np.random.default_rng(0), 1)[0].predict(new_ND)
    assert again.shape == P_NM.shape
    np.testing.assert_array_equal(law.predict(new_ND), P_NM)


@pytest.mark.parametrize("name", sorted(WIDENED))
def test_draws_are_laws_around_their_own(name: str) -> None:
    """60 draws: means within half a deviation of the law's own, none clearly wider than a new run's deviation."""
    law = made(name).fit(*swarm(name))
    assert isinstance(law, PosteriorLaw)
    new_ND = swarm(name, 8, seed=1)[0]
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    draws = law.draw(np.random.default_rng(0), 60)
    drawn_KNM = np.array([drawn.predict(new_ND) for drawn in draws])
    assert (np.abs(drawn_KNM.mean(axis=0) - P_NM) < 0.5 * std_NM).all()
    assert (drawn_KNM.std(axis=0) < 1.3 * std_NM).all()
    assert (drawn_KNM.std(axis=0) > 0.05 * std_NM).all()
    np.testing.assert_array_equal(law.draw(np.random.default_rng(0), 1)[0].predict(new_ND), drawn_KNM[0])
    np.testing.assert_array_equal(law.predict(new_ND), P_NM)
    for kind in (SmoothLaw, ConvexLaw):
        assert isinstance(draws[0], kind) == isinstance(law, kind)


@pytest.mark.parametrize("name", [name for name in POSTERIOR if name in CONVEX])
def test_a_drawn_law_has_the_curve_of_its_own_predictions(name: str) -> None:
    law = made(name).fit(*swarm(name))
    assert isinstance(law, PosteriorLaw)
    p_D, weights_M = np.full(DOMAINS, 1 / DOMAINS), np.array([0.3, 0.7])
    for drawn in law.draw(np.random.default_rng(0), 3):
        assert isinstance(drawn, ConvexLaw)
        value, _, hessian_DD = drawn.curve(weights_M)(p_D)
        assert value == pytest.approx(float(drawn.predict(p_D[None])[0] @ weights_M), rel=1e-9)
        assert np.linalg.eigvalsh(hessian_DD).min() >= -1e-9


def test_what_each_law_offers() -> None:
    """Convex, gradient, draws, fewest runs for 10 domains. `docs/how-to-choose.md` says the same."""
    found = {name: capabilities(make(name)) for name in LAWS}
    assert found == {name: Capabilities(*row) for name, row in OFFERED.items()}
    assert capabilities(make("linear"), 40).min_runs == 20
    assert capabilities(ThirdForm()).convex == "never"
    for name in LAWS:
        assert capabilities(make(name)).smooth == hasattr(make(name), "gradient")


def test_few_runs_give_trees_more_than_a_constant() -> None:
    X_RD, Y_RM = swarm("lightgbm", 20)
    assert len(np.unique(make("lightgbm").fit(X_RD, Y_RM[:, 0]).predict(X_RD))) > 3


def test_trees_that_find_nothing_to_split_are_refused() -> None:
    X_RD = np.full((20, 2), 0.5)
    with pytest.raises(SwarmError, match="one constant"):
        make("lightgbm").fit(X_RD, np.arange(20.0))


def test_losses_below_zero_have_no_log_linear_law() -> None:
    X_RD, Y_RM = swarm("loglinear")
    with pytest.raises(SwarmError, match="must be positive"):
        make("loglinear").fit(X_RD, Y_RM - 10)


def test_unknown_law_names_the_nearest() -> None:
    with pytest.raises(JobError, match="'loglinear'"):
        make("log-linear")
    with pytest.raises(JobError, match="not convex; convex: " + ", ".join(n for n in LAWS if n in CONVEX)):
        make_convex("lightgbm")
    with pytest.raises(JobError, match="regmix or climb"):
        LightGBM("regmx")  # type: ignore[arg-type]


def test_the_list_of_laws_does_not_load_lightgbm() -> None:
    code = "import sys, mixopt.laws; sys.exit('lightgbm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
