"""What policies hear, against slow computations of the same thing; who pays for it; what cannot be measured."""

from __future__ import annotations

import multiprocessing as mp
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mixopt.domains import Manifest
from mixopt.errors import DataError, RunFailed
from mixopt.mixture import FloatArray, Mixture, Schedule, Segment
from mixopt.policies.limited import Limited
from mixopt.policy import Drops, Excess, Feedback, Fixed, Gram, Scheduled, Signal, Train, Valid
from mixopt.runs import Proxy, RunRecord, RunSpec
from proxies import checkpoint, model, sizes
from proxies.evaluate import HeldOut
from proxies.optim import Horizon, State, pace
from proxies.parameters import init
from proxies.program import Program, program
from proxies.tokens import Sampler, TokenStore
from proxies.train import Trainer

WEB = Mixture({"code": 0.1, "law": 0.2, "web": 0.7})
CODE = Mixture({"code": 0.8, "law": 0.2, "web": 0.0})
STEPS = 32  # of the fixture's proxy, of 8 rows each
EVERY: frozenset[Signal] = frozenset({Valid(0.5), Train(), Gram(3), Drops(0.04, 0.7, 0.5)})


@dataclass(frozen=True)
class Told:
    """Plays mixtures in turn, `steps` steps each, and remembers all that it was told; `bends` to what it hears."""

    needs: frozenset[Signal]
    mixtures: tuple[Mixture, ...] = (WEB,)
    steps: int = 8
    bends: bool = False

    def init(self, names: Sequence[str], start: Feedback) -> tuple[Any, ...]:
        return (_said(start),)

    def segment(self, state: tuple[Any, ...]) -> Segment:
        mixture = self.mixtures[(len(state) - 1) % len(self.mixtures)]
        if self.bends:
            heard_D = sum(abs(np.nan_to_num(np.array(v, float))).reshape(3, -1).sum(1) for v in state[-1][3].values())
            w_D = mixture.array(tuple(mixture)) * np.exp(heard_D / (1 + heard_D.sum())) if len(state) > 1 else None
            mixture = mixture if w_D is None else Mixture.from_array(tuple(mixture), w_D / w_D.sum())
        return Segment(mixture, self.steps * state[0][2])

    def update(self, state: tuple[Any, ...], feedback: Feedback) -> tuple[Any, ...]:
        return (*state, _said(feedback))

    def load(self, body: Any) -> tuple[Any, ...]:
        return tuple(tuple(said) for said in body)

    def to_json(self) -> dict[str, Any]:
        return {"policy": "told", "needs": sorted(map(repr, self.needs)), "bends": self.bends, "steps": self.steps} | {
            "mixtures": [dict(m) for m in self.mixtures]
        }


def _said(feedback: Feedback) -> tuple[int, int, int, dict[str, Any]]:
    """Numbers as JSON has them: NaN becomes None."""
    plain = {name: np.where(np.isnan(a), None, a).tolist() for name, a in sorted(feedback.signals.items())}
    return (feedback.seen, feedback.total, feedback.step, plain)


def heard(record: RunRecord, name: str) -> list[FloatArray]:
    """What a policy was told under this name, segment by segment; None is NaN again."""
    return [np.array(signals[name], dtype=float) for *_, signals in record.state if name in signals]


def train(corpus: Manifest, *specs: RunSpec, **settings: Any) -> list[RunRecord]:
    """The records in the order of the specs."""
    records = {r.spec.id: r for r in Trainer(corpus.root, **settings)(specs)}
    return [records[spec.id] for spec in specs]


