"""Rank agreement: statistics with known answers, and the command on real proxies of seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from mixopt.errors import RunFailed
from mixopt.methods.regmix import RegMix
from mixopt.mixture import FloatArray
from mixopt.progress import Silent
from mixopt.ranks import Agreement, agreement, pairwise, regret, resamples, shortfall, verdict
from mixopt.runs import Objective
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from pipelines.local_executor import LocalExecutor
from pipelines.ranks import compare
from proxies.toy import Toy

Run = Callable[..., tuple[int, dict, str]]
BOTH = Objective({"bpb/code": 1.0, "bpb/web": 3.0})


def column(*values: float) -> FloatArray:
    return np.array(values, dtype=float)


def noisy(runs: int, noise: float, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same truth measured three times [R, M]."""
    truth_RM = rng.normal(size=(runs, 2))
    own, again, other = (truth_RM + noise * rng.normal(size=(runs, 2)) for _ in range(3))
    return own, again, other


def test_pairwise_counts_pairs_by_hand() -> None:
    a = column(1, 2, 3, 4)
    assert pairwise(a, a) == 1
    assert pairwise(a, -a) == 0
    assert pairwise(a, column(1, 3, 2, 4)) == pytest.approx(5 / 6)  # one of six pairs is turned
    assert pairwise(a, column(1, 2, 2, 4)) == pytest.approx(5.5 / 6)  # one is equal on one side


def test_regret_by_hand() -> None:
    a, b = column(1, 2, 3, 4), column(0.5, 0.2, 0.4, 0.1)
    assert [regret(a, b, k) for k in (1, 2, 3, 4)] == pytest.approx([0.4, 0.1, 0.1, 0.0])
    assert regret(b, b, 1) == 0


def test_equal_ranks_agree_whatever_the_scale() -> None:
    own = noisy(24, 0.0, np.random.default_rng(0))[0]
    found = agreement(own, 0.5 * own - 3, BOTH, resamples(24, np.random.default_rng(0)))
    assert found.spearman == pytest.approx(1)
    assert found.interval == pytest.approx((1, 1))
    assert (found.pairwise, found.regret) == (1, {1: 0, 3: 0, 5: 0})
    assert found.metrics == {"bpb/code": pytest.approx(1), "bpb/web": pytest.approx(1)}
    assert found.spread == pytest.approx(0.5 * np.ptp(own @ [0.25, 0.75]))


def test_agreement_is_of_the_objective_and_of_each_metric() -> None:
    own, _, other = noisy(24, 0.5, np.random.default_rng(1))
    found = agreement(own, other, BOTH, resamples(24, np.random.default_rng(0)))
    weights = np.array([0.25, 0.75])
    assert found.spearman == pytest.approx(spearmanr(own @ weights, other @ weights).statistic)
    assert found.metrics["bpb/code"] == pytest.approx(spearmanr(own[:, 0], other[:, 0]).statistic)
    body = found.to_json()
    assert body["metrics_min"] == min(found.metrics.values())
    assert body["metrics_median"] == pytest.approx(np.mean(list(found.metrics.values())))
    assert list(body["regret"]) == ["1", "3", "5"]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, one = np.random.default_rng(2), Objective({"bpb/code": 1.0})
    own, _, other = noisy(200_000, 0.5, rng)
    truth = spearmanr(own[:, 0], other[:, 0]).statistic
    covered = 0
    for _ in range(200):
        own, _, other = noisy(40, 0.5, rng)
        low, high = agreement(own[:, :1], other[:, :1], one, resamples(40, rng, 400)).interval or (2, 2)
        covered += low <= truth <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_the_shortfall_is_zero_for_noise_and_not_for_another_order() -> None:
    own, again, other = noisy(40, 0.3, np.random.default_rng(3))
    index_BR = resamples(40, np.random.default_rng(0))
    low, high = shortfall(own, again, other, BOTH, index_BR) or (2, 2)
    assert low < 0 < high
    low, high = shortfall(own, again, -own, BOTH, index_BR) or (0, 0)
    assert 1.5 < low < high <= 2


