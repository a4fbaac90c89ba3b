"""Every method: deterministic, prefix-stable, feasible, better than the prior on the toy, deaf to order and failures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from mixopt.errors import InfeasibleSpace, JobError, RunFailed, SwarmError
from mixopt.laws import LAWS, LawName
from mixopt.limits import Group, Trust
from mixopt.methods import METHODS, ONLINE, make
from mixopt.methods.doge import DoGE
from mixopt.methods.doremi import DoReMi
from mixopt.methods.olmix import Olmix
from mixopt.methods.regmix import RegMix
from mixopt.methods.regmixd import RegMixDynamic
from mixopt.mixture import Schedule
from mixopt.progress import Silent
from mixopt.rehearsal import beside
from mixopt.runs import Objective
from mixopt.search import Workshop
from mixopt.space import MixtureSpace
from mixopt.store import Store
from mixopt.study import Method, Recommendation, Study
from pipelines.local_executor import LocalExecutor
from proxies.toy import Toy

PHASES = ((0.0, {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}), (0.7, {"a": 0.3, "b": 0.2, "c": 0.1, "d": 0.4}))
ROWS = {
    "regmix": RegMix(candidates=5000, keep=32),
    "regmix, linear": RegMix(law="linear", candidates=5000, keep=32),
    "olmix": Olmix(),
    "olmix, no pull": Olmix(kl=0.0),
    "doge": DoGE(rounds=20),
    "doremi": DoReMi(rounds=20),
    "doremi, iterated": DoReMi(iterations=3, rounds=20),
    "grape": make("grape", {"rounds": 20}),
    "rnb": make("rnb", {"rounds": 20}),
    "prior": METHODS["prior"](),
    "uniform": METHODS["uniform"](),
    "unimax": METHODS["unimax"](),
    "schedule": METHODS["schedule"](PHASES),
    "regmixd": RegMixDynamic(candidates=2000, keep=16),
    "regmixd, online": RegMixDynamic(online=True, candidates=2000, keep=16),
    "aioli, memoryless": make("aioli", {"ema": 0.1, "eta": 5.0}),
    "skillit": make("skillit", {}),
    "skillit, pairs": make("skillit", {"edges": "pairs"}),
    "dynamixsft": make("dynamixsft", {"rounds": 10}),  # a look-ahead takes a step of each domain
    **{name: make(name, {}) for name in ONLINE if name not in ("dynamixsft", "grape", "rnb")},
}
SEARCHING = [name for name in ROWS if name.partition(",")[0] in ("regmix", "olmix") or name == "regmixd"]
FOLLOWING = [
    name for name in ROWS if name.partition(",")[0] in (*ONLINE, "skillit")
]  # a run or two of the whole budget
LASTING = [*FOLLOWING, "doge", "doremi", "doremi, iterated"]  # a larger budget makes other runs, never more of the same
GIVEN = ("prior", "uniform", "schedule")  # they move to no other mixture where theirs is not allowed


@pytest.fixture
def toy_study(toy_study: Study) -> Study:
    """With the checkpoints at which RegMix-D switches."""
    return replace(toy_study, proxy=replace(toy_study.proxy, checkpoints=4))


@pytest.fixture(params=ROWS)
def method(request: pytest.FixtureRequest) -> Method:
    return ROWS[request.param]


def conclude(study: Study, method: Method, train: Toy, store: Path) -> tuple[Study, Recommendation]:
    done = Workshop(LocalExecutor(train), Store(store), Silent()).complete(study, method, "proxies")
    return done, method.recommend(done, np.random.default_rng([study.seed, 1]))


def test_every_method_has_a_row() -> None:
    assert {name.partition(",")[0] for name in ROWS} == set(METHODS)


def asked(method: Method, study: Study, count: int) -> list[str]:
    return [s.id for s in method.ask(replace(study, count=count), np.random.default_rng([0, 0]))]


def test_ask_is_deterministic(method: Method, toy_study: Study) -> None:
    assert asked(method, toy_study, 40) == asked(method, toy_study, 40)


@pytest.mark.parametrize("name", [name for name in ROWS if name not in LASTING])
def test_ask_is_prefix_stable(name: str, toy_study: Study) -> None:
    few = asked(ROWS[name], toy_study, 40)
    assert asked(ROWS[name], toy_study, 60)[: len(few)] == few


@pytest.mark.parametrize("name", [*LASTING, "regmixd, online"])
def test_the_whole_budget_is_trained_and_no_more(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    """With the probes that a trainer would train beside a run. Only DoReMi, when it iterates, may be content with less."""
    study, _ = conclude(toy_study, ROWS[name], toy, tmp_path)
    names, step = study.space.names, study.proxy.batch * study.proxy.sequence
    specs = [record.spec for record in study.swarm.records]
    spent = sum(s.proxy.tokens + beside(s.feed, names, s.proxy.tokens, step) for s in specs)
    assert 0.97 * study.budget < spent <= study.budget or (name == "doremi, iterated" and spent < study.budget)


@pytest.mark.parametrize("name", [*FOLLOWING, "regmixd, online"])
def test_a_method_that_follows_a_policy_names_it(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    done, found = conclude(toy_study, ROWS[name], toy, tmp_path)
    assert done.swarm.records[-1].spec.feed == found.policy
    assert any("went through" in note for note in found.evidence["proposer_notes"])
    planned = Schedule.of(found.evidence["schedule"]).mean
    assert planned.array(toy_study.space.names) == pytest.approx(found.mixture.array(toy_study.space.names), abs=1e-9)


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_diverged_run_of_few_is_refused(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"(diverged|told to fail).*A lower proxies\.learning_rate helps"):
        conclude(toy_study, ROWS[name], replace(toy, fails="0123456789abcdef"), tmp_path)


def test_a_resumed_search_gives_the_same_answer(method: Method, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    _, straight = conclude(toy_study, method, toy, tmp_path / "straight")
    conclude(replace(toy_study, count=25), METHODS["regmix"](law="linear"), toy, tmp_path / "resumed")  # a part of it
    _, resumed = conclude(toy_study, method, toy, tmp_path / "resumed")
    assert resumed == straight


def test_the_recommendation_is_allowed_or_refused(method: Method, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    tight = MixtureSpace(toy_study.space.domains, 1000, max_epochs=1.3, lower={"d": 0.05}, upper={"a": 0.5})
    study = replace(toy_study, space=tight)
    if method in (METHODS["uniform"](), METHODS["schedule"](PHASES)):
        with pytest.raises(
            InfeasibleSpace,
            match=r"not allowed here: .*(d: 2\.5 epochs .* Use unimax|d: 1\.9 epochs .* Change its phases)",
        ):
            conclude(study, method, toy, tmp_path)
        return
    _, found = conclude(study, method, toy, tmp_path)
    assert tight.violations(found.mixture) == []


def test_unimax_is_uniform_up_to_the_caps(toy_study: Study) -> None:
    """N = (400, 300, 200, 100), R = 1000, 1.5 epochs: d is capped at .15, c at .30 does not bind: (.85 / 3) each."""
    space = MixtureSpace(toy_study.space.domains, 1000, max_epochs=1.5)
    found = METHODS["unimax"]().recommend(replace(toy_study, space=space), np.random.default_rng(0))
    assert found.mixture.array(space.names) == pytest.approx(np.array([0.85 / 3, 0.85 / 3, 0.85 / 3, 0.15]))


@pytest.mark.parametrize("name", SEARCHING)
def test_beats_the_prior_on_the_toy(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    _, found = conclude(toy_study, ROWS[name], toy, tmp_path)
    names = toy_study.space.names
    ours, prior = (toy.losses_D(m.array(names)).mean() for m in (found.mixture, toy_study.space.prior_mixture))
    if name == "regmix, linear":  # a linear law walks to a corner; being allowed is all that is promised
        assert toy_study.space.violations(found.mixture) == []
    else:
        assert ours < prior


@pytest.mark.parametrize("name", SEARCHING)
def test_survives_failed_runs(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    done, found = conclude(toy_study, ROWS[name], replace(toy, fails="01"), tmp_path)
    assert 0 < len(done.swarm.good.records) < toy_study.count
    assert toy_study.space.violations(found.mixture) == []


@pytest.mark.parametrize("name", SEARCHING)
def test_refuses_too_few_good_runs(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(SwarmError, match="good runs are too few"):
        conclude(toy_study, ROWS[name], replace(toy, fails="0123456789abcdef"), tmp_path)


@pytest.mark.parametrize("name", SEARCHING)
def test_order_of_domains_cannot_matter(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    space = MixtureSpace(toy_study.space.domains[::-1], 1000, max_epochs=4)
    _, one = conclude(toy_study, ROWS[name], toy, tmp_path / "one")
    _, other = conclude(replace(toy_study, space=space), ROWS[name], toy, tmp_path / "other")
    assert one == other


@pytest.mark.parametrize("name", SEARCHING)
def test_the_prediction_is_near_the_truth(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    """The toy is smooth and nearly without noise: a law that fits knows its optimum's value within the interval."""
    _, found = conclude(toy_study, ROWS[name], toy, tmp_path)
    truth = toy.losses_D(found.mixture.array(toy_study.space.names)).mean()
    assert found.interval is not None
    low, high = found.interval
    width = high - low
    assert low - width < truth < high + width


