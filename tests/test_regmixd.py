"""RegMix-D: what a swarm's checkpoints teach about a switch, units, what it refuses, and that it listens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixopt.errors import JobError, SwarmError
from mixopt.laws.transition import fit, out_of_fold
from mixopt.methods.regmixd import RegMixDynamic, Seen
from mixopt.mixture import FloatArray, Schedule
from mixopt.policies.regmixd import RegMixD, Transition, candidates
from mixopt.policy import Feedback
from mixopt.runs import Objective, RunRecord, Swarm
from mixopt.study import Study
from proxies.toy import Toy

NAMES = ("a", "b", "c", "d")
TOY = Toy(NAMES)
ENDS = (0.25, 0.5, 0.75, 1.0)
EVEN = np.full(4, 0.25)


def taught(runs: int = 60) -> tuple[Transition, FloatArray, FloatArray]:
    X_RD = np.random.default_rng(0).dirichlet(np.ones(4), runs)
    L_RIM = np.array([[TOY.losses_D(end * p_D) for end in ENDS] for p_D in X_RD])
    return fit(NAMES, NAMES, ENDS, X_RD, L_RIM), X_RD, L_RIM


@pytest.fixture(scope="module")
def law() -> Transition:
    return taught()[0]


@pytest.mark.parametrize("at", [1, 2, 3])
def test_static_runs_say_what_a_switch_would_do(law: Transition, at: int) -> None:
    """After `at` quarters on the even mixture one domain alone: within a tenth of each loss's fall, off its domain too."""
    before_D = TOY.losses_D(ENDS[at - 1] * EVEN)
    for j, one_D in enumerate(np.eye(4)):
        truth_D = TOY.losses_D(ENDS[at - 1] * EVEN + 0.25 * one_D) - before_D
        said_D = law.losses(law.next(at, one_D[None], law.learnt(before_D)[None]))[0] - before_D
        assert said_D == pytest.approx(truth_D, abs=0.1 * abs(truth_D[j]))


def test_runs_left_out_are_predicted() -> None:
    law, X_RD, L_RIM = taught()
    error_RM = out_of_fold(law, X_RD, L_RIM) - L_RIM[:, -1]
    assert (error_RM.std(axis=0) < 0.1 * L_RIM[:, -1].std(axis=0)).all()


def test_runs_left_out_are_predicted_with_the_laws_own_ridge() -> None:
    """One so strong that no interval may differ predicts them worse."""
    law, X_RD, L_RIM = taught()
    error, stiff = (
        np.abs(out_of_fold(some, X_RD, L_RIM) - L_RIM[:, -1]).mean() for some in (law, replace(law, ridge=(1e4,) * 4))
    )
    assert stiff > 2 * error


def test_intervals_may_differ() -> None:
    """A swarm whose last quarter teaches three times as much of `a` and nothing else is understood as that."""
    X_RD = np.random.default_rng(1).dirichlet(np.ones(4), 60)
    gains_I = np.array([1.0, 1.0, 1.0, 3.0])
    u_RIM = 1.0 + np.cumsum(X_RD[:, None] * np.where(np.arange(4) == 0, gains_I[:, None], 1.0), axis=1)
    law = fit(NAMES, NAMES, ENDS, X_RD, 1 + u_RIM**-0.5)
    start_M = 1 + np.full(4, 2.5) ** -0.5
    fallen = [law.losses(law.next(i, np.eye(4)[:1], law.learnt(start_M)[None]))[0, 0] - start_M[0] for i in (1, 3)]
    assert fallen == pytest.approx([3.5**-0.5 - 2.5**-0.5, 5.5**-0.5 - 2.5**-0.5], rel=0.1)


def even_policy(law: Transition) -> RegMixD:
    each, even = dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 0.25)
    return RegMixD(law, even, each, even, dict.fromkeys(NAMES, 0.0), each)


def test_it_listens(law: Transition) -> None:
    """A run whose loss of `a` is higher than its mixture explains gets more of `a` than one where all is as expected."""
    policy = even_policy(law)
    state = policy.init(NAMES, Feedback(0, 1000, {}))
    assert policy.segment(state).tokens == 250
    expected_D = TOY.losses_D(0.25 * EVEN)
    first, second = (
        policy.update(state, Feedback(250, 1000, {"valid": expected_D + extra * np.eye(4)[0]})).now["a"]
        for extra in (0.0, 0.3)
    )
    assert second > first + 0.02
    bounded = replace(policy, upper={**policy.upper, "a": 0.1})
    assert bounded.update(state, Feedback(250, 1000, {"valid": expected_D})).now["a"] <= 0.1 + 1e-9
    with pytest.raises(JobError, match="learned from runs of a, b, c, d; this run has a, b"):
        policy.init(("a", "b"), Feedback(0, 1000, {}))


