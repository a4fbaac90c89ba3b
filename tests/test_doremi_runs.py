"""DoReMi and DoGE as methods: which runs they ask for, what they make of them, on the toy and on a trainer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt.domains import Manifest
from mixopt.errors import JobError, RunFailed
from mixopt.methods.doge import DoGE
from mixopt.methods.doremi import DoReMi
from mixopt.mixture import Mixture
from mixopt.policies.doremi import GroupDRO
from mixopt.policy import Excess, Fixed
from mixopt.progress import Silent
from mixopt.runs import Objective, Proxy, RunRecord
from mixopt.search import Workshop
from mixopt.space import MixtureSpace
from mixopt.store import Store
from mixopt.study import Method, Recommendation, Study, Train
from pipelines.local_executor import LocalExecutor
from proxies.toy import Toy
from proxies.train import Trainer

RNG = np.random.default_rng(0)


def conclude(study: Study, method: Method, train: Train, folder: Path) -> tuple[list[RunRecord], Recommendation]:
    shop = Workshop(LocalExecutor(train), Store(folder), Silent())
    done = shop.complete(study, method, "proxies")
    return list(done.swarm.records), method.recommend(done, RNG)


@pytest.mark.parametrize(("reference", "first"), [("prior", (0.4, 0.3, 0.2, 0.1)), ("uniform", (0.25,) * 4)])
def test_a_reference_and_then_the_run_against_it(
    reference: Any, first: tuple[float, ...], toy_study: Study, toy: Toy, tmp_path: Path
) -> None:
    method = DoReMi(reference=reference, rounds=20, clip="domain")
    assert len(method.ask(toy_study, RNG)) == 1
    (before, against), found = conclude(toy_study, method, toy, tmp_path)
    assert before.spec.keep
    assert isinstance(before.spec.feed, Fixed)
    assert before.mixture.array(toy_study.space.names) == pytest.approx(first)
    assert not against.spec.keep
    assert against.spec.feed.needs == {Excess(before.spec.id, "domain")}
    assert (before.spec.proxy.tokens, against.spec.proxy.tokens) == (20_000, 20_000)
    policy = against.spec.feed
    assert found.mixture == policy.answer(policy.load(against.state))
    assert found.mixture != against.mixture
    assert found.evidence["how"] == "averaged"
    assert len(found.evidence["proposer_notes"]) == 1
    assert found.policy is None


@dataclass(frozen=True)
class Follows(Toy):
    """A toy whose excess losses are against a run on the mixture of the reference."""

    references: dict[str, Mixture] = field(default_factory=dict)

    def __call__(self, specs: Any) -> Any:
        for spec in specs:
            if isinstance(spec.feed, Fixed):
                self.references[spec.id] = spec.feed.mixture
            yield self._train(spec)

    def measured(self, signal: Any, n_D: Any, w_D: Any) -> Any:
        if not isinstance(signal, Excess):
            return super().measured(signal, n_D, w_D)
        reference_D = self.losses_D(self.references[signal.reference].array(self.names))
        return np.maximum(self.losses_D(n_D) - reference_D, 0)


def test_iterations_start_from_the_last_answer(toy_study: Study, tmp_path: Path) -> None:
    method = DoReMi(iterations=3, rounds=20)
    records, _ = conclude(toy_study, method, Follows(toy_study.space.names), tmp_path)
    assert [record.spec.keep for record in records] == [True, False] * 3
    for against, reference in zip(records[1::2], records[2::2], strict=False):
        policy: Any = against.spec.feed
        assert reference.mixture == policy.answer(policy.load(against.state))
    assert sum(record.spec.proxy.tokens for record in records) <= toy_study.budget


def test_iterations_end_when_nothing_moves(toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    """The toy's excess losses are always against uniform: the second answer is the first."""
    records, found = conclude(toy_study, DoReMi(iterations=5, rounds=10), toy, tmp_path)
    assert len(records) == 4
    assert found.mixture == records[2].mixture


