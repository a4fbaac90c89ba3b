"""RegMix-D: what a swarm's checkpoints teach about a switch, units, what it refuses, and that it listens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mixopt.errors import JobError, SwarmError
from mixopt.laws.transition import fit
from mixopt.methods.regmixd import RegMixDynamic, Seen
from mixopt.mixture import FloatArray, Mixture, Schedule
from mixopt.policies.regmixd import RegMixD, Transition, candidates
from mixopt.policy import Feedback
from mixopt.runs import Objective, RunRecord, Swarm
from mixopt.study import Study
from proxies.toy import Toy

NAMES = ("a", "b", "c", "d")
TOY = Toy(NAMES)
ENDS = (0.25, 0.5, 0.75, 1.0)
EVEN = np.full(4, 0.25)


def taught(runs: int = 60, recent: float = 0.0) -> Transition:
    """In the toy a token counts alike at any time."""
    X_RD = np.random.default_rng(0).dirichlet(np.ones(4), runs)
    L_RIM = np.array([[TOY.losses_D(end * p_D) for end in ENDS] for p_D in X_RD])
    return fit(NAMES, NAMES, ENDS, X_RD, L_RIM, recent)


@pytest.fixture(scope="module")
def law() -> Transition:
    return taught()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_static_runs_say_what_a_switch_would_do(law: Transition, at: int) -> None:
    """After `at` quarters on the even mixture one domain alone: within a tenth of each loss's fall, off its domain too."""
    before_D, fed_D = TOY.losses_D(ENDS[at - 1] * EVEN), ENDS[at - 1] * EVEN
    x_M = law.beyond(at - 1, fed_D, before_D)
    for j, one_D in enumerate(np.eye(4)):
        truth_D = TOY.losses_D(fed_D + (1 - ENDS[at - 1]) * one_D) - before_D
        said_D = law.end(fed_D, one_D[None], x_M)[0] - before_D
        assert said_D == pytest.approx(truth_D, abs=0.1 * abs(truth_D[j]))


def forgetful(X_ND: FloatArray) -> FloatArray:
    """Losses [N, I, M] as text has them: they rise with time where a domain is not trained, and its first bit counts most."""
    worth_MD = np.where(np.eye(4) > 0, 1.0, 0.05)
    h_NM = np.sqrt(X_ND + 1e-3) @ worth_MD.T
    a_I, b_I = np.array([0.5, 0.8, 0.9, 1.0]), np.array([0.08, 0.03, 0.01, 0.001])
    return np.asarray(3 + 1.5 * (b_I[:, None] + a_I[:, None] * h_NM[:, None]) ** -0.5)


def test_losses_that_rise_where_a_domain_is_absent_are_predicted_at_every_checkpoint() -> None:
    """24 runs, some without a domain: others, too, to a fifth of what mixtures differ by."""
    rng = np.random.default_rng(1)
    X_RD, X_ND = (rng.dirichlet(np.full(4, 0.5), count) for count in (24, 40))
    X_RD[:4] = (1 - np.eye(4)) / 3
    law, truth_NIM = fit(NAMES, NAMES, ENDS, X_RD, forgetful(X_RD)), forgetful(X_ND)
    for i in range(4):
        error_NM = law.losses(law.learnt(i, X_ND)) - truth_NIM[:, i]
        assert (np.abs(error_NM).mean(axis=0) < 0.2 * truth_NIM[:, i].std(axis=0)).all()
    assert law.end(np.zeros(4), X_ND) == pytest.approx(law.losses(law.learnt(3, X_ND)))


def test_later_tokens_count_more() -> None:
    """The first half is a quarter of the run where a token counts as its place, half where all count alike."""
    assert [taught(recent=recent).counts(0.0, 0.5) for recent in (0.0, 1.0)] == pytest.approx([0.5, 0.25])
    law, (a_D, b_D) = taught(recent=1.0), np.eye(4)[:2]
    a_last = law.end(law.counts(0.0, 0.5) * b_D, a_D[None])[0]
    assert a_last[0] < law.end(law.counts(0.0, 0.5) * a_D, b_D[None])[0, 0]
    with pytest.raises(JobError, match=r"method\.recent: must be 0 or more"):
        RegMixDynamic(recent=-1.0)


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


def test_it_counts_what_was_trained(law: Transition) -> None:
    """Where a limit cut `a`, its measured loss is no surprise, and the run is given more of it than if it had had its part."""
    policy, losses = even_policy(law), {"valid": TOY.losses_D(0.25 * EVEN)}
    state = policy.init(NAMES, Feedback(0, 1000, {}))
    half = policy.update(
        state, Feedback(100, 1000, losses, trained=Mixture.normalised({"a": 0, "b": 1, "c": 1, "d": 1}))
    )
    assert half.round == 0
    assert policy.segment(half).tokens == 150
    assert policy.update(half, Feedback(250, 1000, losses)).fed == pytest.approx([0.0375, *(3 * [0.2125 / 3])])


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
    assert Seen.of(converted, 1.0).units_M == pytest.approx(np.full(4, 0.3))


def test_the_plan_is_as_good_as_predicted(study: Study) -> None:
    """The toy trains the schedule itself and ends where the transition said."""
    found = RegMixDynamic(candidates=5000).recommend(study, np.random.default_rng(1))
    (record,) = TOY([study.spec(found.feed)])
    assert study.objective.value(record.metrics) == pytest.approx(found.predicted["objective"], abs=0.01)
    assert study.objective.value(record.metrics) < min(study.objective.value(r.metrics) for r in study.swarm.records)


def test_a_plan_switches_only_where_that_saves_something(study: Study) -> None:
    """A thorough search finds nothing better later; one of a single draw, like a poor beginning, leaves something to correct."""
    phases = [
        Schedule.of(method.recommend(study, np.random.default_rng(1)).evidence["schedule"]).phases
        for method in (RegMixDynamic(candidates=5000), RegMixDynamic(candidates=1, keep=1))
    ]
    assert len(phases[0]) == 1
    assert len(phases[1]) > 1
    assert {start for start, _ in phases[1]} <= {0.0, 0.25, 0.5, 0.75}


def test_a_loss_that_the_transition_does_not_predict_is_named(study: Study) -> None:
    """One loss is drawn by lot: no law can know it, and the reader is told which one it is."""
    rng = np.random.default_rng(5)

    def told(record: RunRecord) -> RunRecord:
        lot = {"bpb/b": float(rng.normal(2.0, 0.3))}
        path = tuple((tokens, dict(metrics) | lot) for tokens, metrics in record.trajectory)
        return replace(record, metrics=dict(record.metrics) | lot, trajectory=path)

    notes = [
        RegMixDynamic(candidates=500).recommend(each, np.random.default_rng(1)).evidence["proposer_notes"]
        for each in (study, replace(study, swarm=Swarm(tuple(told(r) for r in study.swarm.records))))
    ]
    assert len(notes[0]) == 1
    assert "explains less than half of how bpb/b vary over the runs" in notes[1][1]


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
