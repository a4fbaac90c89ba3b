"""Every scale law passes the same battery. A new one is one row of ROWS."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from mixopt.errors import JobError, SwarmError
from mixopt.mixture import FloatArray
from mixopt.scale_laws import SCALE_LAWS, make, summary
from mixopt.scale_laws.base import AtScale, Runs, ScaleLaw
from mixopt.scale_laws.dai_zheng import EPS, DaiZheng, fill
from mixopt.scale_laws.shukor import FLOOR

DOMAINS = 4
MIXTURES, SIZES, TOKENS = 14, (19e6, 85e6, 201e6), (1e10, 1.5e10, 3e10)
NEXT, LONGER = 302e6, 4e10
NOISE = 0.004
HALF = np.full(DOMAINS, 0.5)
RNG = np.random.default_rng(7)
W_MD, GAMMA_MD = np.exp(RNG.normal(size=(DOMAINS, DOMAINS)) - 1.5), RNG.uniform(0.3, 0.9, (DOMAINS, DOMAINS))
C_M, A_M, B_M = np.array([1.0, 2.0, 1.5, 1.8]), np.array([0.3, 0.35, 0.4, 0.33]), np.array([0.3, 0.4, 0.35, 0.5])
M_M = np.array([0.15, 0.2, 0.3, 0.1])


@dataclass(frozen=True)
class Row:
    """A law's own kind of truth; how well its noise-free runs must give the next size, in parts of the metrics' spread.

    `repeated`: the same for repeated text; a nested law follows runs along which text wears out, which is not its form.
    `own`: metrics are the domains' own losses. `smooth`: one fit for all questions, so that it falls in size and tokens.
    """

    truth: Callable[[Runs], FloatArray]
    exact: float
    repeated: float = 0.05
    own: bool = False
    smooth: bool = True


def parts(runs: Runs) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Relative sizes and tokens [R, 1], and the worth of the mixtures [R, M]."""
    s_RM = 0.01 + (W_MD * (runs.mixtures_RD[:, None] + 0.01) ** GAMMA_MD).sum(axis=2)
    return runs.parameters_R[:, None] / 85e6, runs.tokens_R[:, None] / 2e10, s_RM


def additive(runs: Runs) -> FloatArray:
    N_R1, D_R1, s_RM = parts(runs)
    return C_M + N_R1**-A_M + 0.8 * (D_R1 * s_RM) ** -B_M


def multiplicative(runs: Runs) -> FloatArray:
    N_R1, D_R1, s_RM = parts(runs)
    return C_M + 0.8 * s_RM**-M_M * (N_R1**-A_M + D_R1**-B_M)


def shukor(runs: Runs) -> FloatArray:
    N_R1, D_R1, _ = parts(runs)
    sum_RM = 0.3 * (np.exp(W_MD) * np.maximum(runs.mixtures_RD[:, None], FLOOR) ** GAMMA_MD).sum(axis=2)
    return C_M + 1 / sum_RM + 0.6 * N_R1**-A_M + 0.5 * D_R1**-B_M


def shukor_joint(runs: Runs) -> FloatArray:
    N_R1, D_R1, _ = parts(runs)
    x_RD = runs.mixtures_RD
    sum_RM = (np.exp(W_MD) * np.maximum(x_RD[:, None], FLOOR) ** GAMMA_MD).sum(axis=2)
    return C_M + 1 / sum_RM + (x_RD @ (0.3 + W_MD)) ** 1.2 * N_R1**-A_M + (x_RD @ (0.2 + W_MD.T)) ** 0.8 * D_R1**-B_M


def water(runs: Runs) -> FloatArray:
    N_R1, D_R1, _ = parts(runs)
    c, h_RD, least_1R = np.array([0.5, 0.8, 0.6, 0.7]), runs.mixtures_RD, np.full((1, len(runs)), 0.2)
    total_1R = (DOMAINS * N_R1[:, 0] + (DOMAINS - 1) * 0.2)[None]
    x_RD = fill(np.log(h_RD * c * A_M)[None], (A_M + 1)[None, None], least_1R, total_1R)[0]
    return C_M + c * x_RD**-A_M + 0.5 * (D_R1 * DOMAINS * (h_RD + EPS)) ** -B_M


def exponential(runs: Runs) -> FloatArray:
    """One exponent for sizes and one for tokens, exact floors, and log-linear mixtures at every scale."""
    N_R1, D_R1, _ = parts(runs)
    return C_M + np.exp(runs.mixtures_RD @ (2 * W_MD.T - 1)) * N_R1**-0.35 * D_R1**-0.3


