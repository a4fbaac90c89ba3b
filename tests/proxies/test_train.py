"""The training loop: alone, stacked, diverging, scheduled."""

from __future__ import annotations

import math
import multiprocessing as mp
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mixopt.domains import Manifest
from mixopt.errors import DataError, RunFailed
from mixopt.mixture import Mixture, Schedule, Segment
from mixopt.policy import Feedback, Fixed, Scheduled, Signal, Valid
from mixopt.runs import Proxy, RunRecord, RunSpec
from proxies import checkpoint, sizes
from proxies.train import Trainer

WEB = Mixture({"code": 0.1, "law": 0.2, "web": 0.7})
CODE = Mixture({"code": 0.8, "law": 0.1, "web": 0.1})


def train(corpus: Manifest, *specs: RunSpec, **settings: object) -> list[RunRecord]:
    """The records in the order of the specs."""
    records = {r.spec.id: r for r in Trainer(corpus.root, **settings)(specs)}
    return [records[spec.id] for spec in specs]


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


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_one_diverging_member_leaves_its_mates_untouched(corpus: Manifest, proxy: Proxy, rate: float) -> None:
    """The mates' records equal those of a stack without it, bit for bit; whoever gets its slot trains like the others."""
    specs = [RunSpec(Fixed(m), proxy, seed) for seed, m in enumerate(mixtures(4))]
    sick = RunSpec(Fixed(WEB), replace(proxy, learning_rate=rate), 9)
    healthy = train(corpus, *specs, slots=3)
    bad, *beside = train(corpus, sick, *specs, slots=4)
    assert [record.metrics for record in beside[:3]] == [record.metrics for record in healthy[:3]]
    assert [record.trajectory for record in beside[:3]] == [record.trajectory for record in healthy[:3]]
    assert beside[3].metrics == pytest.approx(healthy[3].metrics, abs=5e-6)
    assert bad.diverged
    assert not bad.metrics


def test_stack_and_alone_agree_over_twenty_steps(corpus: Manifest, proxy: Proxy) -> None:
    """Within 5e-6, with learning rates of their own."""
    short = replace(proxy, tokens=20 * 8 * 64)
    specs = [RunSpec(Fixed(m), replace(short, learning_rate=0.002 * (i + 1)), 0) for i, m in enumerate(mixtures(5))]
    for spec, record in zip(specs, train(corpus, *specs), strict=True):
        (alone,) = train(corpus, spec)
        assert record.metrics == pytest.approx(alone.metrics, abs=5e-6)


def test_a_slot_goes_to_the_next_run(corpus: Manifest, proxy: Proxy) -> None:
    """Five runs through two slots are the five runs, whatever was in the slot before."""
    specs = [RunSpec(Fixed(m), proxy, seed) for seed, m in enumerate(mixtures(5))]
    for spec, record in zip(specs, train(corpus, *specs, slots=2), strict=True):
        (alone,) = train(corpus, spec)
        assert record.metrics == pytest.approx(alone.metrics, abs=5e-5)
        assert record.drawn == alone.drawn


