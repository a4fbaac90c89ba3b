"""Mixture reuse: virtual domains expand, cap and diverge as Olmix (arXiv:2602.12237, section 4.2, Lemma 1) says."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import minimise
from mixopt.space import MixtureSpace

FIXED = {"a": 0.25, "b": 0.25, "c": 0.5}
NAMES = ("a", "b", "c", "new")


def space(tokens: tuple[int, ...] = (10**9,) * 4, max_epochs: float = 4.0) -> MixtureSpace:
    prior = Mixture({"a": 0.1, "b": 0.3, "c": 0.4, "new": 0.2})
    domains = tuple(Domain(name, count) for name, count in zip(NAMES, tokens, strict=True))
    return MixtureSpace(domains, 10**9, max_epochs, prior, frozen={"fixed": FIXED})


def test_expansion() -> None:
    """p~ = (.25, .25, .5) and r = (.4, .6) make (.1, .1, .2, .6)."""
    np.testing.assert_allclose(space().expand(np.array([0.4, 0.6])), [0.1, 0.1, 0.2, 0.6], rtol=1e-15)
    assert space().collapse(np.array([0.1, 0.1, 0.2, 0.6])) == pytest.approx([0.4, 0.6])


@pytest.mark.parametrize("rho", [0.05, 0.4, 0.9])
def test_the_divergence_follows_the_chain_rule(rho: float) -> None:
    """KL(expanded || prior) = KL(r || collapsed prior) + rho KL(p~ || prior within)."""
    prior = space().prior_mixture
    expanded = Mixture.from_array(NAMES, space().expand(np.array([rho, 1 - rho])))
    r_V, q_V = np.array([rho, 1 - rho]), space().collapse(space().prior_D)
    inside = Mixture(FIXED).kl(Mixture.normalised({name: prior[name] for name in FIXED}))
    assert expanded.kl(prior) == pytest.approx(float(r_V @ np.log(r_V / q_V)) + rho * inside, abs=1e-12)


def test_the_pull_counts_what_is_frozen() -> None:
    """With no loss at all the answer is the smallest expanded KL: rho / (1 - rho) = (q_fix / q_new) exp(-KL within)."""

    def nothing(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        return 0.0, np.zeros(4), np.zeros((4, 4))

    prior = space().prior_mixture
    inside = Mixture(FIXED).kl(Mixture.normalised({name: prior[name] for name in FIXED}))
    odds = 0.8 / 0.2 * np.exp(-inside)
    p_D = minimise(nothing, space(), 1.0)
    np.testing.assert_allclose(p_D[:3], odds / (1 + odds) * np.array([0.25, 0.25, 0.5]), atol=1e-7)


def test_the_cap_is_that_of_the_part_that_runs_out_first() -> None:
    """rho <= min_j k N_j / (R p~_j): with k = 4 and N = (.05, 1, .07, 1) R it is min(.8, 16, .56) = .56."""

    def more(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        return -float(p_D[:3].sum()), -np.array([1.0, 1, 1, 0]), np.zeros((4, 4))

    p_D = minimise(more, space((5 * 10**7, 10**9, 7 * 10**7, 10**9)))
    np.testing.assert_allclose(p_D, [0.14, 0.14, 0.28, 0.44], atol=1e-7)


@pytest.mark.parametrize(("epochs", "allowed"), [(0.999, False), (1.001, True)])
def test_infeasible_exactly_where_the_caps_cannot_fill_the_run(epochs: float, allowed: bool) -> None:
    """k sum_j N_j / R < 1 must raise."""
    domains = (Domain("a", 3 * 10**8), Domain("b", 7 * 10**8))
    if allowed:
        assert MixtureSpace(domains, 10**9, epochs).upper_D.sum() == pytest.approx(1.001)
    else:
        with pytest.raises(InfeasibleSpace, match=r"sum to 0\.999, less than 1"):
            MixtureSpace(domains, 10**9, epochs)