ROWS = {
    "additive": Row(additive, 0.001),
    "multiplicative": Row(multiplicative, 0.001),
    "nested": Row(exponential, 0.001, repeated=0.15, smooth=False),
    "shukor": Row(shukor, 0.001),
    "shukor_joint": Row(shukor_joint, 0.005),
    "dai_zheng": Row(water, 0.001, own=True),
}


def ladder(seed: int = 0, sizes: tuple[float, ...] = SIZES, tokens: tuple[float, ...] = TOKENS) -> Runs:
    X_CD = np.random.default_rng(seed).dirichlet(np.ones(DOMAINS), MIXTURES)
    ones, count = np.ones(MIXTURES), len(sizes) * len(tokens)
    return Runs(
        np.tile(X_CD, (count, 1)),
        np.concatenate([N * ones for N in sizes for _ in tokens]),
        np.concatenate([T * ones for _ in sizes for T in tokens]),
    )


def measured(name: str, runs: Runs, noise: float = NOISE, seed: int = 5) -> FloatArray:
    Y_RM = ROWS[name].truth(runs)
    return Y_RM + noise * np.random.default_rng(seed).normal(size=Y_RM.shape)


def flat(name: str) -> None:
    if ROWS[name].own:
        pytest.skip("needs a metric for each domain")


