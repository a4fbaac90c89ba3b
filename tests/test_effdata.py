"""The effective-data law where swarms are poor: it fits by its priors or refuses, and never says NaN."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.domains import Domain
from mixopt.errors import SwarmError
from mixopt.laws import make, make_convex
from mixopt.laws.effdata import EffData
from mixopt.mixture import FloatArray
from mixopt.proposers import minimise
from mixopt.quality import own_domains
from mixopt.space import MixtureSpace

KINDS = ("dense", "sparse", "one-hot", "twice", "one")


def mixtures(kind: str, runs: int, domains: int, rng: np.random.Generator) -> FloatArray:
    if kind == "one-hot":
        return np.eye(domains)[rng.integers(0, domains, runs)]
    X_RD = rng.dirichlet(np.full(domains, 0.02 if kind == "sparse" else 1.0), runs)
    if kind == "sparse":
        X_RD = np.where(X_RD < 0.01, 0, X_RD)
        X_RD /= X_RD.sum(axis=1, keepdims=True)
    if kind == "twice":
        X_RD[runs // 2 :] = X_RD[: runs - runs // 2]
    return np.repeat(X_RD[:1], runs, axis=0) if kind == "one" else X_RD


@settings(max_examples=20, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    runs=st.integers(8, 24),
    domains=st.integers(1, 16),
    scale=st.sampled_from([0.0, 1e-9, 1e-3, 1.0, 1e6]),
    level=st.sampled_from([-5.0, 0.0, 3.0, 1e6]),
    seed=st.integers(0, 99),
)
def test_it_never_says_nan(kind: str, runs: int, domains: int, scale: float, level: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X_RD, Y_RM = mixtures(kind, runs, domains, rng), level + scale * rng.standard_normal((runs, 2))
    P_NM, std_NM = EffData(own=(0, None)).fit(X_RD, Y_RM).predict(np.vstack([X_RD, np.eye(domains)]), return_std=True)
    assert np.isfinite(P_NM).all()
    assert np.isfinite(std_NM).all()
    assert (std_NM > 0).all()


@settings(max_examples=20, deadline=None)
@given(kind=st.sampled_from(KINDS), domains=st.integers(2, 8), seed=st.integers(0, 99))
def test_it_is_convex_whatever_it_learned_from(kind: str, domains: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    law = EffData().fit(mixtures(kind, 16, domains, rng), rng.standard_normal((16, 3)))
    curve = law.curve(np.full(3, 1 / 3))
    here_D, there_D = rng.dirichlet(np.full(domains, 0.5), 2)
    middle = curve((here_D + there_D) / 2)[0]
    assert middle <= (curve(here_D)[0] + curve(there_D)[0]) / 2 + 1e-12
    hessian_DD = curve(here_D + 1e-6)[2]
    assert np.linalg.eigvalsh(hessian_DD).min() >= -1e-9 * np.abs(hessian_DD).max()


def test_two_hundred_domains_with_fewer_runs_than_numbers() -> None:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.full(200, 0.3), 120)
    w_MD = rng.dirichlet(np.full(200, 0.3), 3)
    Y_RM = 2 + (0.01 + np.sqrt(X_RD) @ w_MD.T) ** -0.3
    law = EffData().fit(X_RD[:100], Y_RM[:100])
    assert (
        np.abs(law.predict(X_RD[100:]) - Y_RM[100:]).mean() < 0.8 * np.abs(Y_RM[100:] - Y_RM[:100].mean(axis=0)).mean()
    )
    with pytest.raises(SwarmError, match="99 good runs are too few for 200 domains"):
        EffData().fit(X_RD[:99], Y_RM[:99])


def test_own_domains_must_be_those_of_the_metrics() -> None:
    X_RD = np.random.default_rng(0).dirichlet(np.ones(3), 20)
    for own in ((0,), (0, 3), (0, -1)):
        with pytest.raises(SwarmError, match="own must be a domain or None for each of 2 metrics"):
            EffData(own=own).fit(X_RD, X_RD[:, :2])
    assert own_domains(("code", "web"), ("bpb/web", "code", "bpb/law")) == (1, 0, None)
    assert make("effdata", (1, None)).own == (1, None)


def test_its_optimum_is_exact() -> None:
    """Two domains that are worth the same and saturate alike are best mixed in halves, a third that is not used at 0."""
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(3), 100)
    y_R = 1 + (0.01 + np.sqrt(X_RD[:, 0] + 0.001) + np.sqrt(X_RD[:, 1] + 0.001)) ** -0.5
    law = make_convex("effdata").fit(X_RD, y_R)
    space = MixtureSpace(tuple(Domain(name, 10**9) for name in "abc"), 1)
    best_D = minimise(law.curve(np.ones(1)), space)
    assert best_D == pytest.approx([0.5, 0.5, 0.0], abs=0.03)
    candidates_ND = rng.dirichlet(np.ones(3), 2000)
    assert law.predict(best_D[None])[0] <= law.predict(candidates_ND).min() + 1e-9


def test_draws_spread_as_its_deviations_say() -> None:
    """200 refits around it: deviations within a quarter of the model's part of its own, which is linear, for most."""
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(4), 40)
    y_R = 1 + (0.01 + np.sqrt(X_RD[:, 0] + 0.001) + 0.3 * np.sqrt(X_RD[:, 1] + 0.001)) ** -0.5
    law, new_ND = EffData().fit(X_RD, y_R + 0.02 * rng.standard_normal(40)), rng.dirichlet(np.ones(4), 20)
    mean_N, std_N = law.predict(new_ND, return_std=True)
    noise = (law.scale_ * law.factor_) ** 2 * law.posterior_.noise_M
    model_N = np.sqrt(std_N**2 - noise)
    draws = law.draw(rng, 200)
    drawn_KN = np.array([drawn.predict(new_ND) for drawn in draws])
    assert np.median(drawn_KN.std(axis=0) / model_N) == pytest.approx(1, abs=0.25)
    assert (np.abs(drawn_KN.mean(axis=0) - mean_N) < model_N).all()
    hessian_DD = draws[0].curve(np.ones(1))(new_ND[0])[2]
    assert np.linalg.eigvalsh(hessian_DD).min() >= -1e-9 * np.abs(hessian_DD).max()
