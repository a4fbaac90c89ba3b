"""How alike two laws of training are, what probes say about it, and how well the laws fit: numbers known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from mixopt.errors import JobError, SwarmError
from mixopt.fidelity import column_sums, forecast, similarity, static_fit, transition
from mixopt.mixture import FloatArray

STAR = np.array([[0.4, 0.1, 0.0], [0.0, 0.3, 0.1], [0.1, 0.0, 0.2]])
GUESS = np.array([[0.5, 0.0, 0.0], [0.0, 0.2, 0.2], [0.0, 0.0, 0.1]])


def with_sums(*sums: float) -> FloatArray:
    """A matrix with these column sums, spread unevenly over its rows."""
    share_D = np.arange(1, len(sums) + 1) / np.arange(1, len(sums) + 1).sum()
    return np.outer(share_D, sums)


def probes(domains: int, weight: float) -> FloatArray:
    """The mixture of each probe [D, D], in rows."""
    W_DD = np.full((domains, domains), (1 - weight) / (domains - 1))
    np.fill_diagonal(W_DD, weight)
    return W_DD


def test_similarity_by_hand() -> None:
    """Sums (.5, .4, .3) and (.5, .2, .3): cosine .963546, Spearman .5."""
    assert similarity(GUESS, STAR) == pytest.approx(0.731773, abs=5e-7)
    assert similarity(STAR, GUESS) == pytest.approx(0.731773, abs=5e-7)


def test_similarity_does_not_depend_on_the_unit() -> None:
    assert similarity(1e-4 * GUESS, 7 * STAR) == pytest.approx(similarity(GUESS, STAR))
    assert similarity(STAR, STAR) == pytest.approx(1)
    assert similarity(-STAR, STAR) == pytest.approx(-1)


def test_equal_sums_share_their_rank() -> None:
    guess, star = (0.1, 0.2, 0.2, 0.4), (0.3, 0.1, 0.2, 0.4)
    cosine = np.dot(guess, star) / np.linalg.norm(guess) / np.linalg.norm(star)
    expected = (cosine + spearmanr(guess, star).statistic) / 2
    assert similarity(with_sums(*guess), with_sums(*star)) == pytest.approx(expected)


@pytest.mark.parametrize("flat", [(0.2, 0.2, 0.2), (0.0, 0.0, 0.0)])
def test_a_side_that_prefers_nothing_has_no_similarity(flat: tuple[float, ...]) -> None:
    assert similarity(with_sums(*flat), STAR) is None
    assert similarity(STAR, with_sums(*flat)) is None


def test_two_domains_are_told_apart_by_differences_only() -> None:
    """The same law for p_1 + p_2 = 1, written with other rows, has the same sums; as it stands it would not."""
    A_DD = np.array([[0.5, 0.2], [0.1, 0.3]])
    assert column_sums(A_DD) == pytest.approx([0.3, 0.2])
    same_DD = A_DD + np.array([[0.0], [0.4]])
    assert column_sums(same_DD) == pytest.approx([0.3, 0.2])
    assert same_DD.sum(axis=0) == pytest.approx([1.0, 0.9])
    assert similarity(A_DD, same_DD) == pytest.approx(1)
    assert similarity(A_DD, np.array([[0.2, 0.5], [0.3, 0.1]])) == pytest.approx(-1)


def test_transition_of_aiolis_example() -> None:
    beta_DD = np.array([[0.325, 0.175], [0.1125, 0.2375]])
    assert transition(beta_DD, 0.75) == pytest.approx(np.array([[0.40, 0.10], [0.05, 0.30]]))


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 0.75, 1.0])
def test_transition_recovers_a_linear_system(weight: float) -> None:
    A_DD = np.random.default_rng(0).normal(size=(5, 5))
    W_DD = probes(5, weight)
    drops_DD = A_DD @ W_DD.T
    assert transition(drops_DD, weight) == pytest.approx(A_DD, abs=1e-12)
    assert forecast(A_DD, W_DD, np.ones(5)) == pytest.approx(drops_DD.T)
    assert forecast(A_DD, W_DD[:1], np.array([2.5]))[0] == pytest.approx(2.5 * drops_DD[:, 0])


@pytest.mark.parametrize(("weight", "domains"), [(0.25, 4), (0.5, 2), (1.2, 3), (-0.1, 3), (1.0, 1)])
def test_probes_that_tell_nothing_apart_are_refused(weight: float, domains: int) -> None:
    with pytest.raises(JobError, match=f"does not tell {domains} domains apart"):
        transition(np.ones((domains, domains)), weight)


def test_static_fit_is_of_runs_seen_and_of_runs_left_out() -> None:
    rng = np.random.default_rng(0)
    X_RD = rng.dirichlet(np.ones(3), 30)
    truth_RM = 2 + np.exp(X_RD @ rng.normal(size=(3, 2)))
    exact = static_fit(X_RD, truth_RM)
    assert exact.in_sample == pytest.approx(1, abs=1e-6)
    assert exact.out_of_fold == pytest.approx(1, abs=1e-4)
    noisy = static_fit(X_RD, truth_RM + rng.normal(size=(30, 2)))
    assert noisy.in_sample is not None
    assert noisy.out_of_fold is not None
    assert noisy.out_of_fold < noisy.in_sample < 0.9
    with pytest.raises(SwarmError, match="5 good runs on fixed mixtures; the log-linear law needs 6"):
        static_fit(X_RD[:5], truth_RM[:5])