def test_constant_losses_have_no_rank() -> None:
    own = noisy(10, 0.1, np.random.default_rng(4))[0]
    found = agreement(own, np.ones_like(own), BOTH, resamples(10, np.random.default_rng(0)))
    assert (found.spearman, found.interval, found.to_json()["metrics_min"]) == (None, None, None)
    assert found.pairwise == 0.5
    assert verdict(found, found, None, "1m proxies")[0] is False


def known(spearman: float, low: float, high: float) -> Agreement:
    return Agreement(spearman, (low, high), 0.9, {1: 0.0}, 1.0, {})


@pytest.mark.parametrize(
    ("found", "noise", "lost", "trusted", "start"),
    [
        (
            (0.93, 0.85, 0.97),
            (0.96, 0.9, 0.98),
            (-0.01, 0.08),
            True,
            "Ranks agree with 1m proxies: 0.93 (0.85 to 0.97)",
        ),
        ((0.85, 0.4, 0.97), (0.9, 0.6, 0.98), (-0.1, 0.3), None, "Not sure: ranks agree with 1m proxies at 0.85"),
        ((0.4, 0.1, 0.7), (0.95, 0.9, 0.98), (0.2, 0.8), False, "Do not trust these proxies in place of 1m proxies"),
        ((0.4, 0.1, 0.7), (0.5, 0.2, 0.8), (-0.2, 0.4), False, "Do not trust these ranks: they agree with 1m proxies"),
        (None, (0.96, 0.9, 0.98), None, True, "Seeds agree: 0.96"),
        (None, (0.5, 0.1, 0.8), None, False, "Do not trust these ranks: seeds agree at only 0.50 (0.10 to 0.80)"),
        (None, (0.85, 0.4, 0.9), None, None, "Not sure: seeds agree at 0.85"),
    ],
)
def test_the_verdict_says_what_the_numbers_mean(
    found: tuple[float, ...] | None,
    noise: tuple[float, ...],
    lost: tuple[float, float] | None,
    trusted: bool | None,
    start: str,
) -> None:
    said = verdict(known(*found) if found else None, known(*noise), lost, "1m proxies")
    assert said[0] is trusted
    assert said[1].startswith(start)


def test_a_mixture_with_a_diverged_run_is_left_out(toy_study: Study, scratch: Path) -> None:
    def swarm(train: Toy, store: str, seed: int) -> list:
        specs = [replace(s, seed=seed) for s in RegMix().ask(toy_study, np.random.default_rng([0, 0]))]
        return [Workshop(LocalExecutor(train), Store(scratch / store), Silent()).make(specs, "proxies")]

    names = toy_study.space.names
    good, fails = swarm(Toy(names), "a", 0), swarm(Toy(names, fails="01"), "b", 1)
    failed = sum(bool(record.error) for record in fails[0].records)
    found = compare(toy_study, [*good, *fails], "another seed")
    assert (found["mixtures"], found["left_out"]) == (40 - failed, failed)
    assert found["noise"]["spearman"] == pytest.approx(1)
    with pytest.raises(RunFailed, match=r"only 0 of 40 mixtures ended well .* First, run .*told to fail"):
        compare(toy_study, [*good, *swarm(Toy(names, fails="0123456789abcdef"), "c", 1)], "another seed")


