"""What follows from plausible laws, where it is known: bowls whose optima are given, planes, constants."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mixopt import uncertainty
from mixopt.domains import Domain
from mixopt.errors import InfeasibleSpace, SwarmError
from mixopt.laws.base import Law
from mixopt.laws.linear import Linear
from mixopt.limits import Group, Trust
from mixopt.mixture import FloatArray, Mixture
from mixopt.plausible import plausible
from mixopt.region import search
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.uncertainty import STEP, Answer, cox, measure

NAMES = ("a", "b", "c", "d")
OBJECTIVE = Objective({"bpb/a": 1.0, "bpb/b": 3.0})
ANSWER_D = np.array([0.4, 0.3, 0.2, 0.1])


def space_of(max_epochs: float = 100.0, **bounds: Any) -> MixtureSpace:
    prior = Mixture.from_array(NAMES, np.full(4, 0.25))
    return MixtureSpace(tuple(Domain(n, 250) for n in NAMES), 1000, max_epochs, prior, **bounds)


@dataclass
class Bowl:
    """Both metrics are |p - centre|^2."""

    centre_D: FloatArray

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        return np.repeat(((X_ND - self.centre_D) ** 2).sum(axis=1, keepdims=True), 2, axis=1)


@dataclass
class Plane:
    """Metric m is a_m . p."""

    a_MD: FloatArray

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        return X_ND @ self.a_MD.T


def bowls(count: int = 99, spread: float = 0.02) -> list[Law]:
    """Centres around the answer, whose mean is the answer."""
    moves_BD = np.random.default_rng(0).normal(0, spread, (count, 4))
    moves_BD -= moves_BD.mean(axis=1, keepdims=True)
    return [Bowl(ANSWER_D + move_D) for move_D in moves_BD - moves_BD.mean(axis=0)]  # type: ignore[misc]


def bowl_answer(laws: list[Law], space: MixtureSpace | None = None) -> Answer:
    law: Any = Bowl(ANSWER_D)
    return Answer.of(space or space_of(), OBJECTIVE, law, ANSWER_D, laws, lambda other: other.centre_D)


def test_proportions_and_gain_follow_the_optima() -> None:
    laws = bowls()
    found = measure(bowl_answer(laws), np.random.default_rng(0))
    centre_BD = np.array([law.centre_D for law in laws])  # type: ignore[attr-defined]
    ordered_BD = np.sort(centre_BD, axis=0)
    assert found["draws"] == 99
    for j, name in enumerate(NAMES):
        assert found["proportions"][name] == pytest.approx([ordered_BD[4, j], ordered_BD[94, j]])  # ranks 5 and 95
    gain_B = np.sort(((0.25 - centre_BD) ** 2).sum(1) - ((ANSWER_D - centre_BD) ** 2).sum(1))
    gain = found["gain"]
    assert [gain["value"], gain["low"], gain["high"]] == pytest.approx([0.05, gain_B[4], gain_B[94]])
    assert gain["metrics"]["bpb/a"] == pytest.approx({key: gain[key] for key in ("value", "low", "high")})
    regret_B = np.sort(((ANSWER_D - centre_BD) ** 2).sum(1))
    assert found["regret"]["mean"] == pytest.approx(regret_B.mean())
    assert found["regret"]["quantile"] == pytest.approx(regret_B[89])  # rank 90 of 99


def test_the_region_of_a_bowl_is_a_ball() -> None:
    laws = bowls()
    answer = bowl_answer(laws)
    found = measure(answer, np.random.default_rng(0))["region"]
    radius = np.sqrt(found["margin"])
    reach = radius * np.sqrt(3 / 4)  # of one proportion, on the plane of sum 1
    for name, p in zip(NAMES, ANSWER_D, strict=True):
        low, high = found["ranges"][name]
        assert p - reach - 1e-9 <= low <= p - 0.9 * reach
        assert p + 0.9 * reach <= high <= p + reach + 1e-9
    simplest_D = np.array([found["simplest"]["mixture"][name] for name in NAMES])
    assert np.linalg.norm(simplest_D - ANSWER_D) == pytest.approx(radius, rel=0.02)
    assert 0 < found["simplest"]["kl"] < found["simplest"]["kl_recommended"]
    assert found["simplest"]["kl_recommended"] == pytest.approx(float(ANSWER_D @ np.log(ANSWER_D / 0.25)))
    along_D = ANSWER_D + radius * (0.25 - ANSWER_D) / np.linalg.norm(0.25 - ANSWER_D)
    assert found["simplest"]["kl"] <= float(along_D @ np.log(along_D / 0.25)) + 1e-3


def test_where_nothing_matters_the_prior_is_as_good() -> None:
    law: Any = Plane(np.ones((2, 4)))
    answer = Answer.of(space_of(), OBJECTIVE, law, ANSWER_D, [law] * 19, lambda other: np.full(4, 0.25))
    found = measure(answer, np.random.default_rng(0))
    assert (found["gain"]["low"], found["gain"]["high"]) == pytest.approx((0, 0), abs=1e-12)
    assert uncertainty.verdict({"value": 0.0, "low": 0.0, "high": 0.0}, "nats").startswith(
        "The predicted gain is inside the noise: "
    )
    assert list(found["region"]["simplest"]["mixture"].values()) == pytest.approx([0.25] * 4)
    assert found["region"]["simplest"]["kl"] == pytest.approx(0, abs=1e-9)
    assert found["region"]["ranges"]["a"] == pytest.approx([0, 1], abs=1e-6)


def test_laws_without_an_answer_are_counted() -> None:
    laws = bowls(25)

    def refusing(first: int) -> Any:
        def optimum(law: Any) -> FloatArray:
            if any(law is other for other in laws[:first]):
                raise InfeasibleSpace("no mixture keeps the floors")
            return np.asarray(law.centre_D)

        return optimum

    law: Any = Bowl(ANSWER_D)
    answer = Answer.of(space_of(), OBJECTIVE, law, ANSWER_D, laws, refusing(6))
    found = measure(answer, np.random.default_rng(0))
    assert (found["draws"], found["unanswered"]) == (19, 6)
    with pytest.raises(SwarmError, match=r"only 18 of 25 plausible laws have an answer.*keeps the floors"):
        Answer.of(space_of(), OBJECTIVE, law, ANSWER_D, laws, refusing(7))


@pytest.mark.parametrize(
    ("low", "high", "start"),
    [(-0.1, 0.2, "The predicted gain is inside the noise: +0.0500 nats"), (0.01, 0.2, "The law predicts a gain of 0.05"),
     (-0.2, -0.01, "The law predicts a loss of 0.05")],
)  # fmt: skip
def test_verdict(low: float, high: float, start: str) -> None:
    value = 0.05 if high > 0 else -0.05
    assert uncertainty.verdict({"value": value, "low": low, "high": high}, "nats").startswith(start)


def test_caps_count_the_answers_they_stop() -> None:
    space = space_of(max_epochs=2.0, upper={"d": 0.3})  # a, b, c at most 0.5
    optima_BD = np.array([[0.5, 0.3, 0.1, 0.1]] * 15 + [[0.4, 0.2, 0.1, 0.3]] * 5)
    law: Any = Plane(np.ones((2, 4)))
    answer = Answer(space, OBJECTIVE, law, ANSWER_D, [law] * 20, optima_BD)
    assert uncertainty.caps(answer) == {"a": 0.75, "b": 0.0, "c": 0.0, "d": 0.25}
    assert uncertainty.caps(Answer(space_of(), OBJECTIVE, law, ANSWER_D, [law] * 20, optima_BD)) == {}


def test_effects_of_a_plane() -> None:
    a_MD = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 0.0, 2.0]])
    laws: list[Any] = [Plane(scale * a_MD) for scale in np.linspace(0.5, 1.5, 19)]
    answer = Answer(space_of(), OBJECTIVE, laws[9], ANSWER_D, laws, np.tile(ANSWER_D, (19, 1)))
    found = uncertainty.effects(answer)
    weights_M = OBJECTIVE.weights_M
    for j, name in enumerate(NAMES):
        others_M = (a_MD @ ANSWER_D - a_MD[:, j] * ANSWER_D[j]) / (1 - ANSWER_D[j])
        change_M = -STEP * (a_MD[:, j] - others_M)
        up = found[name]["up"]
        assert up["value"] == pytest.approx(float(weights_M @ change_M))
        ends = sorted(scale * float(weights_M @ change_M) for scale in (0.5, 1.5))
        assert [up["low"], up["high"]] == pytest.approx(ends)
        assert up["metrics"]["bpb/a"]["value"] == pytest.approx(change_M[0])
        assert found[name]["down"]["value"] == pytest.approx(-up["value"])


def test_coxs_direction_keeps_the_others_in_proportion_and_the_bounds() -> None:
    moved_D = cox(space_of(), ANSWER_D, 1, STEP)
    assert moved_D is not None
    assert moved_D == pytest.approx([0.4 * 0.65 / 0.7, 0.35, 0.2 * 0.65 / 0.7, 0.1 * 0.65 / 0.7])
    assert cox(space_of(upper={"b": 0.34}), ANSWER_D, 1, STEP) is None
    assert cox(space_of(lower={"a": 0.39}), ANSWER_D, 1, STEP) is None  # another domain would fall below its bound
    assert cox(space_of(upper={"a": 0.41}), ANSWER_D, 1, -STEP) is None
    assert cox(space_of(), np.array([0.96, 0.02, 0.01, 0.01]), 0, STEP) is None
    assert cox(space_of(), np.array([0.96, 0.02, 0.01, 0.01]), 1, -STEP) is None
    assert cox(space_of(), np.array([1.0, 0, 0, 0]), 0, -STEP) is None


def test_the_region_stays_inside_the_space() -> None:
    space = space_of(max_epochs=1.8, lower={"d": 0.08})
    region = search(
        space,
        lambda X_ND: ((X_ND - ANSWER_D) ** 2).sum(axis=1),
        ANSWER_D,
        np.full(4, 0.25),
        np.tile(ANSWER_D, (19, 1)),
        0.5,
        np.random.default_rng(0),
    )
    assert (region.low_D >= space.lower_D).all()
    assert (region.high_D <= space.upper_D).all()
    assert region.low_D[3] == pytest.approx(0.08)
    assert region.high_D[0] == pytest.approx(0.45)
    assert not space.violations(Mixture.from_array(NAMES, region.simplest_D))
    assert region.kl_simplest == pytest.approx(0, abs=1e-9)


def test_equal_answers_from_equal_generators() -> None:
    def text(seed: int) -> str:
        return json.dumps(measure(bowl_answer(bowls()), np.random.default_rng(seed)), allow_nan=False)

    assert text(0) == text(0)
    assert text(0) != text(1)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """A plane with noise, fitted to 64 runs and drawn again: 90 % intervals of gain and effects, 150 times."""
    space, inside = space_of(), []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        truth = Plane(rng.normal(2, 0.3, (2, 4)))
        X_RD = rng.dirichlet(np.ones(4), 64)
        Y_RM = truth.predict(X_RD) + 0.1 * rng.standard_normal((64, 2))
        law = Linear(ridge=1e-6).fit(X_RD, Y_RM)
        laws = plausible(law, X_RD, Y_RM, rng, 39)
        answer = Answer(space, OBJECTIVE, law, ANSWER_D, laws, np.tile(ANSWER_D, (39, 1)))
        gain, effects = uncertainty.gain(answer, ANSWER_D), uncertainty.effects(answer)
        real = Answer(space, OBJECTIVE, truth, ANSWER_D, [truth] * 19, answer.optima_BD)  # type: ignore[arg-type, list-item]
        real_gain, real_effects = uncertainty.gain(real, ANSWER_D), uncertainty.effects(real)
        pairs = [(gain, real_gain), *((effects[n]["up"], real_effects[n]["up"]) for n in NAMES)]
        inside.append([found["low"] <= known["value"] <= found["high"] for found, known in pairs])
    covered = np.mean(inside, axis=0)
    assert 0.84 <= covered[0] <= 0.96
    assert 0.84 <= covered[1:].mean() <= 0.96


def test_optima_next_to_the_answer_and_constraints_beside_bounds_break_nothing() -> None:
    """Rays of rounding errors are not followed; members of the region keep groups, trust regions and floors."""
    rng = np.random.default_rng(1)
    kept = {"groups": {"ab": Group(("a", "b"), 0.0, 0.6)}, "trust": Trust(kl=0.3, l1=0.8)}
    space, law = space_of(**kept), Plane(rng.normal(size=(2, 4)))
    answer_D = space.nearest(ANSWER_D).array(NAMES)
    optima_BD = np.array([answer_D, *(space.nearest(p_D).array(NAMES) for p_D in rng.dirichlet(np.full(4, 5), 20))])
    optima_BD[0] += [1e-9, -1e-9, 1e-10, -1e-10]
    guarded = Objective(OBJECTIVE.weights, {"bpb/a": 9.0})
    known = measure(Answer(space, guarded, law, answer_D, [law] * 21, optima_BD), rng)
    simplest = Mixture(known["region"]["simplest"]["mixture"])
    assert not space.violations(simplest)
    low, high = known["region"]["ranges"]["a"]
    assert low <= answer_D[0] <= high
    assert high < 0.6


def test_moves_that_any_constraint_forbids_are_left_out() -> None:
    space = space_of(trust=Trust(l1=0.55))
    assert cox(space, np.full(4, 0.25), 0, STEP) is not None
    far_D = np.array([0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    assert cox(space, far_D, 0, STEP) is None
    assert cox(space, far_D, 0, -STEP) is not None
