"""The loop: runs are made once, crashes are tried again, a grown count keeps the earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from mixopt.errors import RunFailed
from mixopt.methods.regmix import RegMix
from mixopt.progress import Silent
from mixopt.runs import RunRecord, RunSpec
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from pipelines.local_executor import LocalExecutor
from proxies.toy import Toy


@dataclass
class Counts:
    """A trainer that counts its runs and raises for those it is told to."""

    toy: Toy
    crash: set[str] = field(default_factory=set)
    made: list[str] = field(default_factory=list)

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        for spec in specs:
            if spec.id in self.crash:
                raise OSError("no space left")
            self.made.append(spec.id)
            yield from self.toy([spec])


def workshop(train: Counts, scratch: Path) -> Workshop:
    return Workshop(LocalExecutor(train), Store(scratch), Silent())


def test_nothing_is_trained_twice(toy_study: Study, toy: Toy, scratch: Path) -> None:
    train = Counts(toy)
    first = workshop(train, scratch).complete(toy_study, RegMix(), "proxies")
    shop = workshop(train, scratch)
    second = shop.complete(toy_study, RegMix(), "proxies")
    assert first.swarm == second.swarm
    assert len(train.made) == len(set(train.made)) == toy_study.count
    assert not shop.trained


def test_runs_are_made_once_and_come_in_the_order_asked(toy_study: Study, toy: Toy, scratch: Path) -> None:
    train = Counts(toy)
    asked = RegMix().ask(toy_study, np.random.default_rng([0, 0]))[:5]
    swarm = workshop(train, scratch).make([*asked[3:], *asked, asked[4]], "runs")
    assert [record.spec for record in swarm.records] == [*asked[3:], *asked[:3]]
    assert len(train.made) == 5


def test_a_larger_count_keeps_the_earlier_runs(toy_study: Study, toy: Toy, scratch: Path) -> None:
    train = Counts(toy)
    few = workshop(train, scratch).complete(toy_study, RegMix(), "proxies")
    many = workshop(train, scratch).complete(replace(toy_study, count=60), RegMix(), "proxies")
    assert many.swarm.records[: toy_study.count] == few.swarm.records
    assert len(train.made) == 60


def test_a_crash_stops_the_search_but_keeps_the_rest(toy_study: Study, toy: Toy, scratch: Path) -> None:
    asked = [s.id for s in RegMix().ask(toy_study, np.random.default_rng([0, 0]))]
    train = Counts(toy, crash={asked[3]})
    with pytest.raises(RunFailed, match=rf"1 of 40 runs crashed; .* run {asked[3]}: OSError: no space left"):
        workshop(train, scratch).complete(toy_study, RegMix(), "proxies")
    train.crash.clear()
    study = workshop(train, scratch).complete(toy_study, RegMix(), "proxies")
    assert [r.spec.id for r in study.swarm.records] == asked
    assert len(train.made) == len(set(train.made)) == 40
