"""The allowed mixtures: caps, bounds, projections, draws, and sentences for what is impossible."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace, JobError
from mixopt.limits import Group, Trust
from mixopt.mixture import Mixture
from mixopt.space import MixtureSpace

WEB, CODE, LAW = Domain("web", 2000), Domain("code", 100), Domain("law", 20)


def space(**more: object) -> MixtureSpace:
    return MixtureSpace((WEB, CODE, LAW), **({"target_tokens": 1000, "max_epochs": 4} | more))


def test_epoch_arithmetic() -> None:
    """R = 1000 B, N = (2000, 100, 20) B, p = (.8, .15, .05) -> epochs (.4, 1.5, 2.5); k = 4 caps at (1, .4, .08)."""
    assert space().names == ("code", "law", "web")
    assert space().epochs(Mixture({"web": 0.8, "code": 0.15, "law": 0.05})) == pytest.approx(
        {"web": 0.4, "code": 1.5, "law": 2.5}
    )
    assert space().upper_D.tolist() == pytest.approx([0.4, 0.08, 1.0])


def test_violations_name_the_numbers() -> None:
    broken = space(lower={"web": 0.5}, upper={"code": 0.2}).violations(Mixture({"web": 0.4, "code": 0.3, "law": 0.3}))
    assert len(broken) == 3
    assert any("15 epochs at 1,000 target tokens, max_epochs is 4" in s for s in broken)


def test_infeasible_caps_are_refused_with_the_binding_numbers() -> None:
    with pytest.raises(InfeasibleSpace, match=r"sum to 0\.212, less than 1 .*code lower 0, epoch cap 0\.01"):
        space(target_tokens=10_000, max_epochs=1)


def test_crossed_bounds_are_refused() -> None:
    with pytest.raises(InfeasibleSpace, match=r"law lower 0\.1, epoch cap 0\.08"):
        space(lower={"law": 0.1})
    with pytest.raises(InfeasibleSpace, match="lower bounds sum to 1.2"):
        space(lower={"web": 0.9, "code": 0.3})
    with pytest.raises(JobError, match="did you mean 'web'"):
        space(upper={"wbe": 0.1})


def test_prior_follows_tokens() -> None:
    assert space().prior_mixture == Mixture.normalised({"web": 2000, "code": 100, "law": 20})


@st.composite
def feasible(draw: st.DrawFn) -> tuple[MixtureSpace, np.ndarray]:
    count = draw(st.integers(2, 12))
    tokens = draw(st.lists(st.integers(1, 10**6), min_size=count, max_size=count))
    share = draw(st.floats(0.05, 1.0))
    weights = draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    lower = {f"d{i:02}": 0.5 * share / count * min(1, tokens[i] * count / sum(tokens)) for i in range(0, count, 3)}
    domains = tuple(Domain(f"d{i:02}", t) for i, t in enumerate(tokens))
    return MixtureSpace(domains, max(1, int(4 * share * sum(tokens))), 4.0, lower=lower), np.array(weights)


@given(feasible())
def test_projection_is_allowed_and_keeps_ratios(case: tuple[MixtureSpace, np.ndarray]) -> None:
    space, w_D = case
    p_D = space.project(w_D)
    assert p_D.sum() == pytest.approx(1, abs=1e-9)
    assert not space.violations(Mixture.from_array(space.names, p_D))
    free = (p_D > space.lower_D + 1e-12) & (p_D < space.upper_D - 1e-12) & (w_D > 1e-9)
    if free.sum() > 1:
        ratios = p_D[free] / w_D[free]
        assert ratios.max() == pytest.approx(ratios.min(), rel=1e-6)


def test_the_nearest_mixture_is_itself_where_it_is_allowed() -> None:
    within, beyond = np.array([0.15, 0.05, 0.8]), np.array([0.5, 0.1, 0.4])
    assert space().nearest(within) == Mixture({"code": 0.15, "law": 0.05, "web": 0.8})
    assert dict(space().nearest(beyond)) == pytest.approx({"code": 0.4, "law": 0.08, "web": 0.52})


def test_draws_are_prefix_stable_and_on_the_simplex() -> None:
    few, many = (space().dirichlet(n, np.random.default_rng(7)) for n in (5, 50))
    assert np.array_equal(few, many[:5])
    assert many.sum(1) == pytest.approx(1)
    assert (many >= 0).all()
    assert len({tuple(row) for row in many.tolist()}) == 50


def test_draws_obey_bounds_but_not_epoch_caps() -> None:
    w_ND = space(upper={"web": 0.6}, lower={"law": 0.02}).dirichlet(60, np.random.default_rng(0))
    names = space().names
    assert (w_ND[:, names.index("web")] <= 0.6 + 1e-9).all()
    assert (w_ND[:, names.index("law")] >= 0.02 - 1e-9).all()
    assert (w_ND[:, names.index("law")] > 0.08).any()


def test_order_of_domains_cannot_matter() -> None:
    other = MixtureSpace((LAW, WEB, CODE), 1000)
    rngs = [np.random.default_rng(1) for _ in range(2)]
    assert np.array_equal(space().dirichlet(9, rngs[0]), other.dirichlet(9, rngs[1]))


def three(**more: object) -> MixtureSpace:
    """Three domains of a billion tokens for a run of a billion: no cap binds, the prior is even."""
    return MixtureSpace(tuple(Domain(name, 10**9) for name in ("a", "b", "c")), 10**9, **more)  # type: ignore[arg-type]


EVERYTHING = {
    "upper": {"a": 0.5},
    "groups": {"ab": Group(("a", "b"), 0.2, 0.5)},
    "trust": Trust(kl=0.3, l1=0.6),
}


def test_violations_say_each_broken_constraint() -> None:
    space = three(**EVERYTHING, frozen={"bc": {"b": 0.25, "c": 0.75}})
    said = space.violations(Mixture({"a": 0.8, "b": 0.15, "c": 0.05}))
    for sentence in (
        "a: proportion 0.8 is above upper 0.5",
        "group ab: sum 0.95 is above upper 0.5",
        "frozen bc: ",
        "nats from the prior, trust.kl is 0.3",
        "L1 distance 0.933333 from the prior, trust.l1 is 0.6",
    ):
        assert any(sentence in one for one in said), (sentence, said)
    assert len(said) == 5
    assert "below lower 0.2" in three(groups=EVERYTHING["groups"]).violations(Mixture({"a": 0, "b": 0.1, "c": 0.9}))[0]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"groups": {"ab": Group(("a", "d"))}}, "unknown domain 'd'"),
        ({"groups": {"ab": Group(("a", "b"), 0.5, 0.4)}}, "0 <= lower <= upper <= 1"),
        ({"groups": {"none": Group(())}}, "at least one domain"),
        ({"trust": Trust(kl=0.0)}, "trust.kl: must be positive"),
        ({"trust": Trust(l1=-1.0)}, "trust.l1: must be positive"),
        ({"frozen": {"x": {"a": 0.5, "b": 0.6}}}, "sum to 1"),
        ({"frozen": {"x": {"a": 0.5, "b": 0.5}, "y": {"b": 0.5, "c": 0.5}}}, "b would move with two"),
    ],
)
def test_constraints_that_make_no_sense_are_refused(more: dict, sentence: str) -> None:
    with pytest.raises(JobError, match=sentence):
        three(**more)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {"groups": {"ab": Group(("a", "b"), 0.8), "bc": Group(("b", "c"), 0.5)}, "upper": {"b": 0.1}},
            r"groups\.ab\.lower and groups\.bc\.lower cannot hold .* miss by 0\.1",
        ),
        ({"groups": {"ab": Group(("a", "b"), 0.9)}, "upper": {"a": 0.3, "b": 0.3}}, r"groups\.ab\.lower cannot hold"),
        ({"groups": {"a": Group(("a",), 0.5, 0.5), "b": Group(("b",), 0.6, 0.6)}}, r"groups\.a and groups\.b cannot"),
        ({"lower": {"a": 0.9}, "trust": Trust(kl=0.1)}, r"trust\.kl is 0\.1, but .* is 0\.7\d* nats"),
        ({"lower": {"a": 0.9}, "trust": Trust(l1=0.1)}, r"trust\.l1 cannot hold .* miss by"),
        ({"upper": {"a": 0.1}, "frozen": {"x": {"a": 0.5, "b": 0.5}}, "lower": {"b": 0.3}}, "frozen"),
    ],
)
def test_constraints_that_exclude_each_other_are_named(more: dict, sentence: str) -> None:
    with pytest.raises(InfeasibleSpace, match=sentence):
        three(**more)


@given(st.integers(0, 2**32 - 1))
def test_the_nearest_mixture_is_allowed_under_every_constraint(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space = three(**EVERYTHING, frozen={"bc": {"b": 0.25, "c": 0.75}} if seed % 2 else {})
    w_D = rng.dirichlet(np.full(3, 0.3))
    nearest = space.nearest(w_D)
    assert space.violations(nearest) == []
    if space.violations(Mixture.from_array(space.names, w_D)) == []:
        assert nearest == Mixture.from_array(space.names, w_D)


def test_the_nearest_mixture_has_the_smallest_divergence() -> None:
    """A group of two held at .5 scales each side in proportion: that is the KL projection."""
    nearest = three(groups={"ab": Group(("a", "b"), 0.0, 0.5)}).nearest(np.array([0.6, 0.3, 0.1]))
    np.testing.assert_allclose(nearest.array(("a", "b", "c")), [1 / 3, 1 / 6, 0.5], atol=1e-6)


def test_draws_move_virtual_domains_as_one_and_leave_groups_to_the_proposer() -> None:
    space = three(**EVERYTHING, frozen={"bc": {"b": 0.25, "c": 0.75}})
    w_ND = space.dirichlet(40, np.random.default_rng(0))
    np.testing.assert_allclose(w_ND[:, 2], 3 * w_ND[:, 1], atol=1e-12)
    assert (w_ND[:, 0] <= 0.5 + 1e-9).all()
    assert (w_ND[:, 0] + w_ND[:, 1] > 0.5).any()


def test_rows_that_are_no_mixtures_are_not_allowed() -> None:
    rows_ND = np.array([[0.3, 0.3, 0.4], [0.2, 0.2, 0.2], [0.6, 0.6, -0.2], [0.3, 0.3, 0.4 + 1e-4]])
    for extra in ({}, {"groups": {"pair": Group(("code", "law"), 0.1, 0.9)}}):
        space = MixtureSpace(tuple(Domain(name, 1000) for name in ("code", "law", "web")), 1000, **extra)
        assert space.allowed(rows_ND).tolist() == [True, False, False, False]