def test_horizon_is_a_run_of_that_length(corpus: Manifest, proxy: Proxy) -> None:
    """A branch ends where a run of half the tokens and the same warmup ends, and the trunk does not notice."""
    branched = replace(proxy, horizons=(0.5,))
    half = replace(proxy, tokens=proxy.tokens // 2, warmup=2 * proxy.warmup)
    plain, with_branch, short = (RunSpec(Fixed(WEB), p, 0) for p in (proxy, branched, half))
    (trunk,), (record,), (end,) = train(corpus, plain), train(corpus, with_branch), train(corpus, short)
    assert record.horizons == ((8192, end.metrics),)
    assert (record.metrics, record.trajectory, record.drawn) == (trunk.metrics, trunk.trajectory, trunk.drawn)
    assert record.cost.tokens == trunk.cost.tokens + 4096


@dataclass(frozen=True)
class Greedy:
    """An online policy: every 1024 tokens, more of what is learnt worst."""

    needs: frozenset[Signal] = frozenset({Valid()})

    def init(self, names: Sequence[str], start: Feedback) -> Mixture:
        return Mixture({name: 1 / len(names) for name in names})

    def segment(self, state: Mixture) -> Segment:
        return Segment(state, 1024)

    def update(self, state: Mixture, feedback: Feedback) -> Mixture:
        w_D = feedback.signals["valid"] ** 4
        return Mixture.from_array(tuple(state), w_D / w_D.sum())

    def load(self, body: dict) -> Mixture:
        return Mixture(body)

    def to_json(self) -> dict:
        return {"policy": "greedy"}


@dataclass(frozen=True)
class Deaf(Greedy):
    """Asks for held-out losses where no checkpoint is, and would fail on any that is not finite."""

    def to_json(self) -> dict:
        return {"policy": "deaf"}


def test_policy_is_never_told_of_a_loss_that_is_no_number(corpus: Manifest, proxy: Proxy) -> None:
    """A run whose held-out loss overflows ends as diverged; the run beside it does not notice."""
    once = replace(proxy, checkpoints=1)
    sick = RunSpec(Deaf(), replace(once, learning_rate=1e15), 0)
    well = RunSpec(Greedy(), once, 1)
    bad, good = train(corpus, sick, well)
    assert bad.diverged
    assert good.metrics == train(corpus, well)[0].metrics


def test_horizons_that_turn_at_the_same_step_are_both_measured(corpus: Manifest, proxy: Proxy) -> None:
    near = replace(proxy, horizons=(0.5, 0.51, 0.25))
    (record,) = train(corpus, RunSpec(Fixed(WEB), near, 0))
    assert sorted(tokens for tokens, _ in record.horizons) == [4096, 8192, 8192]


def test_checkpoint_of_another_arithmetic_is_left_alone(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    """What was trained compiled, or with other threads, is not gone on from: the run begins again."""
    spec = RunSpec(Fixed(WEB), proxy, 0)
    leave_half(corpus, spec, tmp_path)
    ((tensors, body),) = [checkpoint.load(tmp_path, spec.id)]
    body["machine"]["threads"] = "99"
    checkpoint.save(tmp_path, spec.id, {name: t * 0 for name, t in tensors.items()}, body)
    (resumed,), (straight,) = train(corpus, spec, partial=tmp_path), train(corpus, spec)
    assert resumed.metrics == straight.metrics


class Enough(BaseException):
    """Stops a training from inside its policy."""


@dataclass(frozen=True)
class Stops(Fixed):
    """A fixed mixture that ends the process's patience after half of the run."""

    def segment(self, state: int) -> Segment:
        return Segment(self.mixture, 8192)

    def update(self, state: int, feedback: Feedback) -> int:
        if feedback.seen > 8192:
            raise Enough
        return super().update(state, feedback)


def leave_half(corpus: Manifest, spec: RunSpec, folder: Path) -> None:
    """A checkpoint of this run at half its length."""
    stops = Stops(spec.feed.mixture)
    with pytest.raises(Enough):
        train(corpus, replace(spec, feed=stops), partial=folder, every=0.0)
    (left,) = folder.glob("*.safetensors")
    left.rename(folder / f"{spec.id}.safetensors")


def leave(corpus: Manifest, specs: list[RunSpec], folder: Path, every: float) -> None:
    """What a worker does before it is killed."""
    torch.set_num_threads(1)
    list(Trainer(corpus.root, partial=folder, every=every)(specs))


def test_killed_stack_resumes_as_if_nothing_had_happened(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    """A process is killed while a stack of three feeds trains; what it left is gone on from, bit for bit."""
    slow = replace(proxy, tokens=8 * proxy.tokens, horizons=(0.25,))
    phases = Scheduled(Schedule(((0.0, WEB), (0.5, CODE))))
    specs = [RunSpec(feed, slow, seed) for seed, feed in enumerate((Fixed(WEB), phases, Greedy()))]
    process = mp.get_context("spawn").Process(target=leave, args=(corpus, specs, tmp_path, 0.0))
    process.start()
    while not steps_left(tmp_path) or min(steps_left(tmp_path)) < 100:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    found = steps_left(tmp_path)
    assert len(found) == 3
    assert all(0 < step < 256 for step in found)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed, straight = train(corpus, *specs, partial=tmp_path), train(corpus, *specs)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(resumed, straight, strict=True):
        assert replace(a, cost=b.cost) == b
        assert a.cost.tokens == b.cost.tokens
    assert not steps_left(tmp_path)


def steps_left(folder: Path) -> list[int]:
    """The step of every run that a folder keeps."""
    found = [checkpoint.load(folder, path.stem) for path in folder.glob("*.safetensors")]
    return [body["member"]["step"] for _, body in filter(None, found)]


def test_unreadable_checkpoint_is_a_fresh_start(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    spec = RunSpec(Fixed(WEB), proxy, 0)
    (tmp_path / f"{spec.id}.safetensors").write_bytes(b"half a file")
    (resumed,), (straight,) = train(corpus, spec, partial=tmp_path), train(corpus, spec)
    assert resumed.metrics == straight.metrics


def test_long_batches_go_through_in_parts(corpus: Manifest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = RunSpec(Fixed(WEB), proxy, 0)
    (whole,) = train(corpus, spec)
    monkeypatch.setattr(sizes, "PART_TOKENS", 3 * 64)  # 3, 3 and 2 rows of 8
    (parts,) = train(corpus, spec)
    assert parts.metrics == pytest.approx(whole.metrics, abs=5e-5)
    assert parts.metrics != whole.metrics


def test_muon_learns(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Fixed(WEB), replace(proxy, optimizer="muon"), 0))
    assert record.metrics["loss/web"] < math.log(64) - 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by torch
def test_compiled_run_is_the_run(corpus: Manifest, proxy: Proxy) -> None:
    """To float tolerance; a second one in this process, of another mixture, compiles nothing."""
    specs = [RunSpec(Fixed(m), proxy, 0) for m in mixtures(2)]
    eager = train(corpus, *specs, slots=1)
    compiled = [*train(corpus, specs[0], compiled=True)]
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled += train(corpus, specs[1], compiled=True)
    for a, b in zip(eager, compiled, strict=True):
        assert a.metrics == pytest.approx(b.metrics, abs=5e-4)
        assert b.machine["compiled"] == "true"


def test_stack_of_different_shapes_is_refused(corpus: Manifest, proxy: Proxy) -> None:
    with pytest.raises(RunFailed, match="must share all of the proxy but learning rate"):
        train(corpus, RunSpec(Fixed(WEB), proxy, 0), RunSpec(Fixed(WEB), replace(proxy, batch=4), 0))


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
