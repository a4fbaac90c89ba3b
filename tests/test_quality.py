from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from mixopt.errors import SwarmError
from mixopt.laws import make
from mixopt.mixture import FloatArray
from mixopt.quality import Fit, describe, half_widths, interval, measure, out_of_fold, own_proportion, spearman
from mixopt.runs import Objective

BOTH = Objective({"bpb/code": 1.0, "bpb/web": 3.0})


def swarm(runs: int, noise: float = 0.0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(3), runs)
    A_MD = np.array([[1.0, 3.0, 2.0], [4.0, 1.0, 2.5]])
    return X_RD, X_RD @ A_MD.T + noise * rng.normal(size=(runs, 2))


class Memory:
    """A law that answers with the numbers of the runs it has seen, to see which were left out."""

    convex = False

    def min_runs(self, domains: int) -> int:
        return 4

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Memory:
        assert len(X_RD) >= self.min_runs(X_RD.shape[1])
        self.seen_ = set(Y[:, 0].tolist())
        return self

    def predict(self, X_ND: FloatArray) -> FloatArray:
        return np.array([[1.0 if run in self.seen_ else 0.0] for run in X_ND[:, 0]])


@pytest.mark.parametrize("runs", [5, 6, 7, 13, 40])
def test_no_run_is_predicted_by_a_law_that_has_seen_it(runs: int) -> None:
    X_RD = np.arange(float(runs))[:, None]
    assert out_of_fold(Memory(), X_RD, X_RD).tolist() == [[0.0]] * runs


def test_out_of_fold_leaves_the_law_alone_and_repeats_itself() -> None:
    X_RD, Y_RM = swarm(30, noise=0.1)
    law = make("linear").fit(X_RD[:10], Y_RM[:10])
    before = law.predict(X_RD)
    first = out_of_fold(law, X_RD, Y_RM)
    np.testing.assert_array_equal(law.predict(X_RD), before)
    np.testing.assert_array_equal(out_of_fold(make("linear"), X_RD, Y_RM), first)
    assert first.shape == Y_RM.shape


def test_too_few_runs_to_leave_one_out_are_refused() -> None:
    X_RD, Y_RM = swarm(4)
    with pytest.raises(SwarmError, match=r"4 good runs.*at least 5 \(proxies\.count\)"):
        out_of_fold(make("linear"), X_RD, Y_RM)


def test_measure_knows_a_perfect_and_a_shifted_prediction() -> None:
    _, Y_RM = swarm(50)
    fits = measure(Y_RM, Y_RM, BOTH)
    assert list(fits) == ["objective", "bpb/code", "bpb/web"]
    assert all(fit == Fit(pytest.approx(1), 0.0, 1.0, None) for fit in fits.values())
    shifted = measure(Y_RM, Y_RM + [0.4, 0.0], BOTH, {"objective": 0.2})["objective"]
    assert shifted.spearman == pytest.approx(1)
    assert shifted.mae == pytest.approx(0.1)
    assert shifted.coverage90 == 1.0
    assert shifted.to_json() == {"spearman": shifted.spearman, "mae": shifted.mae, "r2": shifted.r2, "coverage90": 1.0}


def test_describe_means_the_metrics_and_keeps_the_objective_apart() -> None:
    X_RD, Y_RM = swarm(60, noise=0.1)
    P_RM = out_of_fold(make("linear"), X_RD, Y_RM)
    found = describe(Y_RM, P_RM, BOTH, half_widths(Y_RM, P_RM, BOTH))
    assert list(found["targets"]) == ["bpb/code", "bpb/web"]
    assert found["mean"]["mae"] == pytest.approx(np.abs(Y_RM - P_RM).mean())
    assert found["mean_loss"]["mae"] == pytest.approx(np.abs((Y_RM - P_RM) @ [0.25, 0.75]).mean())
    assert found["mean_loss"]["coverage90"] >= 0.9
    assert describe(np.ones((5, 2)), np.ones((5, 2)), BOTH)["mean"]["spearman"] is None


def test_constant_values_have_no_correlation_and_warn_nobody() -> None:
    constant, varying = np.full((6, 2), 2.5), swarm(6)[1]
    assert measure(constant, varying, BOTH)["objective"].spearman is None
    assert measure(constant, varying, BOTH)["objective"].r2 is None
    assert measure(varying, constant, BOTH)["objective"].spearman is None
    assert spearman(np.array([1.0]), np.array([2.0])) is None


def test_spearman_is_scipys_with_ties() -> None:
    rng = np.random.default_rng(1)
    a_R, b_R = rng.integers(0, 5, 40).astype(float), rng.integers(0, 5, 40).astype(float)
    assert spearman(a_R, b_R) == pytest.approx(spearmanr(a_R, b_R).statistic)


def test_half_width_is_the_corrected_quantile() -> None:
    observed, one = np.arange(1.0, 20.0)[:, None], Objective({"bpb/code": 1.0})
    assert interval(observed, np.zeros((19, 1)), one) == 18.0  # the 18th smallest of 19: ceil(0.9 * 20)
    assert interval(observed[:9], np.zeros((9, 1)), one) == 9.0
    assert interval(observed[:8], np.zeros((8, 1)), one) is None


def test_interval_covers_new_runs_as_often_as_it_says() -> None:
    X_RD, Y_RM = swarm(4000, noise=0.1)
    law = make("linear")
    widths = half_widths(Y_RM[:1000], out_of_fold(law, X_RD[:1000], Y_RM[:1000]), BOTH)
    fits = measure(Y_RM[1000:], law.fit(X_RD[:1000], Y_RM[:1000]).predict(X_RD[1000:]), BOTH, widths)
    assert all(0.87 <= (fit.coverage90 or 0) <= 0.93 for fit in fits.values())


def test_own_proportion_is_positive_where_more_is_better() -> None:
    X_RD = swarm(40)[0]
    Y_RM = np.column_stack([-X_RD[:, 0], X_RD[:, 1], X_RD[:, 2], X_RD[:, 2]])
    found = own_proportion(X_RD, Y_RM, ["code", "web", "books"], ["bpb/code", "web", "mmlu", "loss/books"])
    assert found == {"bpb/code": pytest.approx(1), "web": pytest.approx(-1), "loss/books": pytest.approx(-1)}
    assert own_proportion(np.ones((5, 1)), Y_RM[:5, :1], ["code"], ["bpb/code"]) == {"bpb/code": None}
