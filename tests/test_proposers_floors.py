"""Every proposer under every constraint: allowed and within floors, or refused where a fine grid finds nothing either."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace
from mixopt.laws.base import Law
from mixopt.laws.loglinear import LogLinear
from mixopt.limits import Group, Trust
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import propose, propose_near, simulation
from mixopt.proposers.proposal import TOLERANCE
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

FEW = {"max_examples": 40, "deadline": None, "derandomize": True}
METRICS = ("a", "b", "c")


@dataclass
class Waves:
    """Smooth and not convex: offset + tilt . p + height * sum_j cos(waves . p)."""

    tilt_MD: FloatArray
    waves_MD: FloatArray
    height: float = 0.2

    def min_runs(self, domains: int) -> int:
        return 1

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Waves:
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> FloatArray:
        return 2 + X_ND @ self.tilt_MD.T + self.height * np.cos(X_ND @ self.waves_MD.T)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        bent_NM = -self.height * np.sin(X_ND @ self.waves_MD.T)
        return self.tilt_MD + bent_NM[:, :, None] * self.waves_MD


@dataclass
class Steps:
    """Neither convex nor smooth, like trees: rounded proportions."""

    tilt_MD: FloatArray

    def min_runs(self, domains: int) -> int:
        return 1

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Steps:
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> FloatArray:
        return 2 + np.round(20 * X_ND) / 20 @ self.tilt_MD.T


def exponential(t_MD: FloatArray, c_M: FloatArray | None = None) -> LogLinear:
    law = LogLinear()
    law.single_, law.t_ = False, t_MD
    law.log_c_ = np.log(np.full(len(t_MD), 0.5) if c_M is None else c_M)
    return law


def allowed(space: MixtureSpace, p_D: FloatArray) -> bool:
    return space.violations(Mixture.from_array(space.names, p_D)) == []


def limits(law: object, objective: Objective, space: MixtureSpace) -> FloatArray:
    at_prior_M = law.predict(space.nearest(space.prior_D).array(space.names)[None])[0]
    return at_prior_M * (1 + np.array([objective.floors.get(m, np.inf) for m in objective.metrics]))


def grid(domains: int, parts: int) -> FloatArray:
    bars = itertools.combinations(range(parts + domains - 1), domains - 1)
    return np.array([np.diff([-1, *bar, parts + domains - 1]) - 1 for bar in bars]) / parts


@st.composite
def spaces(draw: st.DrawFn) -> MixtureSpace:
    """Two to four domains with any of bounds, a group, a trust region, a virtual domain; possibly empty."""
    count, rng = draw(st.integers(2, 4)), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = tuple(f"d{j}" for j in range(count))
    prior_D = rng.dirichlet(np.full(count, 2.0))
    more: dict[str, object] = {}
    if draw(st.booleans()):
        more["upper"] = {names[0]: float(rng.uniform(0.2, 1))}
    if draw(st.booleans()):
        more["lower"] = {names[-1]: float(rng.uniform(0, 0.4))}
    if draw(st.booleans()):
        low = float(rng.uniform(0, 0.6))
        more["groups"] = {"two": Group(names[:2], low, float(rng.choice([low, min(1, low + 0.3), 1.0])))}
    if draw(st.booleans()):
        more["trust"] = Trust(
            float(rng.uniform(0.01, 0.5)), float(rng.uniform(0.1, 1)) if draw(st.booleans()) else None
        )
    if count > 2 and draw(st.booleans()):
        more["frozen"] = {"both": {names[1]: 0.3, names[2]: 0.7}}
    domains = tuple(Domain(name, int(1e9)) for name in names)
    return MixtureSpace(domains, 10**9, prior=Mixture.from_array(names, prior_D), **more)  # type: ignore[arg-type]


def on_grid(space: MixtureSpace, parts: int = 24) -> FloatArray:
    """The allowed mixtures of a grid, of virtual domains where there are some."""
    p_ND = space.expand(grid(space.collapse(space.prior_D).size, parts))
    return np.array([p_D for p_D in p_ND if allowed(space, p_D)]).reshape(-1, len(space.names))


def objective(draw: st.DrawFn) -> Objective:
    fraction = st.sampled_from([-0.05, -0.01, 0.0, 0.01, 0.1])
    floors = {metric: draw(fraction) for metric in METRICS if draw(st.booleans())}
    return Objective({"a": 1.0, "b": 2.0}, floors)


@settings(**FEW | {"max_examples": 60})
@given(st.data(), st.sampled_from([0.0, 0.05]))
def test_convex_laws_are_solved_exactly_or_nothing_is_feasible(data: st.DataObject, kl: float) -> None:
    try:
        space = data.draw(spaces())
    except InfeasibleSpace:
        return
    asked = objective(data.draw)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    law = exponential(rng.normal(size=(len(asked.metrics), len(space.names))))
    p_ND, limit_M = on_grid(space), limits(law, asked, space)
    P_NM = law.predict(p_ND) if len(p_ND) else np.empty((0, len(limit_M)))
    p_ND, P_NM = (table[(limit_M >= P_NM).all(axis=1)] for table in (p_ND, P_NM))
    try:
        found = propose(law, asked, space, rng, kl)
    except InfeasibleSpace as e:
        assert len(p_ND) == 0
        assert any(metric in str(e) for metric in asked.floors)
        return
    assert found.how == "exact"
    assert allowed(space, found.p_D)
    assert (law.predict(found.p_D[None])[0] <= limit_M * (1 + TOLERANCE)).all()
    if len(p_ND):
        pull_N = kl * (p_ND * np.log(np.maximum(p_ND, 1e-300) / space.prior_D)).sum(axis=1)
        ours = found.value + kl * float(found.p_D @ np.log(np.maximum(found.p_D, 1e-300) / space.prior_D))
        assert ours <= (P_NM @ asked.weights_M + pull_N).min() + 1e-6


@settings(**FEW | {"max_examples": 12})
@given(st.data())
def test_descent_is_allowed_keeps_floors_and_is_no_worse_than_the_prior(data: st.DataObject) -> None:
    try:
        space = data.draw(spaces())
    except InfeasibleSpace:
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    asked = Objective({"a": 1.0, "b": 2.0}, {"c": data.draw(st.sampled_from([0.0, 0.02])), "b": 0.05})
    law = Waves(rng.normal(size=(3, len(space.names))) / 4, 6 * rng.normal(size=(3, len(space.names))))
    found, limit_M = propose(law, asked, space, rng), limits(law, asked, space)
    P_M = law.predict(found.p_D[None])[0]
    assert found.how == "descent"
    assert allowed(space, found.p_D)
    assert (limit_M * (1 + TOLERANCE) >= P_M).all()
    prior_D = space.nearest(space.prior_D).array(space.names)
    assert found.value <= float(asked.weights_M @ law.predict(prior_D[None])[0]) + 1e-6


@settings(**FEW)
@given(st.data())
def test_simulation_is_allowed_and_keeps_floors(data: st.DataObject) -> None:
    try:
        space = data.draw(spaces())
    except InfeasibleSpace:
        return
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    asked, law = Objective({"a": 1.0}, {"b": 0.01}), Steps(rng.normal(size=(2, len(space.names))) / 4)
    found = simulation(law, asked, space, rng, 0.0, 400, 20)
    assert found.how == "simulation"
    assert allowed(space, found.p_D)
    assert (law.predict(found.p_D[None])[0] <= limits(law, asked, space) * (1 + TOLERANCE)).all()


def plain(count: int, **more: object) -> MixtureSpace:
    names = tuple(f"d{j}" for j in range(count))
    prior = Mixture.from_array(names, np.full(count, 1 / count))
    domains = tuple(Domain(name, 10**9) for name in names)
    return MixtureSpace(domains, 10**9, prior=prior, **more)  # type: ignore[arg-type]


def test_a_floor_moves_the_answer_and_its_price_is_the_slope() -> None:
    """Two metrics with opposed domains: the floor of b binds; its price is -d value / d limit."""
    law, rng = exponential(np.array([[-2.0, 0.0, 0.3], [0.1, -2.0, 0.2]])), np.random.default_rng(0)
    values, floors = [], []
    for fraction in (0.009, 0.01, 0.011):
        found = propose(law, Objective({"a": 1.0}, {"b": fraction}), plain(3), rng)
        values.append(found.value)
        floors.append(found.floors[0])
    assert floors[1].predicted == pytest.approx(floors[1].limit, rel=2e-6)
    slope = -(values[2] - values[0]) / (floors[2].limit - floors[0].limit)
    assert floors[1].price == pytest.approx(slope, rel=1e-3)
    free = propose(exponential(law.t_[:1]), Objective({"a": 1.0}), plain(3), rng)
    assert free.value < values[1] - 0.01


def test_the_price_of_an_epoch_cap_is_the_slope() -> None:
    law = exponential(np.array([[-2.0, 0.0, -0.5]]))
    rng, values, caps = np.random.default_rng(0), [], []
    for epochs in (0.299, 0.3, 0.301):
        domains = (Domain("d0", 10**9), Domain("d1", 10**10), Domain("d2", 10**10))
        space = MixtureSpace(domains, 10**9, epochs, prior=plain(3).prior_mixture)
        found = propose(law, Objective({"a": 1.0}), space, rng, 0.01)
        pull = 0.01 * found.p_D @ np.log(found.p_D * 3)
        values.append(found.value + pull)
        caps.append(found.caps)
    assert [(cap.name, cap.kind) for cap in caps[1]] == [("d0", "max_epochs")]
    assert caps[1][0].per_epoch == pytest.approx(-(values[2] - values[0]) / 0.002, rel=1e-3)


def test_kkt_residuals_vanish_under_all_constraints() -> None:
    """Gradient + prices x gradients of what binds is the same for every domain."""
    rng = np.random.default_rng(3)
    t_MD = rng.normal(size=(4, 6))
    law, asked = exponential(t_MD), Objective({"a": 1.0, "b": 1.0, "c": 1.0, "d": 1.0}, {"b": 0.0, "d": 0.01})
    groups, trust = {"g": Group(("d0", "d1"), 0.1, 0.4)}, Trust(kl=0.2)
    space = plain(6, groups=groups, trust=trust, upper={"d2": 0.25})
    found = propose(law, asked, space, rng, 0.02)
    slopes_MD = np.exp(found.p_D @ t_MD.T)[:, None] * t_MD
    pull_D = np.log(found.p_D * 6)
    slope_D = asked.weights_M @ slopes_MD + 0.02 * pull_D
    for floor in found.floors:
        slope_D += floor.price * slopes_MD[asked.metrics.index(floor.metric)]
    for cap in found.caps:
        in_group, one = np.isin(space.names, groups["g"].domains), np.isin(space.names, [cap.name])
        sides = {"upper": one, "groups": in_group * (1 if cap.limit == 0.4 else -1), "trust": pull_D}
        slope_D += cap.price * sides[cap.kind]
    assert len(found.floors) + len(found.caps) >= 3
    assert np.ptp(slope_D[found.p_D > 1e-6]) < 1e-5


def test_floors_that_exclude_each_other_are_named_with_their_misses() -> None:
    """a and b both fall with their own domain only; both ten percent better is impossible, c is innocent."""
    law = exponential(np.array([[-2.0, 0.0, 0.0], [0.0, -2.0, 0.0], [0.0, 0.0, -0.1]]))
    asked = Objective({"a": 1.0}, {"a": -0.15, "b": -0.15, "c": 0.2})
    with pytest.raises(InfeasibleSpace, match=r"a \(limit .* misses by .* %\), b \(limit") as refused:
        propose(law, asked, plain(3), np.random.default_rng(0))
    assert "c (limit" not in str(refused.value)


def test_floors_that_no_candidate_keeps_are_named() -> None:
    law = Steps(np.array([[-0.5, 0.0], [0.0, -0.5]]))
    for asked in (Objective({"a": 1.0}, {"a": -0.1, "b": -0.1}),):
        with pytest.raises(InfeasibleSpace, match=r"none of 500 .* breaks .*misses by"):
            simulation(law, asked, plain(2), np.random.default_rng(0), 0.0, 500, 5)


def test_descent_names_floors_that_it_could_not_reach() -> None:
    law = Waves(np.array([[-0.5, 0.0], [0.0, -0.5]]), np.zeros((2, 2)))
    with pytest.raises(InfeasibleSpace, match="nearest misses a .* b "):
        propose(law, Objective({"a": 1.0}, {"a": -0.1, "b": -0.1}), plain(2), np.random.default_rng(0))


def test_where_the_mean_breaks_a_floor_the_best_candidate_is_taken() -> None:
    """Two good corners and a ridge between them: the mean of the best lies on the ridge."""

    class Ridge(Steps):
        def predict(self, X_ND: FloatArray, return_std: bool = False) -> FloatArray:
            off_N = np.abs(X_ND[:, 0] - 0.5)
            return np.column_stack([2 - off_N, 2 + (off_N < 0.2)])[:, : len(self.tilt_MD)]

    space = MixtureSpace((Domain("d0", 10**9), Domain("d1", 10**9)), 10**9, prior=Mixture({"d0": 0.5, "d1": 0.5}))
    asked, rng = Objective({"a": 1.0}, {"b": -0.3}), np.random.default_rng(0)
    found = simulation(Ridge(np.zeros((2, 2))), asked, space, rng, 0.0, 4000, 500)
    assert "breaks a floor" in found.notes[0]
    assert found.floors[0].predicted <= found.floors[0].limit
    free = simulation(Ridge(np.zeros((1, 2))), Objective({"a": 1.0}), space, np.random.default_rng(0), 0.0, 4000, 500)
    assert free.notes == ()
    assert abs(free.p_D[0] - 0.5) < 0.2


def test_descent_agrees_with_the_exact_optimum_of_a_convex_law() -> None:
    """Without `curve` the same law is only smooth: the answers, floors and prices are those of the convex solver."""
    t_MD = np.random.default_rng(5).normal(size=(3, 5))
    convex, asked = exponential(t_MD), Objective({"a": 1.0, "b": 1.0}, {"c": 0.005})
    space = plain(5, trust=Trust(kl=0.3), groups={"g": Group(("d0", "d3"), 0.2, 0.5)})

    class Smooth(Steps):
        def predict(self, X_ND: FloatArray, return_std: bool = False) -> FloatArray:
            return convex.predict(X_ND)

        def gradient(self, X_ND: FloatArray) -> FloatArray:
            return np.exp(X_ND @ t_MD.T)[:, :, None] * t_MD

    exact = propose(convex, asked, space, np.random.default_rng(0), 0.02)
    smooth = propose(Smooth(t_MD), asked, space, np.random.default_rng(0), 0.02)
    assert (exact.how, smooth.how) == ("exact", "descent")
    np.testing.assert_allclose(smooth.p_D, exact.p_D, atol=2e-4)
    assert smooth.floors[0].price == pytest.approx(exact.floors[0].price, abs=5e-3)


def test_descent_finds_the_better_of_two_valleys_and_repeats_itself() -> None:
    """cos(9 p_0) falls into valleys at .349 and beyond 1: with a tilt the first is a trap for a start at the prior."""
    law = Waves(np.array([[0.0, 0.3, 0.0]]), np.array([[9.0, 0.0, 0.0]]))
    space, asked = plain(3), Objective({"a": 1.0})
    found, again = (propose(law, asked, space, np.random.default_rng(1)) for _ in range(2))
    p_ND = grid(3, 200)
    assert found.value <= law.predict(p_ND)[:, 0].min() + 1e-4
    assert np.array_equal(found.p_D, again.p_D)


def test_descent_at_a_cap_says_what_it_costs_and_so_does_the_exact_solver() -> None:
    """Also where the first step from a start finds nothing better. A group's name may have a dot."""
    t_MD = np.array([[-2.0, 0.5, 0.1], [-1.5, 0.0, 0.2]])
    convex, asked = exponential(t_MD), Objective({"a": 1.0, "b": 1.0})

    class Smooth(Steps):
        def predict(self, X_ND: FloatArray, return_std: bool = False) -> FloatArray:
            return convex.predict(X_ND)

        def gradient(self, X_ND: FloatArray) -> FloatArray:
            return np.exp(X_ND @ t_MD.T)[:, :, None] * t_MD

    for space in (plain(3, upper={"d0": 0.4, "d2": 0.4}), plain(3, groups={"web.en": Group(("d0", "d2"), 0.0, 0.5)})):
        exact, smooth = (propose(law, asked, space, np.random.default_rng(0)) for law in (convex, Smooth(t_MD)))
        assert [(cap.name, cap.kind) for cap in smooth.caps] == [(cap.name, cap.kind) for cap in exact.caps]
        assert exact.caps
        for found, said in zip(smooth.caps, exact.caps, strict=True):
            assert found.price == pytest.approx(said.price, rel=2e-2)


@pytest.mark.parametrize(
    "law", [exponential(np.array([[-1.0, 0.3, 0.8]])), Waves(np.array([[0.5, 0.2, 0.0]]), np.eye(3)[:1])]
)
def test_the_answer_of_another_law_is_found_from_near_it(law: Law) -> None:
    space, asked = plain(3, upper={"d0": 0.7}), Objective({"a": 1.0})
    found = propose(law, asked, space, np.random.default_rng(0))
    start_D = 0.9 * found.p_D + 0.1 / 3
    near_D = propose_near(start_D, law, asked, space, np.random.default_rng(0))
    np.testing.assert_allclose(near_D, found.p_D, atol=2e-3)