def test_a_phase_is_over_when_less_than_half_a_step_of_it_is_left(law: Transition) -> None:
    """Steps of 60 tokens: the first 250 end at 240, the nearest step, but not at 180."""
    policy = even_policy(law)
    state = policy.init(NAMES, Feedback(0, 1000, {}, 60))
    losses = {"valid": TOY.losses_D(0.25 * EVEN)}
    assert policy.update(state, Feedback(180, 1000, losses, 60)).round == 0
    after = policy.update(state, Feedback(240, 1000, losses, 60))
    assert after.round == 1
    assert policy.segment(after).tokens == 260


def test_switches_search_as_many_candidates_as_asked_for(law: Transition, study: Study) -> None:
    """The mean of all candidates is another than that of the best few, and knobs of the method reach the policy."""
    few, all_of_them = (
        replace(even_policy(law), candidates=200, keep=5),
        replace(even_policy(law), candidates=5, keep=5),
    )
    losses = {"valid": TOY.losses_D(0.25 * EVEN)}
    found = [
        p.update(p.init(NAMES, Feedback(0, 1000, {})), Feedback(250, 1000, losses)).now for p in (few, all_of_them)
    ]
    mean_D = candidates(all_of_them._space, 0, 1, 5).mean(axis=0)
    assert found[1].array(NAMES) == pytest.approx(mean_D)
    assert found[0].array(NAMES) != pytest.approx(mean_D, abs=0.02)
    policy = RegMixDynamic(online=True, candidates=200, keep=5).policy(study, np.random.default_rng(0))
    assert (policy.to_json()["candidates"], policy.to_json()["keep"]) == (200, 5)


def test_candidates_lie_within_bounds_and_are_others_in_each_round(toy_study: Study) -> None:
    drawn_ND = candidates(toy_study.space, 3, 1, 100)
    assert drawn_ND.sum(axis=1) == pytest.approx(np.ones(100))
    assert (drawn_ND <= toy_study.space.upper_D + 1e-9).all()
    assert (drawn_ND == candidates(toy_study.space, 3, 1, 100)).all()
    assert not np.allclose(candidates(toy_study.space, 3, 2, 100), drawn_ND)


@pytest.fixture
def study(toy_study: Study) -> Study:
    """The toy's swarm with four checkpoints, trained."""
    asking = replace(toy_study, proxy=replace(toy_study.proxy, checkpoints=4))
    specs = RegMixDynamic().ask(asking, np.random.default_rng(0))
    return replace(asking, swarm=Swarm(tuple(TOY(specs))))


def test_units_do_not_matter(study: Study) -> None:
    """Bits per byte beside nats per token: the same plan, predicted in the objective's unit."""
    unit_by_name = dict(zip(NAMES, (0.3, 0.3, 0.3, 0.3), strict=True))

    def told(metrics: dict[str, float]) -> dict[str, float]:
        losses = {key.replace("bpb", "loss"): value for key, value in metrics.items()}
        return losses | {key: unit_by_name[key[4:]] * value for key, value in metrics.items()}

    def both(record: RunRecord) -> RunRecord:
        path = tuple((tokens, told(dict(metrics))) for tokens, metrics in record.trajectory)
        return replace(record, metrics=told(dict(record.metrics)), trajectory=path)

    method = RegMixDynamic(candidates=2000)
    plain = method.recommend(study, np.random.default_rng(1))
    converted = replace(study, swarm=Swarm(tuple(both(r) for r in study.swarm.records)))
    other = method.recommend(converted, np.random.default_rng(1))
    assert other.mixture.array(NAMES) == pytest.approx(plain.mixture.array(NAMES), abs=1e-9)
    assert other.predicted["objective"] == pytest.approx(0.3 * plain.predicted["objective"])
    assert Seen.of(converted).units_M == pytest.approx(np.full(4, 0.3))


def test_the_plan_is_as_good_as_predicted(study: Study) -> None:
    """The toy trains the schedule itself and ends where the transition said."""
    found = RegMixDynamic(candidates=5000).recommend(study, np.random.default_rng(1))
    assert len(Schedule.of(found.evidence["schedule"]).phases) == 4
    (record,) = TOY([study.spec(found.feed)])
    assert study.objective.value(record.metrics) == pytest.approx(found.predicted["objective"], abs=0.01)
    assert study.objective.value(record.metrics) < min(study.objective.value(r.metrics) for r in study.swarm.records)


def test_what_it_cannot_do_is_said_at_once(toy_study: Study) -> None:
    asked = replace(toy_study, objective=Objective({"bpb/a": 1.0, "score/x": 1.0}, {"bpb/a": 0.0}))
    with pytest.raises(JobError) as caught:
        RegMixDynamic().ask(asked, np.random.default_rng(0))
    for part in ("proxies.checkpoints: .*", "not score/x", "objective.floors: regmixd keeps none"):
        assert part.replace(".*", "") in str(caught.value)
    with pytest.raises(JobError, match=r"method\.keep: must be between 1 and candidates, 10"):
        RegMixDynamic(candidates=10, keep=11)
    with pytest.raises(SwarmError, match="7 good runs are too few for 4 domains"):
        taught(7)
