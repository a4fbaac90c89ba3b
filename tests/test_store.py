"""The run store: complete or absent, shared, honest about what it cannot read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mixopt.errors import DataError, SwarmError
from mixopt.files import write_atomically
from mixopt.runs import RunRecord, RunSpec, Swarm
from mixopt.store import Store
from mixopt.study import Study
from proxies.toy import Toy


@pytest.fixture
def records(toy_study: Study, toy: Toy) -> list[RunRecord]:
    return list(toy(toy_study.specs(toy_study.space.dirichlet(4, np.random.default_rng(0)))))


def test_a_record_comes_back_to_the_last_bit(records: list[RunRecord], scratch: Path) -> None:
    store = Store(scratch)
    for record in records:
        assert record.spec not in store
        store.add(record)
    specs = [r.spec for r in records]
    assert list(Store(scratch).swarm(reversed(specs)).records) == records[::-1]


def test_a_spec_is_its_content(records: list[RunRecord]) -> None:
    spec = records[0].spec
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))).id == spec.id
    assert replace(spec, seed=1).id != spec.id
    assert replace(spec, proxy=replace(spec.proxy, learning_rate=0.1)).id != spec.id


def test_diverged_runs_are_done_and_crashed_ones_are_not(records: list[RunRecord], scratch: Path) -> None:
    store = Store(scratch)
    diverged, crashed = replace(records[0], error="nan", diverged=True), replace(records[1], error="no disk")
    store.add(diverged)
    store.add(crashed)
    assert diverged.spec in store
    assert crashed.spec not in store
    assert len(list(scratch.rglob("*.crashed.json"))) == 1


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (
            "Traceback (most recent call last):\n  ...\nmixopt.errors.JobError: policy: needs a: b.\n",
            "policy: needs a: b.",
        ),
        ("Traceback (most recent call last):\n  ...\nValueError: no number\n", "ValueError: no number"),
        ("", ""),
    ],
)
def test_why_a_run_failed_is_a_line_without_our_module_names(records: list[RunRecord], error: str, why: str) -> None:
    assert replace(records[0], error=error).why == why


@pytest.mark.parametrize("content", ["", "{", "[]", '{"spec": 1}'])
def test_a_damaged_file_is_named(records: list[RunRecord], scratch: Path, content: str) -> None:
    store = Store(scratch)
    store.add(records[0])
    (path,) = scratch.rglob("*.json")
    path.write_text(content)
    with pytest.raises(DataError, match=f"{path.name} is not a run record .* Delete it"):
        store.get(records[0].spec)


def test_a_record_under_a_wrong_name_is_refused(records: list[RunRecord], scratch: Path) -> None:
    store = Store(scratch)
    store.add(records[0])
    (path,) = scratch.rglob("*.json")
    path.write_text(json.dumps(records[1].to_json()))
    with pytest.raises(DataError, match=f"holds run {records[1].spec.id}"):
        store.get(records[0].spec)


def test_a_failed_write_leaves_nothing(scratch: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        write_atomically(scratch / "x.json", "\ud800")
    assert list(scratch.iterdir()) == []


def test_swarm_refuses_missing_and_infinite_metrics(records: list[RunRecord]) -> None:
    for metrics in ({}, {"bpb/a": float("nan")}):
        with pytest.raises(SwarmError, match="no finite metric 'bpb/a'"):
            Swarm((replace(records[0], metrics=metrics),)).metrics_RM(["bpb/a"])