JOB = """
name: ranked
store: {store}
data:
  domains:
    code: {{path: code/*.txt}}
    law: {{path: law/*.txt, tokens: 70_000}}
    web: {{path: web/*.txt}}
  tokenizer: {tokenizer}
target: {{tokens: 300_000, max_epochs: 4}}
proxies: {{size: 10k, tokens: 12_000, count: 12}}
compute: {{workers: 0}}
tracking: none
"""
KEYS = {
    *("job", "own", "other", "notes", "mixtures", "left_out", "agreement", "noise", "shortfall", "trusted", "verdict"),
    *("proxies_trained", "proxies_reused", "seconds"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def write_job(texts: Path, store: Path, tokenizer: str = "bytes", name: str = "ranked") -> Path:
    path = texts / f"{name}.yaml"
    path.write_text(JOB.format(store=store, tokenizer=tokenizer))
    return path


def test_ranks_of_a_larger_size(mixopt: Run, texts: Path, store: Path) -> None:
    job = write_job(texts, store)
    code, found, seen = mixopt("ranks", job, "--size", "100k", "--mixtures", 8)
    assert code == 0
    assert set(found) == KEYS
    assert (found["mixtures"], found["proxies_trained"], found["proxies_reused"]) == (8, 24, 0)
    assert (found["own"]["size"], found["other"]["size"]) == ("10k", "100k")
    assert found["own"]["tokens"] == found["other"]["tokens"] == 12_000
    assert found["other"]["sequence"] == 128  # what the job does not give is derived for the other size
    assert set(found["agreement"]["metrics"]) == {"bpb/code", "bpb/law", "bpb/web"}
    assert -1 <= found["agreement"]["spearman"] <= 1
    assert found["verdict"] in seen
    code, again, _ = mixopt("ranks", job, "--size", "100k", "--mixtures", 8)
    assert (again["proxies_trained"], again["proxies_reused"]) == (0, 24)
    assert {**again, **dict.fromkeys(("proxies_trained", "proxies_reused", "seconds"))} == {
        **found,
        **dict.fromkeys(("proxies_trained", "proxies_reused", "seconds")),
    }


def test_a_search_finds_the_runs_of_ranks(mixopt: Run, texts: Path, store: Path, tmp_path: Path) -> None:
    job = write_job(texts, store)
    code, seeds, _ = mixopt("ranks", job, "--seed-only", "--mixtures", 8)
    assert code == 0
    assert set(seeds) == KEYS
    assert (seeds["agreement"], seeds["other"], seeds["shortfall"]) == (None, None, None)
    code, found, _ = mixopt("search", job, "--out", tmp_path / "out", "--set", "validate.seeds=0")
    assert code == 0
    assert (found["proxies_trained"], found["proxies_reused"]) == (4, 8)


def test_ranks_of_another_vocabulary_read_the_same_bytes(mixopt: Run, texts: Path, store: Path) -> None:
    job = write_job(texts, store)
    code, found, seen = mixopt("ranks", job, "--vocabulary", 320, "--mixtures", 8)
    assert code == 0
    assert (found["own"]["vocabulary"], found["other"]["vocabulary"]) == (257, 320)
    assert 4_000 < found["other"]["tokens"] < 9_000  # a token is one byte here, more there
    assert "10k proxies of vocabulary 320" in found["verdict"]
    assert "as many bytes" in seen


def test_other_tokens_alone(mixopt: Run, texts: Path, store: Path) -> None:
    code, found, _ = mixopt("ranks", write_job(texts, store), "--tokens", "6_000", "--mixtures", 8)
    assert code == 0
    assert (found["own"]["tokens"], found["other"]["tokens"]) == (12_000, 6_000)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "ranks: say what to compare with: --size"),
        (("--size", "100k", "--seed-only"), "or --seed-only alone"),
        (("--size", "100x"), "unknown size '100x'; did you mean '100k'?"),
        (("--size", "10k"), "these are the job's own proxies (10k, 12,000 tokens, vocabulary 257)"),
        (("--vocabulary", 320, "--size", "100k"), "--vocabulary: goes with neither --size nor --tokens"),
        (("--vocabulary", 9), "--vocabulary"),
        (("--seed-only", "--mixtures", 4), "--mixtures: 4 are too few to rank; give at least 8"),
        (("--tokens", 100), "less than one step"),
    ],
)
def test_wrong_questions_are_refused(
    mixopt: Run, texts: Path, store: Path, arguments: tuple[object, ...], sentence: str
) -> None:
    code, found, _ = mixopt("ranks", write_job(texts, store), *arguments)
    assert code == 2
    assert sentence in found["error"]


def test_a_hot_learning_rate_ends_in_a_sentence(mixopt: Run, texts: Path, store: Path) -> None:
    job = write_job(texts, store)
    code, found, _ = mixopt("ranks", job, "--seed-only", "--mixtures", 8, "--set", "proxies.learning_rate=1e30")
    assert code == 3
    assert "only 0 of 8 mixtures ended well" in found["error"]
