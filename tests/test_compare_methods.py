"""Methods compared at equal cost: terms, readings and verdicts by hand, searches and final runs on the toy, one real comparison."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mixopt import compare, report_comparison
from mixopt.compare import Contender, Final, Terms
from mixopt.domains import Domain
from mixopt.errors import DataError, JobError, RunFailed
from mixopt.job import Job, load, parse
from mixopt.methods import METHODS, ONLINE
from mixopt.methods.online import limited
from mixopt.mixture import Mixture, Segment
from mixopt.policies import POLICIES
from mixopt.policy import Drops, Feedback, Fixed, OnlinePolicy, Signal, Valid, knobs, tuples
from mixopt.progress import Silent
from mixopt.runs import Cost, RunRecord, RunSpec, Swarm
from mixopt.search import Workshop
from mixopt.space import MixtureSpace
from mixopt.store import Store
from mixopt.study import Study, Train
from pipelines.audit import opened
from pipelines.compare import final_runs, plan, refuse_policies, run, search
from pipelines.compare_entries import COLUMNS, comparison_entries
from pipelines.local_executor import LocalExecutor
from pipelines.outbox import Question
from proxies.sizes import SIZES
from proxies.toy import Toy

T_TWO = 4.302652729911275  # Student's quantile for two degrees of freedom at 97.5 %
TERMS = Terms(budget=10_000, tokens=4000, step=256, rate=0.25, seeds=(1, 2, 3))


@dataclass(frozen=True)
class Turns:
    """Every quarter of the run on the domain with the highest loss, with a little of the others."""

    lead: float = 0.4

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Valid()})

    def init(self, names: Sequence[str], start: Feedback) -> tuple[tuple[str, ...], str, int]:
        return tuple(names), names[int(np.argmax(start.signals.get("valid", [0])))], -(-start.total // 4)

    def segment(self, state: tuple[tuple[str, ...], str, int]) -> Segment:
        names, first, tokens = state
        rest = (1 - self.lead) / (len(names) - 1)
        return Segment(Mixture({name: self.lead if name == first else rest for name in names}), tokens)

    def update(self, state: tuple[tuple[str, ...], str, int], feedback: Feedback) -> tuple[tuple[str, ...], str, int]:
        return state[0], state[0][int(np.argmax(feedback.signals["valid"]))], state[2]

    def load(self, body: Any) -> tuple[tuple[str, ...], str, int]:
        names, first, tokens = tuples(body)
        return names, first, tokens

    def evidence(self, state: tuple[tuple[str, ...], str, int]) -> Mapping[str, float]:
        return {"names": float(len(state[0]))}

    def to_json(self) -> dict[str, Any]:
        return {"policy": "turns", **knobs(self)}


@dataclass(frozen=True)
class Probing(Turns):
    """The same, but it probes every domain for a hundredth of the run after every quarter."""

    part: float = 0.01

    @property
    def needs(self) -> frozenset[Signal]:
        return frozenset({Valid(), Drops(self.part)})

    def to_json(self) -> dict[str, Any]:
        return {"policy": "probing", **knobs(self)}


@dataclass(frozen=True)
class Taught:
    """Two runs teach it the lead of its policy."""

    runs: int = 2

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        return study.specs(study.space.dirichlet(self.runs, rng))

    def policy(self, study: Study, rng: np.random.Generator) -> OnlinePolicy[Any]:
        return Turns(lead=len(study.swarm.good.records) / 8)

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        raise AssertionError("a comparison trains no run of the search that follows the policy")

    recommend = ask


@pytest.fixture
def toy_study(toy_study: Study) -> Study:
    """Comparisons do not ask answers how sure they are."""
    return replace(toy_study, uncertainty=False)


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods that adapt, among those there are."""
    for name, policy in {"turns": Turns, "probing": Probing}.items():
        monkeypatch.setitem(ONLINE, name, policy)
        monkeypatch.setitem(METHODS, name, policy)
        monkeypatch.setitem(POLICIES, name, lambda body, policy=policy: policy(**tuples(body)))
    monkeypatch.setitem(METHODS, "taught", Taught)


def job(*methods: Any, **section: Any) -> Job:
    return parse(
        {
            "name": "toy",
            "data": {"source": "environment"},
            "target": {"tokens": 100_000},
            "compare": {"methods": list(methods), **section},
        },
        "test",
    )


