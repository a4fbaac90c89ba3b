"""Every executor: a failure is a record, order does not matter, a lost worker's runs are made again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mixopt.errors import DeviceLost, RunFailed
from mixopt.runs import RunRecord, RunSpec
from mixopt.study import Executor, Study, Train
from pipelines.local_executor import LocalExecutor, chunks
from pipelines.ray_executor import RayExecutor
from proxies.toy import Toy

Make = Callable[[Train], Executor]
EXECUTORS = {
    "in this process": lambda train: LocalExecutor(train, workers=0),
    "in this process, stacked": lambda train: LocalExecutor(train, workers=0, stack=3),
    "processes": lambda train: LocalExecutor(train, workers=2),
    "processes, stacked": lambda train: LocalExecutor(train, workers=2, stack=3),
    "ray": lambda train: RayExecutor(train, workers=2, stack=2),
}
ABROAD = [name for name in EXECUTORS if "this process" not in name]


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all tests here; its workers can import this file."""
    import ray

    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *([before] if before else [])])
    ray.init(
        num_cpus=2, include_dashboard=False, object_store_memory=1 << 27, log_to_driver=False, logging_level="error"
    )
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(params=EXECUTORS)
def make(request: pytest.FixtureRequest) -> Make:
    return EXECUTORS[request.param]


@pytest.fixture
def specs(toy_study: Study) -> list[RunSpec]:
    return toy_study.specs(toy_study.space.dirichlet(13, np.random.default_rng(0)))


def test_a_stack_is_of_one_setting(specs: list[RunSpec]) -> None:
    """Learning rates may differ within one, the batch may not."""
    hot, wide = replace(specs[0].proxy, learning_rate=1.0), replace(specs[0].proxy, batch=8)
    mixed = [*specs[:3], replace(specs[3], proxy=hot), *(replace(spec, proxy=wide) for spec in specs[4:6]), *specs[6:]]
    stacks = chunks(mixed, 3)
    assert [len(stack) for stack in stacks] == [3, 1, 2, 3, 3, 1]
    assert [spec for stack in stacks for spec in stack] == mixed


def by_id(records: Iterator[RunRecord]) -> dict[str, RunRecord]:
    found = list(records)
    assert len({r.spec.id for r in found}) == len(found)
    return {r.spec.id: r for r in found}


@dataclass(frozen=True)
class Crashes:
    """Raises instead of training specs whose id starts with an even digit."""

    toy: Toy

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        for spec in specs:
            if spec.id[0] in "02468":
                raise ZeroDivisionError("as told")
            yield from self.toy([spec])


@dataclass(frozen=True)
class Kills:
    """Loses its process `times` in all when it comes to one spec, then trains it; writes down how often it did.

    It is killed, or finds its GPU gone.
    """

    toy: Toy
    victim: str
    times: int
    notes: Path
    gpu: bool = False

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        for spec in specs:
            deaths = len(list(self.notes.glob("death-*")))
            if spec.id == self.victim and deaths < self.times:
                (self.notes / f"death-{deaths}").touch()
                if self.gpu:
                    raise DeviceLost("cuda is gone")
                os.kill(os.getpid(), signal.SIGKILL)
            yield from self.toy([spec])


def test_every_spec_gives_its_record(make: Make, toy: Toy, specs: list[RunSpec]) -> None:
    expected = by_id(toy(specs))
    assert by_id(make(toy).run(specs)) == expected
    assert by_id(make(toy).run(specs[::-1])) == expected


def test_nothing_to_do(make: Make, toy: Toy) -> None:
    assert list(make(toy).run([])) == []


def test_an_exception_becomes_a_crashed_record(make: Make, toy: Toy, specs: list[RunSpec]) -> None:
    records = by_id(make(Crashes(toy)).run(specs))
    assert set(records) == {s.id for s in specs}
    doomed = [s for s in specs if s.id[0] in "02468"]
    assert doomed
    for spec in doomed:
        assert "ZeroDivisionError: as told" in records[spec.id].error
        assert not records[spec.id].diverged


def test_a_lost_gpu_in_this_process_is_said(toy: Toy, specs: list[RunSpec], tmp_path: Path) -> None:
    with pytest.raises(DeviceLost, match="cuda is gone"):
        list(LocalExecutor(Kills(toy, specs[5].id, 2, tmp_path, gpu=True), workers=0).run(specs))


def test_a_diverged_run_is_a_record(make: Make, toy: Toy, specs: list[RunSpec]) -> None:
    records = by_id(make(replace(toy, fails=specs[0].id[0])).run(specs))
    assert records[specs[0].id].diverged


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("name", ABROAD)
def test_a_lost_worker_costs_nothing_but_time(
    name: str, gpu: bool, toy: Toy, specs: list[RunSpec], tmp_path: Path
) -> None:
    train = Kills(toy, specs[5].id, 2, tmp_path, gpu)
    assert by_id(EXECUTORS[name](train).run(specs)) == by_id(toy(specs))
    assert len(list(tmp_path.glob("death-*"))) == 2


@pytest.mark.parametrize("name", ABROAD)
def test_a_run_that_always_kills_its_worker_ends_the_search(
    name: str, toy: Toy, specs: list[RunSpec], tmp_path: Path
) -> None:
    with pytest.raises(RunFailed, match=r"was with a worker 5 times when one died"):
        list(EXECUTORS[name](Kills(toy, specs[5].id, 9, tmp_path)).run(specs))
