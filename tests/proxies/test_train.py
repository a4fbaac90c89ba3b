"""The training loop: alone, stacked, diverging, scheduled."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixopt.domains import Manifest
from mixopt.errors import DataError
from mixopt.mixture import Mixture, Schedule
from mixopt.policy import Fixed, Scheduled
from mixopt.runs import Proxy, RunRecord, RunSpec
from proxies.train import Trainer

WEB = Mixture({"code": 0.1, "law": 0.2, "web": 0.7})
CODE = Mixture({"code": 0.8, "law": 0.1, "web": 0.1})


def train(corpus: Manifest, *specs: RunSpec) -> list[RunRecord]:
    return list(Trainer(corpus.root)(specs))


def mixtures(count: int) -> list[Mixture]:
    return [Mixture({"code": i / 10, "law": 0.1, "web": 0.9 - i / 10}) for i in range(count)]


def test_learns_what_it_is_shown(corpus: Manifest, proxy: Proxy) -> None:
    web, code = train(corpus, RunSpec(Fixed(WEB), proxy, 0)), train(corpus, RunSpec(Fixed(CODE), proxy, 0))
    assert web[0].metrics["loss/web"] < code[0].metrics["loss/web"] - 0.1
    assert code[0].metrics["loss/code"] < web[0].metrics["loss/code"] - 0.1
    assert web[0].metrics["loss/web"] < math.log(64) - 0.5


def test_alone_and_in_a_stack_of_eight(corpus: Manifest, proxy: Proxy) -> None:
    """The same trajectory to float tolerance, with different mixtures and seeds beside it."""
    specs = [RunSpec(Fixed(m), proxy, seed % 2) for seed, m in enumerate(mixtures(8))]
    together = train(corpus, *specs)
    for spec, record in list(zip(specs, together, strict=True))[::3]:
        (alone,) = train(corpus, spec)
        assert [t for t, _ in alone.trajectory] == [t for t, _ in record.trajectory]
        for (_, a), (_, b) in zip(alone.trajectory, record.trajectory, strict=True):
            assert a == pytest.approx(b, abs=5e-5)
        assert (alone.drawn, alone.unique) == (record.drawn, record.unique)


def test_repeated_run_is_bit_identical(corpus: Manifest, proxy: Proxy) -> None:
    spec = RunSpec(Fixed(WEB), proxy, 5)
    first, second = train(corpus, spec), train(corpus, spec)
    assert replace(first[0], cost=second[0].cost) == second[0]


def test_diverging_stack_is_a_failed_record(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Fixed(WEB), replace(proxy, learning_rate=1e30), 0))
    assert record.diverged
    assert not record.metrics
    assert "loss" in record.error


def test_one_diverging_member_leaves_its_mates_untouched(
    corpus: Manifest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Poison one member's initial parameters: the mates' records equal those of the healthy stack, bit for bit."""
    from proxies import train as module

    specs = [RunSpec(Fixed(m), proxy, seed) for seed, m in enumerate(mixtures(4))]
    healthy = train(corpus, *specs)
    real_init = module.init

    def poisoned(shape: object, vocabulary: int, seed: int) -> dict:
        params = real_init(shape, vocabulary, seed)
        if seed == 2:
            params["head"][0, 0] = float("inf")
        return params

    monkeypatch.setattr(module, "init", poisoned)
    sick = train(corpus, *specs)
    assert [bool(r.error) for r in sick] == [False, False, True, False]
    for a, b in zip(healthy, sick, strict=True):
        if not b.error:
            assert a.metrics == b.metrics
            assert a.trajectory == b.trajectory


def test_schedule_goes_through_its_phases(corpus: Manifest, proxy: Proxy) -> None:
    phases = Scheduled(Schedule(((0.0, WEB), (0.5, CODE))))
    (record,) = train(corpus, RunSpec(phases, proxy, 0))
    assert [(s.mixture, s.tokens) for s in record.trace] == [(WEB, 8192), (CODE, 8192)]
    assert record.drawn["code"] == pytest.approx(16_384 * 0.45, abs=3 * 64)
    assert record.mixture["web"] == pytest.approx(0.4)


def test_record_counts_unique_tokens(corpus: Manifest, proxy: Proxy) -> None:
    scarce = replace(proxy, supply={"code": 20_000, "law": 20_000, "web": 1280})
    (record,) = train(corpus, RunSpec(Fixed(WEB), scarce, 0))
    assert record.drawn["web"] > 8 * 1280
    assert record.unique["web"] == 1280
    assert record.unique["code"] == record.drawn["code"]


def test_record_survives_json(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Fixed(WEB), proxy, 0))
    assert RunRecord.from_json(record.to_json()) == record


def test_other_data_is_refused(corpus: Manifest, proxy: Proxy) -> None:
    with pytest.raises(DataError, match="the runs ask for data other"):
        train(corpus, RunSpec(Fixed(WEB), replace(proxy, data="other"), 0))