@pytest.mark.parametrize("method", [DoReMi(rounds=20), DoGE(rounds=20)])
def test_a_run_that_diverged_is_said(method: Method, toy_study: Study, toy: Toy, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"run \w+: the toy was told to fail\. A lower proxies\.learning_rate helps"):
        conclude(toy_study, method, replace(toy, fails="0123456789abcdef"), tmp_path)


@pytest.mark.parametrize("method", [DoReMi(rounds=20), DoGE(rounds=20)])
def test_an_answer_that_is_not_allowed_is_moved_and_said(
    method: Method, toy_study: Study, toy: Toy, tmp_path: Path
) -> None:
    space = MixtureSpace(toy_study.space.domains, 1000, max_epochs=4, upper={"b": 0.1})
    records, found = conclude(replace(toy_study, space=space), method, toy, tmp_path)
    policy: Any = records[-1].spec.feed
    own = policy.answer(policy.load(records[-1].state))
    assert space.violations(own)
    assert found.mixture == space.nearest(own.array(space.names))
    _, note = found.evidence["proposer_notes"]
    assert "the nearest allowed mixture is given: b: proportion" in note
    assert "is above upper 0.1" in note


@pytest.mark.parametrize("method", [DoReMi(), DoGE(rounds=100)])
def test_rounds_shorter_than_a_step_are_refused_before_anything_is_trained(method: Method, toy_study: Study) -> None:
    study = replace(toy_study, count=20)
    said = r"method\.rounds: (50 rounds .* 39 training|100 rounds .* 78 training) steps \(.* 256 a step\)\. Ask for \d+"
    for _ in range(2):  # the reference itself could be trained
        with pytest.raises(JobError, match=said):
            method.ask(study, RNG)


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ({"iterations": 0}, r"method\.iterations: must be at least 1 \(got 0\)"),
        ({"rounds": 0}, r"method\.rounds: must be at least 1 \(got 0\)"),
        ({"eta": 0.0}, r"method\.eta: must be positive \(got 0\)"),
        ({"smoothing": 1.0}, r"method\.smoothing: must be in \[0, 1\) \(got 1\)"),
    ],
)
def test_knobs_of_doremi(knob: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        DoReMi(**knob)


def small_study(corpus: Manifest, proxy: Proxy) -> Study:
    space = MixtureSpace(corpus.domains, target_tokens=20_000, max_epochs=4)
    return Study(space, Objective({f"bpb/{name}": 1.0 for name in space.names}), proxy, count=4)


def test_doremi_on_a_trainer(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    """The reference is kept and compared with, the run ends, and asking again trains nothing."""
    study, method = small_study(corpus, proxy), DoReMi(rounds=8)
    train = Trainer(corpus.root, weights=tmp_path / "weights")
    (_, against), found = conclude(study, method, train, tmp_path / "store")
    assert isinstance(against.spec.feed, GroupDRO)
    excess_D = np.array(against.state["excess"])
    assert (excess_D > 0).all()
    assert (excess_D < 5).all()
    assert len(against.trace) == 8
    assert against.trace[-1].mixture != against.trace[0].mixture
    assert study.space.violations(found.mixture) == []
    again = conclude(study, method, Toy(("none",), fails="0123456789abcdef"), tmp_path / "store")
    assert again[1] == found


def test_doge_on_a_trainer(corpus: Manifest, proxy: Proxy, tmp_path: Path) -> None:
    """One run; its Gram matrix is one; the answer is no longer uniform.

    By the code's rule it would be: domains of unrelated tokens have opposed gradients, which count as none.
    """
    study, method = small_study(corpus, proxy), DoGE(rounds=8, variant="paper")
    (run,), found = conclude(study, method, Trainer(corpus.root), tmp_path)
    gram_DD = np.array(run.state["gram"])
    assert gram_DD == pytest.approx(gram_DD.T)
    assert np.linalg.eigvalsh(gram_DD).min() > -1e-6 * np.trace(gram_DD)
    assert (np.diag(gram_DD) > 0).all()
    assert max(abs(share - 1 / 3) for share in found.mixture.values()) > 1e-4
