"""Paired intervals and the verdict that a reader acts on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy import stats

from mixopt import results
from mixopt.errors import RunFailed
from mixopt.methods.regmix import RegMix
from mixopt.mixture import Mixture
from mixopt.progress import Silent
from mixopt.runs import Objective
from mixopt.search import Workshop
from mixopt.space import MixtureSpace
from mixopt.store import Store
from mixopt.study import Study
from mixopt.validate import PRIOR, RECOMMENDED, Interval, Validate, arms, verdict
from pipelines.local_executor import LocalExecutor
from proxies.toy import Toy

GOOD = Mixture({"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25})


def validated(study: Study, train: Toy, store: Path) -> tuple[Study, Validate]:
    check = Validate(arms(study, GOOD), seeds=3, first_seed=1)
    return Workshop(LocalExecutor(train), Store(store), Silent()).complete(study, check, "validation"), check


def test_interval_is_students() -> None:
    found = Interval.paired([0.1, 0.2, 0.3])
    low, high = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem([0.1, 0.2, 0.3]))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert not found.clear
    assert Interval.paired([0.19, 0.2, 0.21]).clear


def test_every_arm_is_trained_at_every_seed(toy_study: Study, toy: Toy, scratch: Path) -> None:
    done, check = validated(toy_study, toy, scratch)
    paired = check.paired(done)
    assert set(paired) == {RECOMMENDED, PRIOR, "uniform"}
    for records in paired.values():
        assert [r.spec.seed for r in records] == [1, 2, 3]


def test_gain_is_positive_when_the_recommendation_is_better(toy_study: Study, toy: Toy, scratch: Path) -> None:
    done, check = validated(toy_study, toy, scratch)
    found = results.validation(done, check)
    names = toy_study.space.names
    prior_D, good_D = (m.array(names) for m in (toy_study.space.prior_mixture, GOOD))
    truth = toy.losses_D(prior_D).mean() - toy.losses_D(good_D).mean()
    gain = found["gain_over_prior"]
    assert gain["low"] < truth < gain["high"]
    assert found["differences"][PRIOR]["objective"] == gain
    assert found["seeds"] == 3


def test_pairs_with_a_failed_run_are_left_out(toy_study: Study, toy: Toy, scratch: Path) -> None:
    done, check = validated(toy_study, toy, scratch)
    records = done.swarm.records
    lame = replace(records[0], error="nan", diverged=True, metrics={})
    partial = replace(done, swarm=replace(done.swarm, records=(lame, *records[1:])))
    assert {r.spec.seed for rs in check.paired(partial).values() for r in rs} == {2, 3}
    none = replace(done, swarm=replace(done.swarm, records=tuple(replace(r, error="x") for r in records)))
    with pytest.raises(RunFailed, match="only at 0 seeds"):
        check.paired(none)


CLEAR, NOISE, WORSE = Interval(0.05, 0.02, 0.08), Interval(0.01, -0.02, 0.12), Interval(-0.05, -0.08, -0.02)


@pytest.mark.parametrize(
    ("gain", "others", "start", "end"),
    [
        (
            CLEAR,
            {},
            "Use this mixture: it saves 0.0500 bits per byte against the prior (95 % interval +0.0200",
            "0.0800).",
        ),
        (NOISE, {"uniform": CLEAR}, "The gain is inside the noise: +0.0100", "beats the prior."),
        (WORSE, {"uniform": CLEAR}, "Do not use this mixture: it costs 0.0500", "saved)."),
        (CLEAR, {"uniform": CLEAR}, "Use this mixture", "0.0800)."),
        (CLEAR, {"uniform": NOISE, "best": CLEAR}, "Use this mixture", "It is not shown to beat uniform."),
        (CLEAR, {"uniform": WORSE}, "Do not use this mixture: it saves 0.0500", "but uniform saves more."),
    ],
)
def test_verdicts(gain: Interval, others: dict[str, Interval], start: str, end: str) -> None:
    said = verdict(gain, others)
    assert said.startswith(start)
    assert said.endswith(end)


def test_arms_are_mixtures_that_the_real_run_could_follow(toy_study: Study, toy: Toy, scratch: Path) -> None:
    tight = replace(toy_study, space=MixtureSpace(toy_study.space.domains, 1000, max_epochs=1.3))
    swarm = Workshop(LocalExecutor(toy), Store(scratch), Silent()).complete(tight, RegMix(), "proxies")
    found = arms(swarm, tight.space.prior_mixture)
    assert [arm for arm, mixture in found.items() if tight.space.violations(mixture)] == []
    assert found["uniform"]["d"] == pytest.approx(0.13)
    assert found[PRIOR] == tight.space.prior_mixture


def test_floors_are_measured_against_the_prior(toy_study: Study, scratch: Path) -> None:
    """Without noise the change is the true one: kept where the floor allows more, broken where it allows less."""
    quiet = Toy(toy_study.space.names)
    prior_D, good_D = (m.array(quiet.names) for m in (toy_study.space.prior_mixture, GOOD))
    change_D = quiet.losses_D(good_D) / quiet.losses_D(prior_D) - 1
    floors = {
        f"bpb/{n}": float(c) + slack
        for n, c, slack in zip(quiet.names, change_D, (0.01, -0.01, 0.01, -0.01), strict=True)
    }
    study = replace(toy_study, objective=Objective(toy_study.objective.weights, floors))
    found = results.validation(*validated(study, quiet, scratch))["floors"]
    assert [floor["kept"] for floor in found] == ["yes", "no", "yes", "no"]
    assert [floor["mean"] for floor in found] == pytest.approx(change_D.tolist())
    assert "is broken: measured against the prior" in found[1]["says"]