def record(study: Study, seed: int, values: Sequence[float], tokens: int = 1000, error: str = "") -> RunRecord:
    uniform = Mixture.normalised(dict.fromkeys(study.space.names, 1.0))
    metrics = {f"bpb/{name}": value for name, value in zip(study.space.names, values, strict=True)}
    spec = RunSpec(Fixed(uniform), replace(study.proxy, tokens=tokens), seed)
    trace = (Segment(uniform, tokens),)
    return RunRecord(spec, metrics, trace=trace, cost=Cost(tokens, 0.0, 2.0), error=error, diverged=bool(error))


@dataclass(frozen=True)
class Lost:
    """An executor that makes what `train` does and lets its errors through."""

    train: Train

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        return self.train(specs)


# The terms.


def test_what_is_not_spent_on_searching_the_final_run_gets() -> None:
    lengths = {spent: TERMS.length(Turns(), "abcd", spent) for spent in (0, 6000, 9100, 10_000, 10_200)}
    assert lengths == {0: 4000 + 2500, 6000: 4000 + 1000, 9100: 4000, 10_000: 4000, 10_200: 4000}


@pytest.mark.parametrize("part", [1e-9, 0.01, 0.03])
def test_probes_are_paid_from_the_same_total(part: float) -> None:
    terms = replace(TERMS, budget=200_000, tokens=20_000, step=64)  # 312 steps of the same final run, 1093 of the total
    assert terms.total(0) == 70_000
    for spent in (0, 120_000, 200_000):
        tokens = terms.length(Probing(part=part), "abcd", spent)
        probes = 3 * 4 * max(1, round(part * (tokens // 64))) * 64
        assert abs(tokens + probes - terms.total(spent)) <= 2 * 64 + (part > 1e-3) * 16 * 64  # a probe is whole steps
    with pytest.raises(JobError, match="its probes alone take"):
        replace(terms, tokens=200).length(Probing(part=part), "abcd", 200_000)


def test_a_search_above_the_budget_is_an_error_that_says_the_numbers(toy_study: Study) -> None:
    specs = toy_study.specs(toy_study.space.dirichlet(11, np.random.default_rng(0)))
    compare.refuse_overspending(specs[:10], TERMS)
    compare.refuse_overspending([record(toy_study, 0, (1, 1, 1, 1), 1024)] * 10, TERMS)  # whole steps are longer
    steep = replace(TERMS, budget=5000)
    with pytest.raises(JobError, match="takes 11,000 tokens in 11 runs, the budget is 5,000"):
        compare.refuse_overspending(specs, steep)
    with pytest.raises(JobError, match="takes 15,000 tokens in 3 runs"):
        compare.refuse_overspending([record(toy_study, 0, (1, 1, 1, 1), 5000)] * 3, steep)


def test_runs_of_one_shape_stand_together(toy_study: Study) -> None:
    feeds = {"a": Fixed(toy_study.space.prior_mixture), "b": Turns()}
    specs = compare.final_specs(feeds, {"a": 1000, "b": 2000}, toy_study.proxy, (1, 2))
    assert [s.proxy.supply["a"] for s in (*specs["a"], *specs["b"])] == [1000, 1000, 2000, 2000]
    mixed = [specs["a"][0], specs["b"][0], specs["a"][1], specs["b"][1]]
    assert compare.stackable(mixed) == [*specs["a"], *specs["b"]]


# Readings, by hand.


def test_gains_are_paired_over_seeds(toy_study: Study) -> None:
    uniform = [record(toy_study, seed, (2, 2, 2, 2)) for seed in (1, 2, 3)]
    own = [
        record(toy_study, seed, (2 - 4 * gain, 2, 2.2, 1.8))
        for seed, gain in zip((1, 2, 3), (0.1, 0.2, 0.3), strict=True)
    ]
    final = Final(1000, tuple(own), tuple(uniform))
    contender = Contender("x", "x", {}, Swarm((own[0],)), Turns())
    found = compare.row(contender, {"same_final": final, "same_total": final}, toy_study.objective, toy_study.space)
    gain = found["same_final"]["gain"]
    assert gain["mean"] == pytest.approx(0.2)
    assert gain["high"] - gain["mean"] == pytest.approx(T_TWO * 0.1 / math.sqrt(3))
    assert found["worst_domain"] == {"name": "c", "change_percent": pytest.approx(10)}
    assert found["changes"]["a"]["mean"] == pytest.approx(-0.4)
    assert found["search"] == {"runs": 1, "tokens": 1000, "seconds": 2.0}
    assert found["same_total"]["objective"] == pytest.approx({"1": 1.9, "2": 1.8, "3": 1.7})
    (line,) = compare.leaderboard([found])
    assert line["interval"] == [gain["low"], gain["high"]]
    assert line["seconds"] == 4.0  # the search and one final run


def test_a_diverged_seed_leaves_its_pair_out(toy_study: Study) -> None:
    uniform = tuple(record(toy_study, seed, (2, 2, 2, 2)) for seed in (1, 2, 3))
    own = [record(toy_study, seed, (1, 2, 2, 2), error="loss nan" if seed == 2 else "") for seed in (1, 2, 3)]
    for count, says in ((1, "1 of 3 pairs"), (2, "only 1 of 3 pairs")):
        own[0] = replace(own[0], error="loss nan" if count == 2 else "")
        final = Final(1000, tuple(own), uniform)
        finals = {"same_final": final, "same_total": final}
        found = compare.row(Contender("x", "x", feed=Turns()), finals, toy_study.objective, toy_study.space)
        assert says in (found["error"] or found["notes"][0])
        assert bool(found["error"]) == (count == 2)


def line(method: str, gain: float, half: float, seeds: Sequence[float] = (0.0, 0.0, 0.0)) -> dict[str, Any]:
    reading = {
        "tokens": 1000,
        "gain": {"mean": gain, "low": gain - half, "high": gain + half},
        "objective": {str(i): 1 - gain + noise for i, noise in enumerate(seeds)},
    }
    return {
        "method": method,
        "same_total": reading,
        "same_final": reading,
        "as_uniform": method == "uniform",
        "error": "",
    }


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([line("x", 0.02, 0.01)], "At equal total cost x beats uniform: it saves 0.0200 bits per byte (95 % interval +0.01"),
        ([line("x", 0.02, 0.03)], "no method is shown to beat uniform; x comes nearest, it saves 0.0200"),
        ([line("x", 0.03, 0.04), line("y", 0.02, 0.01)], "y beats uniform"),
        ([line("x", 0.03, 0.01), line("y", 0.02, 0.01, (0.1, -0.1, 0.0))], "x beats uniform: it saves 0.0300"),
        ([line("x", 0.03, 0.01), line("y", 0.02, 0.01, (0.1, -0.1, 0.0))], "saved); so does y. It is not shown to beat y."),
        ([line("x", -0.03, 0.01), line("y", -0.02, 0.03)], "y comes nearest, it costs 0.0200"),
        ([line("x", -0.03, 0.01), line("y", -0.02, 0.03)], "Uniform beats x."),
        ([], "No method could be compared with uniform."),
    ],
)  # fmt: skip
def test_the_verdict_says_what_is_shown(rows: list[dict[str, Any]], says: str) -> None:
    assert says in compare.verdict([line("uniform", 0, 0), *rows])["same_total"]


def test_a_method_shown_to_beat_all_others_says_no_more() -> None:
    said = compare.verdict([line("uniform", 0, 0), line("x", 0.03, 0.01), line("y", 0.02, 0.01, (0.001, -0.001, 0.0))])
    assert "not shown to beat" not in said["same_total"]


def test_best_first_errors_last() -> None:
    failed = {"method": "z", "same_total": None, "error": "no"}
    rows = [failed, line("a", -1, 0), line("as", 0, 0), line("uniform", 0, 0), line("b", 1, 0)]
    assert [found["method"] for found in compare.order(rows)] == ["b", "uniform", "as", "a", "z"]


# Searches and final runs, on the toy.


def workshop(study: Study, out: Path, fails: str = "") -> Workshop:
    return Workshop(LocalExecutor(Toy(study.space.names, 0.002, fails)), Store(out), Silent())


def test_shared_runs_are_trained_once_and_charged_to_both(toy_study: Study, tmp_path: Path) -> None:
    shop = workshop(toy_study, tmp_path)
    asked = job({"name": "olmix", "label": "one"}, {"name": "olmix", "law": "effdata", "label": "two"}, "prior")
    one, two, prior, uniform = search(asked, toy_study, replace(TERMS, budget=40_000), shop)
    assert len(shop.trained) == 40
    assert one.spent == two.spent == 40_000
    assert (prior.spent, uniform.label, uniform.spent) == (0, "uniform", 0)
    assert one.feed != two.feed
    assert isinstance(prior.feed, Fixed)
    assert prior.feed.mixture == toy_study.space.prior_mixture


def test_a_method_that_adapts_spends_only_what_it_learns_from(toy_study: Study, tmp_path: Path) -> None:
    shop = workshop(toy_study, tmp_path)
    turns, taught, _ = search(job("turns", {"name": "taught", "runs": 3}), toy_study, TERMS, shop)
    assert (turns.spent, turns.feed) == (0, limited(Turns(), toy_study.space))
    assert (taught.spent, taught.feed) == (3000, limited(Turns(lead=3 / 8), toy_study.space))


def test_what_fails_is_an_error_of_its_method_alone(toy_study: Study, tmp_path: Path) -> None:
    few = replace(toy_study, count=5)
    body = [{"name": "regmix", "label": "trees"}, {"name": "taught", "runs": 99, "label": "greedy"}, "turns", "prior"]
    found = {c.label: c for c in search(job(*body), few, TERMS, workshop(few, tmp_path))}
    assert "5 runs cannot determine the law over 4 domains" in found["trees"].error
    given = search(job("regmix", budget=10_000), few, TERMS, workshop(few, tmp_path))
    assert given[0].error.startswith("compare.budget: 5 runs cannot determine the law")
    assert "99,000 tokens in 99 runs, the budget is 10,000" in found["greedy"].error
    assert not any(found[name].error for name in ("turns", "prior", "uniform"))
    hot = workshop(toy_study, tmp_path / "hot", fails="0123456789abcdef")
    olmix, uniform = search(job("olmix"), toy_study, replace(TERMS, budget=40_000), hot)
    assert "40 of 40 runs failed" in olmix.error
    assert olmix.spent == 40_000
    assert not uniform.error


def test_uniform_is_the_nearest_allowed_where_a_cap_forbids_it(toy_study: Study, tmp_path: Path) -> None:
    domains = tuple(Domain(name, tokens) for name, tokens in zip("abcd", (400, 300, 200, 30), strict=True))
    tight = replace(toy_study, space=MixtureSpace(domains, target_tokens=1000, max_epochs=4))
    (uniform,) = search(job("uniform"), tight, TERMS, workshop(tight, tmp_path))
    assert isinstance(uniform.feed, Fixed)
    assert uniform.feed.mixture["d"] == pytest.approx(0.12)
    assert "the nearest allowed mixture in its place" in uniform.notes[0]


def test_a_schedule_that_is_not_allowed_is_refused(toy_study: Study, tmp_path: Path) -> None:
    bounded = replace(toy_study, space=replace(toy_study.space, upper={"a": 0.3}))
    phases = [[0.0, {"a": 0.6, "b": 0.2, "c": 0.1, "d": 0.1}], [0.5, {"a": 0.2, "b": 0.2, "c": 0.3, "d": 0.3}]]
    planned, _ = search(job({"name": "schedule", "phases": phases}), bounded, TERMS, workshop(bounded, tmp_path))
    assert "the schedule is not allowed here: over the whole run a: proportion 0.4 is above" in planned.error


@pytest.fixture
def compared(toy_study: Study, tmp_path: Path) -> tuple[list[Contender], dict[str, dict[str, Final]], Terms]:
    """A comparison of methods of every kind."""
    shop, terms = workshop(toy_study, tmp_path), replace(TERMS, budget=40_000, step=1)
    contenders = search(job("olmix", "turns", "probing", "taught", "prior", "unimax"), toy_study, terms, shop)
    return *final_runs(contenders, replace(toy_study.proxy, tokens=terms.tokens), terms, shop), terms


def test_totals_are_equal(compared: tuple[list[Contender], dict[str, dict[str, Final]], Terms]) -> None:
    contenders, finals, terms = compared
    for contender in contenders:
        same, total = finals[contender.label]["same_final"], finals[contender.label]["same_total"]
        assert {r.spec.seed for r in total.own} == {1, 2, 3}
        assert {sum(part.tokens for part in r.trace) for r in same.own} == {4000}
        for made in total.own:  # probes that are trained beside the run count
            assert terms.rate * contender.spent + made.cost.tokens == pytest.approx(14_000, rel=0.002)
    assert finals["olmix"]["same_total"].own == finals["olmix"]["same_final"].own
    assert finals["probing"]["same_final"].own[0].cost.tokens == 4000 + 3 * 4 * 40
    assert {finals[name]["same_total"].tokens for name in ("prior", "unimax", "turns", "uniform")} == {14_000}


def test_rows_tell_how_a_policy_mixed(
    toy_study: Study, compared: tuple[list[Contender], dict[str, Any], Terms]
) -> None:
    contenders, finals, _ = compared
    rows = {c.label: compare.row(c, finals[c.label], toy_study.objective, toy_study.space) for c in contenders}
    assert [rows[name]["adapts"] for name in ("olmix", "turns", "taught")] == [False, True, True]
    paths = rows["turns"]["proportions"]
    assert [end for end, _ in paths][-1] == 4000
    assert len(paths) > 1
    assert len(rows["prior"]["proportions"]) == 1
    assert rows["turns"]["evidence"] == {"names": 4.0}
    assert rows["probing"]["evidence"]["beside_share"] == pytest.approx(480 / 4480)
    assert rows["unimax"]["as_uniform"]
    assert "its answer is uniform's" in rows["unimax"]["notes"][0]
    assert not rows["turns"]["notes"]
    bounded = replace(toy_study.space, upper={"d": 0.26})
    noted = {c.label: compare.row(c, finals[c.label], toy_study.objective, bounded)["notes"] for c in contenders}
    assert "what it went through is not allowed: d: proportion 0." in noted["turns"][0]
    assert not noted["prior"]
    told = compare.policies({c.label: [*c.searched.records, *finals[c.label]["same_final"].own] for c in contenders})
    assert {body["method"] for body in told} == {"turns", "probing", "taught"}
    assert len(told) == 9


def test_uniform_must_get_through(toy_study: Study, tmp_path: Path) -> None:
    def crash(specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        raise OSError("the disk is gone")
        yield

    shop = Workshop(LocalExecutor(crash), Store(tmp_path), Silent())
    contenders = search(job("prior"), toy_study, TERMS, shop)
    with pytest.raises(RunFailed, match="uniform, which every method is compared with: .* the disk is gone"):
        final_runs(contenders, toy_study.proxy, TERMS, shop)


def test_a_crash_is_told_of_its_own_method(toy_study: Study, tmp_path: Path) -> None:
    toy = Toy(toy_study.space.names, 0.002)

    def crash(specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        for spec in specs:
            if lead := spec.feed.to_json().get("inner", {}).get("lead"):
                raise OSError(f"lead {lead}")
            yield from toy([spec])

    def give_up(specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        yield from toy(specs[:2])
        raise RunFailed("a worker died 5 times")

    leads = [{"name": "turns", "lead": lead, "label": str(lead)} for lead in (0.4, 0.5)]
    shop = Workshop(LocalExecutor(crash), Store(tmp_path), Silent())
    contenders = search(job(*leads, "prior"), toy_study, TERMS, shop)
    found, finals = final_runs(contenders, toy_study.proxy, TERMS, shop)
    for contender in found[:2]:
        assert re.match(rf"3 of 3 runs crashed; .*: OSError: lead {contender.label}\.", contender.error)
    assert set(finals) == {"prior", "uniform"}
    lost = replace(shop, executor=Lost(give_up), store=Store(tmp_path / "lost"), crashed={})
    with pytest.raises(RunFailed, match="a worker died 5 times"):
        final_runs(contenders, toy_study.proxy, TERMS, lost)


def test_policies_that_cannot_feed_the_final_runs_are_refused_before_any_training(toy_study: Study) -> None:
    tight = job({"name": "aioli", "rounds": 200}, {"name": "grape", "rounds": 5000}, "ado", "olmix")
    with pytest.raises(
        JobError, match=r"aioli in the final runs: method\.probe_share: .*\ngrape in the final runs: "
    ) as e:
        refuse_policies(tight, toy_study, toy_study.proxy.lasting(100_000), replace(TERMS, tokens=100_000))
    assert "ado" not in str(e.value)


# The document, as a report and as entries for a tracker.


@pytest.fixture
def document(toy_study: Study, compared: tuple[list[Contender], dict[str, Any], Terms]) -> dict[str, Any]:
    contenders, finals, terms = compared
    failed = Contender("broken", "regmix", error="its law needs 99 runs.")
    rows = [
        compare.row(c, finals.get(c.label, {}), toy_study.objective, toy_study.space) for c in (*contenders, failed)
    ]
    return {
        "schema": compare.SCHEMA,
        "name": "toy <b>",
        "seed": 0,
        "seeds": list(terms.seeds),
        "objective": {"weights": dict(toy_study.objective.weights)},
        "domains": list(toy_study.space.names),
        "search": {"size": "10k", "tokens": 1000, "count": 40, "budget": 40_000},
        "target": {"size": "10k", "tokens": 4000},
        "derived": ["4,000 tokens per target proxy"],
        "verdict": compare.verdict(rows),
        "rows": compare.order(rows),
        "notes": ["Repetition is matched."],
        "provenance": {"python": "3"},
        "runs_trained": 70,
        "runs_reused": 0,
        "seconds": 1.0,
    }


def test_the_report_says_it_all_and_needs_no_network(document: dict[str, Any], tmp_path: Path) -> None:
    report_comparison.write(document, tmp_path)
    html, text = ((tmp_path / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "<h1>toy &lt;b&gt;</h1>" in html
    assert document["verdict"]["same_total"] in text
    for said in ("broken was not measured: its law needs 99 runs.", "beside_share 0.107", "| reference | reference |"):
        assert said in text
    assert html.count("<figure>") == 2
    assert not any(word in html for word in ("<script", "<link", "@import", "url(h"))
    before = (tmp_path / "report.html").read_bytes()
    report_comparison.write(json.loads(json.dumps(document)), tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before
    with pytest.raises(DataError, match="schema 'x'"):
        report_comparison.write(document | {"schema": "x"}, tmp_path)


def test_the_table_has_every_number_in_a_column_of_its_own(document: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(compare.table(document["rows"]))))
    assert [found["method"] for found in lines] == [found["method"] for found in document["rows"]]
    assert float(lines[0]["interval_same_total_low"]) <= float(lines[0]["gain_same_total"])
    assert lines[-1]["gain_same_total"] == ""
    assert lines[-1]["error"] == "its law needs 99 runs."


def test_entries_are_the_leaderboard(document: dict[str, Any], toy_study: Study) -> None:
    question = Question("toy", "corpus", "f" * 16, "compare", 0, toy_study.space, toy_study.objective)
    parent, *children = comparison_entries(question, document)
    assert (parent.name, parent.tags["mixopt.kind"]) == ("compare/toy-s0", "compare")
    assert "| uniform | reference |" in parent.tags["mlflow.note.content"]
    assert "../leaderboard.csv" in parent.files
    assert [child.name for child in children] == [found["method"] for found in document["rows"]]
    assert all(parent.view["tags"].items() <= child.tags.items() for child in children)
    by_name = {child.name: child for child in children}
    turns, row = by_name["turns"], next(r for r in document["rows"] if r["method"] == "turns")
    final = {key: value for key, value, step in turns.metrics if step == 0}
    assert final["gain/same_total_low"] == row["same_total"]["gain"]["low"]
    assert {"gain/same_final", "cost/seconds", "cost/search_tokens", "cost/final_tokens", "obj/value"} <= final.keys()
    assert {"bpb/a", "worst_domain/change", "evidence/names", "mix/l1_prior"} <= final.keys()
    assert parent.view["order"] in final
    path = sorted((step, value) for key, value, step in turns.metrics if key == "p/d")
    assert [step for step, _ in path] == [0, *(end // 1000 for end, _ in row["proportions"])]
    assert path[-1][1] == row["proportions"][-1][1]["d"]
    assert (turns.params["method.lead"], set(COLUMNS) <= turns.params.keys()) == ("0.4", True)
    assert turns.params["w.a"] == f"{row['mixture']['a']:.6g}"
    assert by_name["broken"].tags["mixopt.failure"] == "its law needs 99 runs."
    assert by_name["broken"].params["1 same total"] == "failed"
    again, *_ = comparison_entries(question, document | {"seconds": 9.0})
    assert again.version == parent.version


# Jobs.


def test_a_name_alone_takes_the_knobs_of_the_jobs_method() -> None:
    asked = parse(
        {**job("olmix", "regmix").to_json(), "method": {"name": "olmix", "law": "effdata"}}, "test"
    ).compared()
    assert [(body["label"], body["knobs"].get("law")) for body in asked] == [
        ("olmix", "effdata"),
        ("regmix", "lightgbm"),
        ("uniform", None),
    ]


def test_uniform_is_added_where_it_is_not_there() -> None:
    named = {"name": "uniform", "label": "uniform"}
    for given in (["prior"], ["prior", "uniform"], ["prior", named], ["prior", {"name": "uniform", "label": "even"}]):
        assert [body["label"] for body in job(*given).compared()].count("uniform") == 1


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = [
        "olmxi",
        "prior",
        "prior",
        {"name": "regmix", "keep": 0},
        {"name": "olmix", "label": "uniform", "klr": 1},
        {"name": "odm", "label": 7},
        {"name": "ado", "label": " "},
    ]
    with pytest.raises(JobError) as caught:
        job(*wrong, seeds=2, total="euros", size="7k")
    for said in (
        "compare.total",
        "compare.methods.0.name: unknown method 'olmxi'; did you mean 'olmix'?",
        "compare.methods: 'prior' is there 2 times. Give each its own: {name: prior, label: ...}.",
        "compare.methods.3.keep: must be between 1 and candidates",
        "compare.methods.4.klr: no such key; did you mean 'kl'?",
        "compare.methods.4.label: 'uniform' is what every method is compared with",
        "compare.methods.5.label: must be a word (got 7)",
        "compare.methods.6.label: must be a word (got ' ')",
    ):
        assert said in str(caught.value)
    with pytest.raises(JobError, match=r"compare\.seeds: an interval needs at least 3 paired seeds \(got 2\)"):
        job("prior", seeds=2)


def test_terms_are_derived_and_say_so(tmp_path: Path) -> None:
    body = job("prior").to_json() | {"proxies": {"size": "10k", "tokens": 30_000, "count": 20}}
    planned = plan(parse(body, "test"), tmp_path, ["a", "b"], 512)
    assert planned.terms.budget == 600_000
    assert planned.terms.tokens == round(
        30_000 * 100_672 / 10_336
    )  # parameters of 100k and 10k: as many tokens per parameter
    assert planned.terms.rate == pytest.approx(planned.own.shape.flops(512) / planned.chosen.shape.flops(512))
    assert 0 < planned.terms.rate < 1
    assert any("one up from 10k" in reason for reason in planned.reasons)
    more = parse(body | {"compare": {"methods": ["prior", "unimax", "ado"], "seeds": 9}}, "test")
    assert plan(more, tmp_path, ["a", "b"], 512).target.proxies == planned.target.proxies  # compiled alike
    top = parse(body | {"proxies": {"size": list(SIZES)[-1], "count": 20}}, "test")
    assert any("there is none above" in reason for reason in plan(top, tmp_path, ["a", "b"], 512).reasons)
    with pytest.raises(JobError, match="name a method beside uniform"):
        plan(parse(body | {"compare": {"methods": []}}, "test"), tmp_path, ["a", "b"], 512)
    with pytest.raises(JobError) as caught:
        plan(parse(body | {"compare": {"budget": 5, "tokens": 7}}, "test"), tmp_path, ["a", "b"], 512)
    assert "compare.budget: 5 tokens are less than one proxy's 30,000" in str(caught.value)
    assert "compare.tokens: 7 are less than one step" in str(caught.value)


# One real comparison.

JOB = """
name: small
store: STORE
data: {domains: {code: {path: code/*.txt}, law: {path: law/*.txt}, web: {path: web/*.txt}}, tokenizer: bytes}
target: {tokens: 300_000, max_epochs: 8}
proxies: {size: 10k, tokens: 1_000, count: 6, checkpoints: 1}
compare: {size: 10k, tokens: 1_500, methods: [{name: olmix, law: linear}, prior, turns, {name: regmix, label: greedy}]}
compute: {workers: 0}
tracking: none
"""


class Stopping(Silent):
    """Stops everything after so many runs, as an interrupt would."""

    def __init__(self, runs: int) -> None:
        self.left = runs

    @contextmanager
    def task(self, label: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
        def advance(amount: float) -> None:
            self.left -= unit == "runs" and amount > 0
            if self.left < 0:
                raise KeyboardInterrupt

        yield advance


def steady(rows: Any) -> Any:
    """Rows without the seconds that runs took."""
    if isinstance(rows, dict):
        return {key: steady(value) for key, value in rows.items() if key != "seconds"}
    return [steady(value) for value in rows] if isinstance(rows, list) else rows


def test_a_dry_run_refuses_policies_too(texts: Path, mixopt: Callable[..., tuple[int, dict[str, Any], str]]) -> None:
    (texts / "long.yaml").write_text(JOB)
    asked = "compare.methods=[{name: grape, rounds: 5000}]"
    code, found, _ = mixopt("compare", texts / "long.yaml", "--dry-run", "--set", asked)
    assert (code, "grape in the final runs: " in found["error"]) == (2, True)


def test_killed_and_run_again_it_says_the_same(
    texts: Path, tmp_path: Path, mixopt: Callable[..., tuple[int, dict[str, Any], str]]
) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(JOB.replace("STORE", str(tmp_path / name)))
    straight = run(load(tmp_path / "one.yaml"), texts, tmp_path / "straight", Silent())
    killed = load(tmp_path / "two.yaml")
    for runs in (3, 9, 4):  # in the search, in the final runs of one length, in those of the other
        with pytest.raises(KeyboardInterrupt):
            run(killed, texts, tmp_path / "killed", Stopping(runs))
    assert not (tmp_path / "killed/compare.json").exists()
    resumed = run(killed, texts, tmp_path / "killed", Silent())
    assert 0 < resumed["runs_trained"] < straight["runs_trained"]
    assert steady(resumed["rows"]) == steady(straight["rows"])
    assert resumed["verdict"] == straight["verdict"]
    assert "The same total is equal in training FLOPs; held-out readings" in (tmp_path / "killed/report.md").read_text()
    assert "6 runs cannot determine the law" in straight["rows"][-1]["error"]
    files = {path.name for path in (tmp_path / "killed").iterdir()}
    assert files == {"compare.json", "leaderboard.csv", "report.html", "report.md", "job.lock.yaml"}
    study = opened(tmp_path / "killed").study
    swarm = METHODS["olmix"]().ask(study, np.random.default_rng([study.seed, 0]))
    assert len(Store(tmp_path / "two").swarm(swarm).records) == 6  # what an audit finds
    turns = [Store(tmp_path / "two")._path(body["run"]) for body in resumed["policies"]]
    assert turns
    assert all(path.exists() for path in turns)

    (texts / "small.yaml").write_text((tmp_path / "two.yaml").read_text())
    code, found, seen = mixopt("compare", texts / "small.yaml", "--out", tmp_path / "killed")
    assert (code, found["experiment"]) == (0, resumed["experiment"])
    assert [row["method"] for row in found["rows"]] == [row["method"] for row in resumed["rows"]]
    keys = "method gain_over_uniform interval gain_same_total interval_same_total worst_domain search_tokens final_tokens seconds error"
    assert set(found["rows"][0]) == set(keys.split())
    assert "no method is shown to beat uniform" in seen or "beats uniform" in seen
    code, found, _ = mixopt("report", tmp_path / "killed")
    assert (code, len(found["files"])) == (0, 2)
    code, found, _ = mixopt(
        "compare", texts / "small.yaml", "--out", tmp_path / "killed", "--set", "compare.total=tokens"
    )
    assert (code, "compare.total was flops, is tokens" in found["error"]) == (2, True)
    code, found, _ = mixopt("compare", texts / "small.yaml", "--methods", "prior,olmix", "--seeds", 5, "--dry-run")
    assert code == 0
    assert [(row["method"], row["search_tokens"]) for row in found["methods"]] == [
        ("prior", 0),
        ("olmix", 6_000),
        ("uniform", 0),
    ]
    assert found["seeds"] == [1, 2, 3, 4, 5]
    code, found, _ = mixopt("search", texts / "small.yaml", "--out", tmp_path / "killed")
    assert (code, "holds compare.json, which is another command's" in found["error"]) == (2, True)
    code, found, _ = mixopt("compare", texts / "small.yaml", "--methods", "prior,olmx")
    assert (code, "did you mean 'olmix'?" in found["error"]) == (2, True)