class ByHand:
    """A run of the fixture's proxy, step by step, that computes everything anew from its weights."""

    def __init__(self, corpus: Manifest, proxy: Proxy, seed: int = 0) -> None:
        self.proxy, self.program = proxy, program(proxy, 64, compiled=False)
        store = TokenStore(corpus, proxy.sequence)
        self.sampler = Sampler(store, corpus.names, [20_000 // proxy.sequence] * 3, proxy.batch, seed)
        self.held_out = HeldOut(store, proxy.eval_tokens, "cpu")
        weights = init(self.program.layout, seed)[None]
        self.state = State(weights, torch.zeros_like(weights), torch.zeros_like(weights))
        self.step, self.drawn_D = 0, np.zeros(3, dtype=np.int64)

    def train(self, mixture: Mixture, steps: int) -> list[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
        """Domains [B], rows [B, S + 1] and losses [B, S] of each step, before its update."""
        seen, w_D = [], mixture.array(self.sampler.names)
        for _ in range(steps):
            counts_D = self.sampler.counts(w_D, self.step, 1)[0]
            rows, self.drawn_D = self.sampler.rows(w_D, self.step, 1, self.drawn_D)
            rows = torch.from_numpy(rows)
            losses = self.program.token_losses(self.state.weights, rows)[0]
            seen.append((np.repeat(np.arange(3), counts_D), rows[0], losses))
            (now,) = pace([self.proxy], [Horizon(STEPS, 0.05 * STEPS, 0.5)], [self.step], 1)
            self.program.descend(self.state, rows, now)
            self.step += 1
        return seen

    def losses(self, rows: torch.Tensor) -> torch.Tensor:
        return self.program.token_losses(self.state.weights, rows[None])[0]


def by_domain(values: list[tuple[np.ndarray, FloatArray]]) -> FloatArray:
    """Means [D] of a value of each row."""
    domains, losses = (np.concatenate(parts) for parts in zip(*values, strict=True))
    return np.array([losses[domains == d].mean() if (domains == d).any() else np.nan for d in range(3)])


def test_train_is_the_mean_loss_of_the_segments_rows(corpus: Manifest, proxy: Proxy) -> None:
    """NaN for a domain that was not drawn; the run itself is the one that nobody listens to, bit for bit."""
    policy = Told(frozenset({Train()}), (WEB, CODE))
    (record,) = train(corpus, RunSpec(policy, proxy, 0))
    hand, wanted = ByHand(corpus, proxy), []
    for mixture in (WEB, CODE, WEB, CODE):
        seen = hand.train(mixture, 8)
        wanted.append(by_domain([(domains, losses.double().mean(-1).numpy()) for domains, _, losses in seen]))
    np.testing.assert_allclose(heard(record, "train"), wanted, rtol=1e-5)
    assert np.isnan(wanted[1][2]) and not np.isnan(wanted[0]).any()
    phases = Scheduled(Schedule(((0.0, WEB), (0.25, CODE), (0.5, WEB), (0.75, CODE))))
    (deaf,) = train(corpus, RunSpec(phases, proxy, 0))
    assert (record.metrics, record.trajectory, record.drawn) == (deaf.metrics, deaf.trajectory, deaf.drawn)
    assert (record.cost.tokens, record.cost.flops) == (deaf.cost.tokens, deaf.cost.flops)


def test_feedback_says_where_it_is(corpus: Manifest, proxy: Proxy) -> None:
    """Tokens seen, tokens of the run and of a step; a policy that needs nothing hears nothing; the state is the record's."""
    (record,) = train(corpus, RunSpec(Told(frozenset(), steps=20), proxy, 0))
    assert record.state == [[0, 16_384, 512, {}], [10_240, 16_384, 512, {}], [16_384, 16_384, 512, {}]]


@pytest.fixture
def reference(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> tuple[RunSpec, ByHand]:
    """A run that keeps its weights in tmp_path, and the same run by hand."""
    spec, hand = RunSpec(Fixed(CODE), proxy, 3, keep=True), ByHand(corpus, proxy, 3)
    train(corpus, spec, weights=tmp_path)
    hand.train(CODE, STEPS)
    return spec, hand


def test_final_weights_are_kept(proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path) -> None:
    spec, hand = reference
    torch.testing.assert_close(checkpoint.kept(tmp_path, spec.id, proxy), hand.state.weights[0], rtol=1e-4, atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == [f"{spec.id}.safetensors"]


def test_excess_by_token_and_by_domain(
    corpus: Manifest, proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path
) -> None:
    """The maximum is taken of every token's difference, or of a domain's mean: they must not be the same."""
    spec, other = reference
    specs = [RunSpec(Told(frozenset({Excess(spec.id, clip)})), proxy, 0) for clip in ("token", "domain")]
    records = train(corpus, *specs, weights=tmp_path)
    hand, tokens, domains = ByHand(corpus, proxy), [], []
    for _ in range(STEPS // 8):
        seen = [(own, losses - other.losses(rows)) for own, rows, losses in hand.train(WEB, 8)]
        tokens.append(by_domain([(own, excess.clamp(min=0).double().mean(-1).numpy()) for own, excess in seen]))
        domains.append(np.maximum(by_domain([(own, e.double().mean(-1).numpy()) for own, e in seen]), 0))
    np.testing.assert_allclose(heard(records[0], "excess"), tokens, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(heard(records[1], "excess"), domains, rtol=1e-4, atol=1e-6)
    assert (np.array(domains)[:, 1:] < np.array(tokens)[:, 1:] - 0.01).all()
    assert (np.array(domains) == 0).any()
    deaf = train(corpus, RunSpec(Fixed(WEB), proxy, 0))[0]
    assert records[0].metrics == deaf.metrics
    forward = sizes.shape("10k").flops(64) * proxy.tokens / 3
    assert records[0].cost.flops == pytest.approx(deaf.cost.flops + forward)


def test_valid_reads_the_first_part_of_every_domain(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Told(frozenset({Valid(0.25)})), proxy, 0))
    hand, wanted = ByHand(corpus, proxy), []
    for steps in (0, 8, 8, 8, 8):
        hand.train(WEB, steps)
        parts = hand.held_out.rows.split(hand.held_out.sizes)
        wanted.append([hand.losses(part[: len(part) // 4]).double().mean().item() for part in parts])
    assert all(len(part) == 16 for part in parts)
    np.testing.assert_allclose(heard(record, "valid"), wanted, rtol=1e-5)


def test_a_checkpoint_that_is_asked_for_is_measured_once(corpus: Manifest, proxy: Proxy) -> None:
    """Held-out text is read at four checkpoints and before the first token: what the policy hears between them is known."""
    (record,) = train(corpus, RunSpec(Told(frozenset({Valid()})), proxy, 0))
    (deaf,) = train(corpus, RunSpec(Fixed(WEB), proxy, 0))
    once = sizes.shape("10k").flops(64) * 3 * 1024 / 3
    assert record.cost.flops == pytest.approx(deaf.cost.flops + once)
    at_checkpoints = [[metrics[f"loss/{name}"] for name in corpus.names] for _, metrics in record.trajectory]
    assert [list(v) for v in heard(record, "valid")[1:]] == at_checkpoints


@pytest.mark.parametrize("part_tokens", [1 << 14, 2 * 64])
def test_gram_against_autograd_on_the_head(
    corpus: Manifest, proxy: Proxy, part_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where rows go through in parts. The rows are the next ones that the run draws of each domain."""
    monkeypatch.setattr(sizes, "PART_TOKENS", part_tokens)
    (record,) = train(corpus, RunSpec(Told(frozenset({Gram(3)})), proxy, 0))
    hand, wanted = ByHand(corpus, proxy), []
    for _ in range(STEPS // 8):
        hand.train(WEB, 8)
        wanted.append(gram(hand, 3))
    np.testing.assert_allclose(heard(record, "gram"), wanted, rtol=2e-3, atol=1e-6)
    assert all((g == g.T).all() for g in heard(record, "gram"))
    after = [hand.sampler.blocks(np.eye(3)[d], 0, 1, hand.drawn_D)[0].ravel()[:3] for d in range(3)]
    assert hand.sampler.coming(hand.drawn_D, 3).tolist() == np.array(after).tolist()


def gram(hand: ByHand, rows: int) -> FloatArray:
    """Inner products of the gradients of cross-entropy in the head, by autograd."""
    gradients, layout = [], hand.program.layout
    for blocks_N in hand.sampler.coming(hand.drawn_D, rows):
        own = torch.from_numpy(hand.sampler.store.gather(blocks_N))[None]
        hidden, head = model._forward(hand.state.weights.detach(), layout, own[..., :-1], torch.float32)
        head = head.detach().requires_grad_()
        loss = F.cross_entropy((hidden @ head)[0], own[..., 1:].flatten())
        gradients.append(torch.autograd.grad(loss, head)[0].flatten().double())
    return (torch.stack(gradients) @ torch.stack(gradients).T).numpy()


def test_drops_are_those_of_runs_trained_separately(corpus: Manifest, proxy: Proxy) -> None:
    """A probe of a domain is the run that turns to it there; the run itself does not notice. What probes train is cost."""
    often = replace(proxy, checkpoints=STEPS)
    (record,) = train(corpus, RunSpec(Told(frozenset({Drops(0.1, 0.8)}), steps=15), often, 0))
    first, last = heard(record, "drops")  # after 15 steps, and two before the end; none after it
    wanted = np.empty((3, 3))
    for j, name in enumerate(corpus.names):
        probe = Mixture({n: 0.8 if n == name else 0.1 for n in corpus.names})
        (turned,) = train(corpus, RunSpec(Scheduled(Schedule(((0.0, WEB), (15 / STEPS, probe)))), often, 0))
        at, after = (turned.trajectory[step - 1][1] for step in (15, 18))
        wanted[:, j] = [at[f"loss/{n}"] - after[f"loss/{n}"] for n in corpus.names]
    np.testing.assert_allclose(first, wanted, atol=1e-6)
    assert (wanted.argmax(axis=1) == np.arange(3)).all()
    assert (abs(last) > 0).all() and abs(last).max() < abs(first).max()  # at the pace of the run's last steps
    (deaf,) = train(corpus, RunSpec(Fixed(WEB), often, 0))
    assert (record.metrics, record.trajectory, record.drawn) == (deaf.metrics, deaf.trajectory, deaf.drawn)
    assert record.cost.tokens == deaf.cost.tokens + 2 * 3 * 3 * 512
    assert sum(segment.tokens for segment in record.trace) == deaf.cost.tokens


def test_a_probe_may_be_longer_than_what_is_left(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Told(frozenset({Drops(0.75)}), steps=24), proxy, 0))
    assert record.cost.tokens == proxy.tokens + 3 * 24 * 512
    (drops,) = heard(record, "drops")
    assert np.isfinite(drops).all()


def test_nothing_is_probed_after_the_last_token(corpus: Manifest, proxy: Proxy) -> None:
    """There is nothing left to decide: the policy hears the rest of its signals, and nobody pays for probes."""
    (record,) = train(corpus, RunSpec(Told(EVERY, steps=STEPS), proxy, 0))
    assert record.cost.tokens == proxy.tokens
    assert sorted(record.state[-1][3]) == ["gram", "train", "valid"]


def test_every_member_of_a_stack_hears_its_own(
    corpus: Manifest, proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path
) -> None:
    """Five runs of different needs in three slots are told what each is told alone."""
    excess = Excess(reference[0].id)
    feeds = [Told(EVERY | {excess}), Fixed(WEB), Told(frozenset({Train()}), (CODE, WEB), 5)]
    feeds += [Told(frozenset({excess, Gram(2)}), steps=13), Told(frozenset({Valid(0.5), Drops(0.1)}), steps=16)]
    specs = [RunSpec(feed, proxy, seed) for seed, feed in enumerate(feeds)]
    for spec, record in zip(specs, train(corpus, *specs, slots=3, weights=tmp_path), strict=True):
        (alone,) = train(corpus, spec, weights=tmp_path)
        assert (record.drawn, record.trace) == (alone.drawn, alone.trace)
        assert (record.cost.tokens, record.cost.flops) == (alone.cost.tokens, alone.cost.flops)
        for signal in spec.feed.needs:
            theirs, own = heard(record, signal.name), heard(alone, signal.name)
            times = -(-STEPS // spec.feed.steps) + {"valid": 1, "drops": -1}.get(signal.name, 0)
            assert len(own) == len(theirs) == times
            np.testing.assert_allclose(theirs, own, rtol=2e-3, atol=2e-4)


def test_long_batches_are_heard_in_parts(
    corpus: Manifest, proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(Told(frozenset({Train(), Excess(reference[0].id)})), proxy, 0)
    (whole,) = train(corpus, spec, weights=tmp_path)
    monkeypatch.setattr(sizes, "PART_TOKENS", 3 * 64)  # 3, 3 and 2 rows of 8
    (parts,) = train(corpus, spec, weights=tmp_path)
    for name in ("train", "excess"):
        np.testing.assert_allclose(heard(parts, name), heard(whole, name), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rate", [1e6, 1e30])
def test_a_member_that_diverges_is_told_nothing_more(corpus: Manifest, proxy: Proxy, rate: float) -> None:
    """Its policy never hears what is no number, and its mates hear what they would without it."""
    well = RunSpec(Told(EVERY), proxy, 0)
    sick = RunSpec(Told(EVERY), replace(proxy, learning_rate=rate), 1)
    bad, beside = train(corpus, sick, well)
    other, healthy = train(corpus, RunSpec(Told(EVERY), proxy, 1), well)
    assert beside == replace(healthy, cost=beside.cost)
    assert bad.diverged and not bad.metrics and not other.error
    assert np.isfinite([v for name in ("valid", "gram", "drops") for a in heard(bad, name) for v in a.ravel()]).all()


def test_a_probe_that_diverges_ends_the_run(corpus: Manifest, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Program, "descend", lambda self, state, *_: state.weights.fill_(torch.nan)[:, 0])
    hears = RunSpec(
        Told(frozenset({Train(), Drops(0.1)})), replace(proxy, checkpoints=1), 0
    )  # trains with descend_telling
    (record,) = train(corpus, hears)
    assert record.error == "held-out loss of a probe not finite at step 8 of 32"
    assert record.diverged


def leave(corpus: Manifest, specs: list[RunSpec], folder: Path) -> None:
    """What a worker does before it is killed."""
    torch.set_num_threads(1)
    list(Trainer(corpus.root, partial=folder / "partial", every=0.0, weights=folder)(specs))


def steps_left(folder: Path) -> list[int]:
    found = [checkpoint.load(folder, path.stem) for path in folder.glob("*.safetensors")]
    return [body["member"]["step"] for _, body in filter(None, found)]


def test_a_policy_that_hears_everything_survives_a_kill(
    corpus: Manifest, proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path
) -> None:
    """Killed in the middle of segments, resumed: its trajectory and all that it was told are the same, bit for bit."""
    slow = replace(proxy, tokens=2 * proxy.tokens)
    everything = EVERY | {Excess(reference[0].id)}
    feeds = [Told(everything, (WEB, CODE), 20, bends=True), Told(everything, (CODE,), 20, bends=True)]
    specs = [RunSpec(feed, slow, seed) for seed, feed in enumerate(feeds)]
    partial = tmp_path / "partial"
    process = mp.get_context("spawn").Process(target=leave, args=(corpus, specs, tmp_path))
    process.start()
    while not steps_left(partial) or min(steps_left(partial)) < 24:
        assert process.is_alive()
        time.sleep(0.005)
    process.kill()
    process.join()
    assert all(24 <= step < 64 for step in steps_left(partial))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        resumed = train(corpus, *specs, partial=partial, weights=tmp_path)
        straight = train(corpus, *specs, weights=tmp_path)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(resumed, straight, strict=True):
        assert (a.cost.tokens, a.cost.flops) == (b.cost.tokens, b.cost.flops)
        assert replace(a, cost=b.cost) == b
    assert len({segment.mixture for segment in straight[1].trace}) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by torch
def test_compiled_hears_the_same(
    corpus: Manifest, proxy: Proxy, reference: tuple[RunSpec, ByHand], tmp_path: Path
) -> None:
    """To float tolerance; a run beside it that hears nothing does not change by it."""
    specs = [RunSpec(Told(EVERY | {Excess(reference[0].id)}), proxy, 0), RunSpec(Fixed(WEB), proxy, 1)]
    eager = train(corpus, *specs, weights=tmp_path)
    compiled = train(corpus, *specs, weights=tmp_path, compiled=True)
    for name in ("valid", "train", "excess", "gram", "drops"):
        np.testing.assert_allclose(heard(compiled[0], name), heard(eager[0], name), rtol=2e-2, atol=2e-3)
    assert compiled[1].metrics == pytest.approx(eager[1].metrics, abs=5e-4)


# What cannot be


@dataclass(frozen=True)
class Smell:
    """A signal that nobody measures."""

    name = "smell"


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (Smell(), "this trainer cannot measure smell"),
        (Drops(1.5), r"signal drops: part must be above 0 and at most 1, the whole run \(got 1.5\)"),
        (Drops(0.1, text=0.0), r"text must be above 0 and at most 1, the whole held-out text \(got 0.0\)"),
        (Drops(0.1, 0.0), r"weight must be above 0 and at most 1 \(got 0.0\)"),
        (
            Valid(0.0),
            r"signal valid: part must be above 0 and at most 1, the whole held-out text \(got 0.0\)",
        ),
        (Gram(0), r"rows must be at least 1 \(got 0\)"),
        (Excess("x", "row"), r"clip must be token or domain \(got 'row'\)"),
        (Drops(0.5), r"its policy probes for 16 of 32 steps after a segment of 8. Ask for shorter probes"),
        (
            Excess("abc"),
            r"reference run abc: its weights are not in .*abc.safetensors. If it has ended, delete",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(
    corpus: Manifest, proxy: Proxy, tmp_path: Path, signal: Any, message: str
) -> None:
    """In a crashed record, as one line; its mate is what it is without it."""
    well = RunSpec(Fixed(WEB), proxy, 1)
    bad, beside = train(corpus, RunSpec(Told(frozenset({signal})), proxy, 0), well, weights=tmp_path, slots=1)
    assert re.search(message, bad.error) and "\n" not in bad.error
    assert not bad.diverged and not bad.metrics
    (alone,) = train(corpus, well, weights=tmp_path)
    assert beside == replace(alone, cost=beside.cost)


@dataclass(frozen=True)
class Failing(Told):
    """Fails in one of its parts, the first time or in the middle of the run."""

    where: str = ""
    late: bool = False

    def init(self, names: Sequence[str], start: Feedback) -> tuple[Any, ...]:
        self._fail("init", ((),))
        return super().init(names, start)

    def segment(self, state: tuple[Any, ...]) -> Segment:
        self._fail("segment", state)
        segment = super().segment(state)
        return replace(segment, mixture=Mixture({"prose": 1.0})) if self.where == "names" else segment

    def asks(self, state: tuple[Any, ...]) -> frozenset[Signal]:
        return self.needs | {Gram(7)} if self.where == "asks" else self.needs

    def update(self, state: tuple[Any, ...], feedback: Feedback) -> tuple[Any, ...]:
        self._fail("update", state)
        return super().update(state, feedback)

    def _fail(self, where: str, state: tuple[Any, ...]) -> None:
        if self.where == where and len(state) > self.late:
            raise ValueError(f"no {where} today")

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"where": self.where, "late": self.late}


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        (Failing(EVERY, where="segment"), "ValueError: no segment today"),
        (Failing(EVERY, where="segment", late=True), "ValueError: no segment today"),
        (Failing(EVERY, where="update"), "ValueError: no update today"),
        (Failing(EVERY, where="update", late=True), "ValueError: no update today"),
        (Failing(EVERY, where="asks"), "its policy asks for what it does not declare: Gram(rows=7)."),
        (Failing(EVERY, where="names"), "prose"),
        (Limited(Told(EVERY), {"web": 0.3}, 4.0, dry="error"), "domain 'web' would run dry"),
        (Limited(Told(EVERY), {"code": 0.1, "law": 0.1, "web": 0.1}, 4.0), "the run has 16,384 tokens, but 4 epochs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_policy_that_raises_ends_its_own_run_alone(corpus: Manifest, proxy: Proxy, feed: Any, message: str) -> None:
    """Its mate, and the run that takes over its slot, are those of a stack without it, to the last bit."""
    well, waiting = RunSpec(Told(EVERY), proxy, 0), RunSpec(Fixed(WEB), proxy, 2)
    bad, beside, after = train(corpus, RunSpec(feed, proxy, 1), well, waiting, slots=2)
    healthy, other = train(corpus, well, waiting)
    assert message in bad.error.splitlines()[-1]
    assert not bad.diverged and not bad.metrics
    assert beside == replace(healthy, cost=beside.cost)
    assert after == replace(other, cost=after.cost)


def test_all_of_a_stack_may_fail(corpus: Manifest, proxy: Proxy) -> None:
    feeds = [
        Failing(frozenset(), where="init"),
        Failing(frozenset(), steps=9, where="init"),
        Told(frozenset({Gram(0)})),
    ]
    records = train(corpus, *(RunSpec(feed, proxy, 0) for feed in feeds), slots=1)
    assert [record.error.splitlines()[-1] for record in records[:2]] == 2 * ["ValueError: no init today"]
    assert records[2].error == "signal gram: rows must be at least 1 (got 0)."


def test_one_signal_in_two_ways_is_refused(corpus: Manifest, proxy: Proxy) -> None:
    (record,) = train(corpus, RunSpec(Told(frozenset({Valid(), Valid(0.5)})), proxy, 0))
    assert record.error == "its policy asks for the same signal in two ways (valid, valid)."


@pytest.mark.parametrize(
    "spec", [RunSpec(Fixed(WEB), None, 0, keep=True), RunSpec(Told(frozenset({Excess("x")})), None, 0)]
)  # type: ignore[arg-type]
def test_weights_need_a_folder(corpus: Manifest, proxy: Proxy, spec: RunSpec) -> None:
    (record,) = train(corpus, replace(spec, proxy=proxy))
    assert "this trainer was given no folder for them" in record.error


@pytest.mark.parametrize(("name", "value"), [("size", "100k"), ("sequence", 32), ("data", "another corpus")])
def test_a_reference_of_another_kind_is_refused(proxy: Proxy, tmp_path: Path, name: str, value: Any) -> None:
    """The error names the run, the file, what differs, and what to do."""
    checkpoint.keep(tmp_path, "abcdef", torch.zeros(3), replace(proxy, **{name: value}))
    with pytest.raises(DataError) as said:
        checkpoint.kept(tmp_path, "abcdef", proxy)
    assert f"reference run abcdef: its {name} is {value}" in str(said.value)
    assert str(tmp_path / "abcdef.safetensors") in str(said.value)
    assert "delete its record runs/ab/abcdef.json in the store, to train it again" in str(said.value)


def test_half_a_file_of_weights_is_refused(proxy: Proxy, tmp_path: Path) -> None:
    (tmp_path / "abcdef.safetensors").write_bytes(b"half")
    with pytest.raises(RunFailed, match=r"abcdef.safetensors cannot be read .* Delete the file, and delete its record"):
        checkpoint.kept(tmp_path, "abcdef", proxy)


def test_a_run_that_diverged_keeps_nothing_and_a_record_comes_after_its_weights(
    corpus: Manifest, proxy: Proxy, tmp_path: Path
) -> None:
    bad = RunSpec(Fixed(WEB), replace(proxy, learning_rate=1e30), 0, keep=True)
    good = RunSpec(Fixed(WEB), proxy, 0, keep=True)
    there = {
        r.spec.id: sorted(p.stem for p in tmp_path.iterdir())
        for r in Trainer(corpus.root, weights=tmp_path)([bad, good])
    }
    assert there == {bad.id: [], good.id: [good.id]}


def test_checkpoints_of_an_earlier_version_are_ignored(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    spec = RunSpec(Fixed(WEB), proxy, 0)
    save_file({"weights": torch.zeros(3)}, tmp_path / f"{spec.id}.safetensors", {"schema": "mixopt.checkpoint/v1"})
    (resumed,), (straight,) = train(corpus, spec, partial=tmp_path), train(corpus, spec)
    assert resumed.metrics == straight.metrics
