"""The sweep of the learning rate: which rates, which is best, who uses it afterwards."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import pytest

from mixopt.errors import DataError, RunFailed
from mixopt.job import Job, load
from mixopt.progress import Silent
from mixopt.rates import at_edge, optimum, wanted
from mixopt.runs import Proxy, RunRecord, RunSpec
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from pipelines import tuned
from pipelines.local_executor import LocalExecutor
from pipelines.tune import sweep
from proxies.toy import Toy

Run = Callable[..., tuple[int, dict, str]]
INF = math.inf


def measured(loss: Callable[[float], float], centre: float = 1.0) -> dict[float, float]:
    losses: dict[float, float] = {}
    while (rates := wanted(centre, losses)) != sorted(losses):
        losses = {rate: loss(rate) for rate in rates}
    return losses


def bowl(best: float) -> Callable[[float], float]:
    return lambda rate: 2 + (math.log2(rate) - math.log2(best)) ** 2


def test_a_sweep_starts_around_the_centre() -> None:
    assert wanted(0.01, {}) == [0.0025, 0.005, 0.01, 0.02, 0.04]
    assert list(measured(bowl(1))) == [0.25, 0.5, 1, 2, 4]


@pytest.mark.parametrize(
    ("best", "rates"),
    [
        (1 / 8, [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4]),
        (8, [1 / 4, 1 / 2, 1, 2, 4, 8, 16]),
        (1000, [1 / 4, 1 / 2, 1, 2, 4, 8, 16, 32, 64]),  # four further at most
        (0.001, [1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1, 2, 4]),
    ],
)
def test_a_sweep_goes_on_where_the_best_is_at_an_edge(best: float, rates: list[float]) -> None:
    losses = measured(bowl(best))
    assert list(losses) == rates
    assert at_edge(losses) == (len(rates) == 9)


def test_the_optimum_of_a_parabola_is_found() -> None:
    for best in (0.8, 1.0, 1.3, 1.9, 0.26):
        assert optimum(measured(bowl(best))) == pytest.approx(best, rel=0.01)
    assert optimum({0.5: 4.0, 1.0: 2.0, 2.0: 3.0}) == 1.12  # 2 ** (1 / 6)
    assert optimum({0.5: 3.0, 1.0: 2.0, 2.0: 3.0}) == 1.0
    assert optimum({0.5: 2.0, 1.0: 2.0, 2.0: 3.0}) == 0.5


def test_the_optimum_is_never_outside_what_was_measured() -> None:
    assert optimum({0.25: 1.0, 0.5: 2.0, 1.0: 3.0}) == 0.25
    assert optimum({0.25: 3.0, 0.5: 2.0, 1.0: 1.0}) == 1.0
    assert optimum({0.25: 3.0, 0.5: 2.0, 1.0: INF}) == 0.5  # a neighbour that diverged has no parabola
    assert 1 <= optimum({0.5: 9.0, 1.0: 1.0, 2.0: 1.0, 4.0: 1.1}) <= 2


def test_rates_that_diverge_send_the_sweep_down() -> None:
    losses = measured(lambda rate: INF if rate > 0.1 else bowl(0.05)(rate))
    assert min(losses) < 0.05 < optimum(losses) * 1.3
    assert set(measured(lambda rate: INF)) == {2.0**k for k in range(-6, 3)}


def test_a_sweep_in_which_every_rate_diverges_fails_in_a_sentence(toy_study: Study, scratch: Path) -> None:
    train = Bowl(Toy(toy_study.space.names), 0.01, hot=0)
    with pytest.raises(RunFailed, match=r"all 9 learning rates from 0\.000156 to 0\.04 diverged"):
        sweep(toy_study, Workshop(LocalExecutor(train), Store(scratch), Silent()))


@dataclass(frozen=True)
class Bowl:
    """The toy, worse the further its learning rate is from the best; rates above `hot` diverge."""

    toy: Toy
    best: float
    hot: float = INF

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        assert all(spec.proxy.shared == specs[0].proxy.shared for spec in specs)
        for spec, record in zip(specs, self.toy(specs), strict=True):
            rate, worse = spec.proxy.learning_rate, (math.log2(spec.proxy.learning_rate / self.best)) ** 2
            if rate > self.hot:
                yield replace(record, metrics={}, error="training loss nan at step 2 of 9", diverged=True)
            else:
                yield replace(record, metrics={name: value + worse for name, value in record.metrics.items()})


def test_a_sweep_survives_divergence_and_trains_nothing_twice(toy_study: Study, scratch: Path) -> None:
    train = Bowl(Toy(toy_study.space.names), 0.003, hot=0.015)
    shops = [Workshop(LocalExecutor(train, stack=3), Store(scratch), Silent()) for _ in range(2)]
    first, second = (sweep(toy_study, shop) for shop in shops)
    assert first == second
    assert [len(shop.trained) for shop in shops] == [2 * len(first), 0]
    mean = {rate: sum(losses) / 2 for rate, losses in first.items()}
    assert mean[0.02] == INF
    assert optimum(mean) == pytest.approx(0.003, rel=0.01)


JOB = """
name: tuned
store: {store}
data:
  domains:
    code: {{path: code/*.txt}}
    law: {{path: law/*.txt}}
    web: {{path: web/*.txt}}
  tokenizer: bytes
target: {{tokens: 300_000, max_epochs: 4}}
proxies: {{size: 10k, tokens: 8_000, count: 8}}
method: olmix
compute: {{workers: 0}}
tracking: none
validate: {{seeds: 0}}
"""
KEYS = {
    *("proxy", "mixture", "objective", "seeds", "domains", "vocabulary", "rates", "learning_rate", "reason", "notes"),
    *("derived_learning_rate", "file", "proxies_trained", "proxies_reused", "seconds"),
}


@pytest.fixture
def job(texts: Path, scratch: Path) -> Path:
    path = texts / "tuned.yaml"
    path.write_text(JOB.format(store=scratch))
    return path


def test_a_search_and_its_dry_run_use_the_tuned_rate(mixopt: Run, job: Path, scratch: Path, tmp_path: Path) -> None:
    code, found, seen = mixopt("tune-proxy", job)
    assert code == 0
    assert set(found) == KEYS
    rates = {row["learning_rate"]: row["mean"] for row in found["rates"]}
    assert len(rates) >= 5
    assert found["learning_rate"] == optimum(rates)
    assert found["proxies_trained"] == 2 * len(rates)
    assert found["reason"] in seen
    kept = json.loads(Path(found["file"]).read_text())
    assert Path(found["file"]).parent == scratch / "tuned"
    assert kept["schema"] == "mixopt.tuned/v1"
    assert {key: kept[key] for key in kept if key != "schema"} == {key: found[key] for key in kept if key != "schema"}

    code, again, _ = mixopt("tune-proxy", job)
    assert (again["proxies_trained"], again["proxies_reused"]) == (0, 2 * len(rates))
    assert (again["learning_rate"], again["file"]) == (found["learning_rate"], found["file"])

    reason = f"learning rate {found['learning_rate']:.3g}: tuned for 10k proxies of 8,000 tokens (mixopt tune-proxy)"
    assert found["reason"] == reason
    assert reason in mixopt("search", job, "--dry-run")[1]["reasons"]
    assert mixopt("search", job, "--out", tmp_path / "out")[0] == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["proxy"]["learning_rate"] == found["learning_rate"]
    assert reason in results["proxy"]["derived"]
    code, ranked, _ = mixopt("ranks", job, "--seed-only", "--mixtures", 8)
    assert (code, ranked["own"]["learning_rate"]) == (0, found["learning_rate"])
    assert ranked["proxies_reused"] == 8


def test_a_job_that_gives_its_rate_keeps_it(mixopt: Run, job: Path) -> None:
    code, found, _ = mixopt("tune-proxy", job, "--set", "proxies.learning_rate=0.5")
    assert code == 0
    assert found["derived_learning_rate"] == 0.02
    assert "keeps its own proxies.learning_rate, 0.5" in " ".join(found["notes"])
    assert found["learning_rate"] != 0.5


def keep(store: Path, rate: float, names: Sequence[str] = ("code", "law", "web"), **proxy: object) -> Path:
    """A finished sweep for 10k proxies."""
    known = asdict(Proxy("10k", 8_000, 64, 4, rate, 4, 1024, {}, "data"))
    body = {"mixture": {}, "objective": {}, "seeds": [0, 1], "proxy": {**known, **proxy}}
    return tuned.save(store, {**body, "domains": list(names), "vocabulary": 257, "rates": [], "learning_rate": rate})


def find(job: Path, scratch: Path, *overrides: str, vocabulary: int = 257) -> float | None:
    parsed: Job = load(job, overrides)
    found = tuned.find(parsed, scratch, ("code", "law", "web"), vocabulary)
    return found.value if found else None


def test_every_field_of_a_proxy_is_compared_or_free() -> None:
    """A field that a job can choose must be compared in `tuned._alike` with what the job chooses, or be in FREE."""
    compared = {"size", "sequence", "batch", "optimizer"}
    fixed = {"warmup", "cooldown", "weight_decay", "version"}  # no job can choose these
    assert {field.name for field in fields(Proxy)} == compared | fixed | tuned.FREE


def test_a_rate_holds_for_alike_proxies_only(job: Path, scratch: Path) -> None:
    assert find(job, scratch) is None
    keep(scratch, 0.123)
    assert find(job, scratch) == 0.123
    assert find(job, scratch, "proxies.batch=4") == 0.123
    assert find(job, scratch, "proxies.tokens=16_000", "proxies.batch=4") == 0.123
    assert find(job, scratch, "proxies.tokens=4_000", "proxies.batch=4") == 0.123
    assert find(job, scratch, "proxies.tokens=16_100", "proxies.batch=4") is None
    assert find(job, scratch, "proxies.batch=8") is None
    assert find(job, scratch, "proxies.size=100k", "proxies.batch=4") is None
    assert find(job, scratch, "proxies.learning_rate=0.01") is None
    assert find(job, scratch, vocabulary=512) == 0.123
    for changed in ({"weight_decay": 0.2}, {"version": Proxy.version - 1}, {"warmup": 0.1}):
        keep(scratch, 0.456, tokens=8_001, **changed)
    assert find(job, scratch, "proxies.tokens=8_001") == 0.123


def test_of_several_rates_the_same_text_comes_first_then_the_nearest_tokens(job: Path, scratch: Path) -> None:
    keep(scratch, 0.1, names=("a", "b"))
    assert find(job, scratch) == 0.1
    keep(scratch, 0.2, tokens=15_000)
    assert find(job, scratch) == 0.2
    keep(scratch, 0.3, tokens=9_000)
    assert find(job, scratch) == 0.3


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "mixopt.tuned/v0"}'])
def test_a_spoilt_file_is_named(job: Path, scratch: Path, text: str) -> None:
    path = keep(scratch, 0.1)
    path.write_text(text)
    with pytest.raises(DataError, match=rf"{path} cannot be used .*Delete it and run mixopt tune-proxy again"):
        find(job, scratch)


def test_a_wrong_job_is_refused_in_a_sentence(mixopt: Run, job: Path) -> None:
    code, found, _ = mixopt("tune-proxy", job, "--set", "proxies.size=11k")
    assert code == 2
    assert "proxies.size: unknown size '11k'" in found["error"]