@pytest.fixture(params=sorted(SCALE_LAWS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def law(name: str) -> ScaleLaw:
    return make(name)


def test_every_law_has_a_row_a_summary_and_its_abilities(name: str, law: ScaleLaw) -> None:
    assert name in ROWS
    assert summary(name).endswith(".")
    assert len(summary(name)) <= 120
    assert law.scale_aware is True
    assert law.repetition_aware is True


def test_its_own_truth_is_found_at_a_size_and_mixtures_that_it_has_not_seen(name: str, law: ScaleLaw) -> None:
    runs, new = ladder(), ladder(1, (NEXT,), (TOKENS[-1], LONGER))
    truth_NM = measured(name, new, 0)
    error_NM = np.abs(law.fit(runs, measured(name, runs, 0)).predict(new) - truth_NM)
    assert (error_NM.mean(axis=0) <= ROWS[name].exact * truth_NM.std(axis=0)).all(), error_NM.mean(0) / truth_NM.std(0)


def test_with_noise_it_is_within_its_standard_deviations(name: str, law: ScaleLaw) -> None:
    runs, new = ladder(), ladder(1, (NEXT,), (TOKENS[-1], LONGER))
    P_NM, std_NM = law.fit(runs, measured(name, runs)).predict(new, return_std=True)
    observed_NM = measured(name, new, seed=6)
    assert (np.abs(P_NM - observed_NM) < 1.645 * std_NM).mean() >= 0.75
    assert np.median(std_NM) < 0.5 * observed_NM.std(axis=0).min()


def test_the_next_size_is_less_sure_than_those_that_were_trained(name: str, law: ScaleLaw) -> None:
    law.fit(ladder(), measured(name, ladder()))
    here, far = (law.predict(ladder(1, (N,), (TOKENS[1],)), return_std=True)[1].mean() for N in (SIZES[1], 20 * NEXT))
    assert far > 1.2 * here


def test_predictions_follow_the_shape_of_y(name: str, law: ScaleLaw) -> None:
    runs, Y_RM = ladder(), measured(name, ladder())
    some = ladder().take(slice(5))
    both, std_NM = law.fit(runs, Y_RM).predict(some, return_std=True)
    assert both.shape == std_NM.shape == (5, DOMAINS)
    np.testing.assert_array_equal(law.predict(some), both)
    flat(name)
    alone, std_N = law.fit(runs, Y_RM[:, 0]).predict(some, return_std=True)
    assert alone.shape == std_N.shape == (5,)
    np.testing.assert_allclose(alone, both[:, 0], rtol=0.01)


def test_standard_deviations_are_positive_and_finite_anywhere(name: str, law: ScaleLaw) -> None:
    law.fit(ladder(), measured(name, ladder()))
    corners_ND = np.vstack([np.eye(DOMAINS), np.full(DOMAINS, 1 / DOMAINS)])
    for parameters in (SIZES[0], NEXT):
        std_NM = law.predict(Runs.at(corners_ND, parameters, LONGER), return_std=True)[1]
        assert np.isfinite(std_NM).all()
        assert (std_NM > 0).all()


def test_a_constant_metric_is_predicted_as_such(name: str, law: ScaleLaw) -> None:
    Y_RM = measured(name, ladder())
    Y_RM[:, 1] = 2.5
    P_NM, std_NM = law.fit(ladder(), Y_RM).predict(ladder(1, (NEXT,), (LONGER,)), return_std=True)
    np.testing.assert_allclose(P_NM[:, 1], 2.5, atol=1e-3)
    assert std_NM[:, 1].max() < 1e-2
    assert np.ptp(P_NM[:, 0]) > 0.02


def test_more_parameters_and_more_tokens_never_hurt(name: str, law: ScaleLaw) -> None:
    law.fit(ladder(), measured(name, ladder()))
    X_CD = ladder(1).mixtures_RD[:MIXTURES]
    sizes = SIZES if not ROWS[name].smooth else np.geomspace(1e7, 1e9, 9)
    tokens = TOKENS if not ROWS[name].smooth else np.geomspace(5e9, 1e11, 9)
    by_size = np.stack([law.predict(Runs.at(X_CD, N, TOKENS[1])) for N in sizes])
    by_tokens = np.stack([law.predict(Runs.at(X_CD, SIZES[1], T)) for T in tokens])
    slack = 1e-9 if ROWS[name].smooth else 0.05
    assert (np.diff(by_size, axis=0) <= slack).all()
    assert (np.diff(by_tokens, axis=0) <= slack).all()
    assert (by_size[-1] < by_size[0]).all()
    assert (by_tokens[-1] < by_tokens[0]).all()


def test_the_same_runs_give_the_same_bits_and_leave_the_input_alone(name: str, law: ScaleLaw) -> None:
    runs, Y_RM = ladder(), measured(name, ladder())
    kept, new = copy.deepcopy((runs, Y_RM)), ladder(1, (NEXT,), (LONGER,))
    first = law.fit(runs, Y_RM).predict(new)
    law.fit(ladder(3), measured(name, ladder(3)))
    np.testing.assert_array_equal(law.fit(runs, Y_RM).predict(new), first)
    np.testing.assert_array_equal(copy.deepcopy(law).predict(new), first)
    np.testing.assert_array_equal(runs.mixtures_RD, kept[0].mixtures_RD)
    np.testing.assert_array_equal(runs.tokens_R, kept[0].tokens_R)
    np.testing.assert_array_equal(Y_RM, kept[1])


def test_the_order_of_runs_does_not_matter(name: str, law: ScaleLaw) -> None:
    runs, Y_RM, new = ladder(), measured(name, ladder()), ladder(1, (NEXT,), (LONGER,))
    expected = law.fit(runs, Y_RM).predict(new)
    order_R = np.random.default_rng(2).permutation(len(runs))
    np.testing.assert_allclose(law.fit(runs.take(order_R), Y_RM[order_R]).predict(new), expected, rtol=1e-5)


def test_the_order_of_domains_does_not_matter(name: str, law: ScaleLaw) -> None:
    runs, Y_RM, new = ladder(), measured(name, ladder()), ladder(1, (NEXT,), (LONGER,))
    expected = law.fit(runs, Y_RM).predict(new)
    order_D = np.random.default_rng(3).permutation(DOMAINS)
    if isinstance(law, DaiZheng):
        law.own = np.argsort(order_D).tolist()
    law.fit(replace(runs, mixtures_RD=runs.mixtures_RD[:, order_D]), Y_RM)
    found = law.predict(replace(new, mixtures_RD=new.mixtures_RD[:, order_D]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-9, 1e3])
def test_units_of_tokens_and_parameters_do_not_matter(name: str, law: ScaleLaw, factor: float) -> None:
    supply_D = np.array([3e9, 2e10, np.inf, 5e9])
    runs, new = replace(ladder(), available_D=supply_D), replace(ladder(1, (NEXT,), (LONGER,)), available_D=supply_D)
    expected = law.fit(runs, measured(name, runs)).predict(new, return_std=True)

    def scaled(runs: Runs) -> Runs:
        return Runs(runs.mixtures_RD, runs.parameters_R * factor, runs.tokens_R * factor, supply_D * factor)

    found = law.fit(scaled(runs), measured(name, runs)).predict(scaled(new), return_std=True)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-3)


def test_endless_supply_is_no_repetition(name: str, law: ScaleLaw) -> None:
    new = ladder(1, (NEXT,), (LONGER,))
    law.fit(ladder(), measured(name, ladder()))
    endless = replace(new, available_D=np.full(DOMAINS, np.inf))
    np.testing.assert_allclose(law.predict(endless), law.predict(new), rtol=1e-9)


def test_repeated_text_is_worth_less_in_fit_and_prediction(name: str, law: ScaleLaw) -> None:
    supply_D = np.array([4e9, 2e10, np.inf, 5e9])
    runs, new = (
        replace(ladder(), available_D=supply_D),
        replace(ladder(1, (SIZES[-1],), (LONGER,)), available_D=supply_D),
    )
    law.fit(runs, measured(name, runs.fresh(), 0))
    truth_NM = measured(name, new.fresh(), 0)
    error_NM = np.abs(law.predict(new) - truth_NM)
    assert (error_NM.mean(axis=0) <= ROWS[name].repeated * truth_NM.std(axis=0)).all()
    once, again = (
        Runs.at(HALF[None] / 2, SIZES[-1], LONGER),
        Runs.at(HALF[None] / 2, SIZES[-1], LONGER, np.full(4, 2e8)),
    )
    assert (law.predict(again) > law.predict(once) + 0.01).all() or not ROWS[name].smooth


def test_the_fewest_runs_are_enough_and_one_less_is_refused(name: str, law: ScaleLaw) -> None:
    needed = law.min_runs(DOMAINS)
    few = ladder(0, SIZES[:2], (TOKENS[0],)).take(np.argsort(np.tile(np.arange(MIXTURES), 2), kind="stable")[:needed])
    Y_RM = measured(name, few)
    assert np.isfinite(law.fit(few, Y_RM).predict(Runs.at(few.mixtures_RD, SIZES[1], TOKENS[0]))).all()
    with pytest.raises(SwarmError, match=rf"{needed - 1} good runs .*needs at least {needed}"):
        law.fit(few.take(slice(1, None)), Y_RM[1:])


def test_one_size_is_refused(name: str, law: ScaleLaw) -> None:
    runs = ladder(0, SIZES[:1])
    with pytest.raises(SwarmError, match=r"two sizes or more \(got 1.9e\+07 parameters alone\)"):
        law.fit(runs, measured(name, runs))


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_sizes_and_tokens_that_are_none_are_refused_with_their_row(name: str, law: ScaleLaw, bad: float) -> None:
    runs, Y_RM = ladder(), measured(name, ladder())
    law.fit(runs, Y_RM)
    wrong_R = np.where(np.arange(len(runs)) == 7, bad, 1e9)
    for what, wrong in (("tokens", replace(runs, tokens_R=wrong_R)), ("param", replace(runs, parameters_R=wrong_R))):
        with pytest.raises(SwarmError, match=rf"{what}.* must be finite and > 0 .row 7"):
            law.fit(wrong, Y_RM)
        with pytest.raises(SwarmError, match=r"row 7"):
            law.predict(wrong)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(name: str, law: ScaleLaw, bad: float) -> None:
    runs, Y_RM = ladder(), measured(name, ladder())
    Y_RM[11, 1] = bad
    with pytest.raises(SwarmError, match="metric is not finite .row 11"):
        law.fit(runs, Y_RM)
    runs.mixtures_RD[3, 0] = bad
    with pytest.raises(SwarmError, match="proportion is not finite .row 3"):
        law.fit(runs, Y_RM)


def test_rows_and_shapes_that_are_no_runs_are_refused(name: str, law: ScaleLaw) -> None:
    runs, Y_RM = ladder(), measured(name, ladder())
    with pytest.raises(SwarmError, match="for 126 runs .got shape"):
        law.fit(runs, Y_RM[:-1])
    with pytest.raises(SwarmError, match="tokens .R. are needed"):
        law.fit(replace(runs, tokens_R=runs.tokens_R[:-1]), Y_RM)
    with pytest.raises(SwarmError, match="each of 4 domains"):
        law.fit(replace(runs, available_D=np.ones(3)), Y_RM)
    runs.mixtures_RD[4] *= 1.01
    with pytest.raises(SwarmError, match="sum to 1 .row 4"):
        law.fit(runs, Y_RM)


def test_at_one_scale_it_is_a_law_of_mixtures(name: str, law: ScaleLaw) -> None:
    law.fit(ladder(), measured(name, ladder()))
    X_ND, view = ladder(1).mixtures_RD[:5], AtScale(law, NEXT, LONGER)
    expected = law.predict(Runs.at(X_ND, NEXT, LONGER), return_std=True)
    np.testing.assert_array_equal(view.predict(X_ND), expected[0])
    np.testing.assert_array_equal(view.predict(X_ND, return_std=True)[1], expected[1])


def test_an_unknown_law_names_the_nearest() -> None:
    with pytest.raises(JobError, match="'additive'"):
        make("aditive")
