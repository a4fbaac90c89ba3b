"""The laws that runs leave plausible, and the noise of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mixopt.errors import SwarmError
from mixopt.laws.base import Law
from mixopt.laws.effdata import EffData
from mixopt.laws.gp import GP
from mixopt.laws.linear import Linear
from mixopt.mixture import FloatArray
from mixopt.plausible import FEW, MANY, drawn, draws, noise, plausible, resampled

WEIGHTS_M = np.array([0.25, 0.75])


def swarm(runs: int = 24, seed: int = 0) -> tuple[FloatArray, FloatArray]:
    rng = np.random.default_rng(seed)
    X_RD = rng.dirichlet(np.ones(3), runs)
    return X_RD, X_RD @ np.array([[1.0, 2.0, 3.0], [2.0, 2.0, 1.0]]).T + 0.05 * rng.standard_normal((runs, 2))


def test_equal_draws_from_equal_generators() -> None:
    X_RD, Y_RM = swarm()
    law = Linear().fit(X_RD, Y_RM)
    first, again, other = (plausible(law, X_RD, Y_RM, np.random.default_rng(seed), 20) for seed in (1, 1, 2))
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a.predict(X_RD), b.predict(X_RD))
        assert not np.array_equal(a.predict(X_RD), c.predict(X_RD))
    fresh = Linear().fit(X_RD, Y_RM)
    np.testing.assert_array_equal(law.coef_, fresh.coef_)  # the fitted law itself is left alone


def test_the_order_of_runs_does_not_matter() -> None:
    X_RD, Y_RM = swarm()
    order_R = np.random.default_rng(5).permutation(len(X_RD))
    laws = plausible(Linear().fit(X_RD, Y_RM), X_RD, Y_RM, np.random.default_rng(1), 19)
    mixed = plausible(Linear().fit(X_RD, Y_RM), X_RD[order_R], Y_RM[order_R], np.random.default_rng(1), 19)
    for a, b in zip(laws, mixed, strict=True):
        np.testing.assert_allclose(a.predict(X_RD), b.predict(X_RD), atol=1e-12)


def test_the_bootstrap_spreads_like_the_estimate() -> None:
    """Refits of a linear law scatter as the estimate itself does from one swarm to another."""
    grid_ND = np.eye(3)
    estimates = np.array([Linear().fit(*swarm(48, seed)).predict(grid_ND) for seed in range(300)])
    variances = []
    for seed in range(1000, 1020):
        X_RD, Y_RM = swarm(48, seed)
        laws = plausible(Linear().fit(X_RD, Y_RM), X_RD, Y_RM, np.random.default_rng(0), 60)
        variances.append(np.var([law.predict(grid_ND) for law in laws], axis=0))
    ratio = np.sqrt(np.mean(variances, axis=0)) / estimates.std(axis=0)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.25


def test_runs_of_one_mixture_are_drawn_together() -> None:
    cluster_R = np.array([0, 0, 0, 1, 2, 2, 3, 4])
    for seed in range(50):
        rows = resampled(cluster_R, 2, np.random.default_rng(seed))
        times_R = np.bincount(rows, minlength=8)
        assert all(len(set(times_R[cluster_R == c])) == 1 for c in range(5))
        drawn_C = np.array([times_R[cluster_R == c][0] for c in range(5)])
        assert drawn_C.sum() == 5


@pytest.mark.parametrize("needed", [1, 15, 20, 99])
def test_enough_distinct_runs_are_drawn(needed: int) -> None:
    for seed in range(50):
        rows = resampled(np.arange(20), needed, np.random.default_rng(seed))
        assert len(rows) == 20
        assert len(set(rows.tolist())) >= min(needed, 20)


def test_convex_laws_get_more_draws() -> None:
    assert (draws(EffData()), draws(GP())) == (MANY, FEW)


@dataclass
class Known(Linear):
    """A law that knows its posterior and is not convex."""

    curve = None

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        self.asked_ = count, rng.random()
        return [self] * count


def test_convex_laws_are_fitted_again_even_where_they_know_their_posterior() -> None:
    X_RD, Y_RM = swarm()
    law = Linear().fit(X_RD, Y_RM)
    assert (drawn(law), drawn(Known()), drawn(GP())) == (False, True, True)
    first, second = (other.coef_ for other in plausible(law, X_RD, Y_RM, np.random.default_rng(0), 2))
    drawn_again = [law.draw(np.random.default_rng(0), 1)[0].coef_]
    assert not any(np.allclose(first, other) for other in (second, *drawn_again))


def test_a_law_that_knows_its_posterior_is_asked() -> None:
    law = Known().fit(*swarm())
    assert plausible(law, *swarm(), np.random.default_rng(3), 21) == [law] * 21
    assert law.asked_ == (21, np.random.default_rng(3).random())


@dataclass
class Picky(Linear):
    """A law that refuses runs that are there twice."""

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Any:
        if len(np.unique(X_RD, axis=0)) < len(X_RD):
            raise SwarmError("a run is there twice")
        return super().fit(X_RD, Y)


def test_a_law_that_refuses_every_swarm_is_told() -> None:
    law = Picky().fit(*swarm())
    with pytest.raises(SwarmError, match=r"Picky could learn from 0 \(needs 19\).*a run is there twice"):
        plausible(law, *swarm(), np.random.default_rng(0))


def test_noise_of_repeated_mixtures_is_pooled() -> None:
    X_RD = np.repeat(np.eye(3), [2, 3, 1], axis=0)
    Y_RM = np.array([[1.0, 5.0], [1.4, 5.0], [2.0, 1.0], [2.3, 1.0], [2.6, 1.0], [9.0, 9.0]])
    found = noise(Linear(), X_RD, Y_RM, WEIGHTS_M)
    expected = np.sqrt((2 * 0.2**2 + 2 * 0.3**2) / 3)
    np.testing.assert_allclose(found.metrics_M, [expected, 0], atol=1e-12)
    assert found.objective == pytest.approx(expected / 4)
    assert (found.source, found.runs) == ("replicates", 5)


def test_without_repeats_the_law_answers_for_the_noise() -> None:
    X_RD, Y_RM = swarm(400)
    found = noise(Linear().fit(X_RD, Y_RM), X_RD, Y_RM, WEIGHTS_M)
    np.testing.assert_allclose(found.metrics_M, 0.05, rtol=0.1)
    assert found.objective == pytest.approx(0.05 * np.hypot(0.25, 0.75), rel=0.15)
    assert (found.source, found.runs) == ("law", 400)