def test_methods_take_every_law() -> None:
    assert sorted(get_args(LawName)) == sorted(LAWS)


@pytest.mark.parametrize("name", ROWS)
def test_groups_and_trust_regions_hold_or_are_refused(name: str, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    groups = {"cd": Group(("c", "d"), 0.35, 0.45)}
    space = MixtureSpace(toy_study.space.domains, 1000, max_epochs=4, groups=groups, trust=Trust(kl=0.1))
    try:
        _, found = conclude(replace(toy_study, space=space), ROWS[name], toy, tmp_path)
    except InfeasibleSpace as e:
        assert name in GIVEN
        assert "group cd" in str(e)
    except JobError as e:
        assert name == "regmixd, online"
        assert "no groups or trust region. Use online: false" in str(e)
    else:
        assert space.violations(found.mixture) == []


@pytest.mark.parametrize(("name", "law"), [("olmix", "loglinear"), ("olmix", "quadratic"), ("regmix", "lightgbm")])
def test_floors_hold_in_the_law_and_their_prices_are_evidence(
    name: str, law: str, toy_study: Study, toy: Toy, tmp_path: Path
) -> None:
    objective = Objective({"bpb/a": 1.0, "bpb/b": 1.0}, {"bpb/d": 0.0})
    method = METHODS[name](law=law)
    study, found = conclude(replace(toy_study, objective=objective), method, toy, tmp_path)
    assert study.objective.metrics == ("bpb/a", "bpb/b", "bpb/d")
    assert study.objective.weights_M.tolist() == [0.5, 0.5, 0.0]
    (floor,) = found.evidence["floors"]
    assert floor["metric"] == "bpb/d"
    assert found.predicted["bpb/d"] == pytest.approx(floor["predicted"])
    assert floor["predicted"] <= floor["limit"] * (1 + 1e-6)
    assert found.evidence["how"] == ("exact" if law == "loglinear" else found.evidence["how"])
    if found.evidence["how"] == "exact":
        free = method.recommend(
            replace(study, objective=Objective({"bpb/a": 1.0, "bpb/b": 1.0})), np.random.default_rng(0)
        )
        assert floor["price"] > 1e-3
        assert free.predicted["objective"] < found.predicted["objective"]
