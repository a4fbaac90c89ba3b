"""The composition root of a comparison: job in, one search for each method, the same final runs for all, run directory out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mixopt import compare, report_comparison
from mixopt.compare import READINGS, Contender, Final, Terms
from mixopt.errors import JobError, MixoptError, RunFailed
from mixopt.files import write_atomically
from mixopt.job import Job
from mixopt.methods import make
from mixopt.methods.online import Online
from mixopt.progress import Progress
from mixopt.rehearsal import begin
from mixopt.runs import Proxy, RunRecord, RunSpec, Swarm
from mixopt.search import Workshop, stopped
from mixopt.store import Store
from mixopt.study import Method, Study
from mixopt.validate import LEVEL, UNIFORM
from mixopt.yaml_text import dump_yaml
from pipelines import tuned
from pipelines.compare_entries import comparison_entries
from pipelines.compute import make_executor
from pipelines.mlflow_tracker import make_tracker
from pipelines.outbox import Question
from pipelines.plan import Setting, make_proxy, make_study, refuse_too_few, repetition_notes, setting
from pipelines.prepare import prepare
from pipelines.search import (
    COMPARISON,
    LOCK,
    corpus,
    derived,
    provenance,
    refuse_other_job,
    refuse_too_many_failures,
)
from proxies.sizes import SIZES, Derived, shape

LEADERBOARD = "leaderboard.csv"
FINAL_RUNS = 30  # ten methods at three seeds: whether steps are compiled must not depend on how many are compared
SMALL_SHARE = 0.1  # of the total that goes into the search, above which the reader is told
IDENTITY = (
    *("name", "seed", "data", "target", "objective", "method", "proxies"),
    *("compare.size", "compare.tokens", "compare.budget", "compare.total"),
)


@dataclass(frozen=True)
class Plan:
    """What the job leaves to be derived: its own proxies and the target proxy, each as a job of its own, and the terms."""

    job: Job
    target: Job
    own: Setting
    chosen: Setting
    rate: Derived | None
    terms: Terms
    reasons: tuple[str, ...]


def plan(job: Job, store: Path, names: Sequence[str], vocabulary: int) -> Plan:
    """Equal terms for all methods, known before any text is read.

    Raises JobError with all of: nothing to compare, a budget below one proxy, target tokens below one step.
    """
    section, domains, problems = job.compare, len(names), []
    job = _with_proxies(job, {"horizons": []})  # branches would cost tokens that answer another question
    rate = tuned.find(job, store, names, vocabulary)
    own = setting(job, domains, rate)
    budget = section.budget or own.count * own.tokens
    if len(job.compared()) < 2:
        problems.append("compare.methods: name a method beside uniform.")
    if budget < own.tokens:
        problems.append(f"compare.budget: {budget:,} tokens are less than one proxy's {own.tokens:,}.")
    job = _with_proxies(job, {"count": max(1, budget // own.tokens)})
    size = section.size or _larger(job.proxies.size)
    tokens = section.tokens or round(own.tokens * shape(size).parameters / own.shape.parameters)
    target = _with_proxies(job, {"size": size, "tokens": tokens, "count": FINAL_RUNS})
    try:
        chosen = setting(target, domains, tuned.find(target, store, names, vocabulary))
    except JobError as e:
        problems.append(str(e).replace("proxies.tokens", "compare.tokens"))
    if problems:
        raise JobError("\n".join(problems))
    worth = 1.0 if section.total == "tokens" else own.shape.flops(vocabulary) / chosen.shape.flops(vocabulary)
    seeds = tuple(range(job.seed + 1, job.seed + 1 + section.seeds))
    terms = Terms(budget, tokens, chosen.batch * chosen.shape.sequence, worth, seeds)
    return Plan(job, target, own, chosen, rate, terms, _reasons(job, own, chosen, terms))


def run(job: Job, folder: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Search with every method, train the final runs, compare, and write everything under `out`.

    Killed and run again it trains what is missing and says the same. Returns the content of compare.json.
    """
    began, store = time.perf_counter(), job.store_path(folder)
    refuse_other_job(job, out, COMPARISON, IDENTITY)
    manifest = prepare(job.data_config(folder), store, progress)
    planned = plan(job, store, manifest.names, manifest.tokenizer.vocabulary)
    study = replace(make_study(planned.job, manifest, planned.rate), uncertainty=False)
    target = make_proxy(planned.target, manifest, planned.chosen)
    refuse_policies(job, study, target, planned.terms)
    small, large = (make_executor(each, manifest) for each in (planned.job, planned.target))
    locked = job.to_json() | {"derived": derived(study), "provenance": provenance(job, manifest)}
    write_atomically(out / LOCK, dump_yaml(locked))
    about = corpus(job), manifest.fingerprint
    question = Question(job.name, *about, "compare", job.seed, study.space, study.objective)
    with closing(make_tracker(job.tracking.mlflow, out, question, comparison_entries)) as tracker:
        shop = Workshop(small, Store(store), progress, tracker)
        contenders = search(job, study, planned.terms, shop)
        contenders, finals = final_runs(contenders, target, planned.terms, replace(shop, executor=large))
        runs = {c.label: [*c.searched.records, *_records(finals.get(c.label, {}))] for c in contenders}
        every = {record.spec.id: record for records in runs.values() for record in records}
        rows = [compare.row(c, finals.get(c.label, {}), study.objective, study.space) for c in contenders]
        if failed := next((row["error"] for row in rows if row["method"] == UNIFORM), ""):
            raise RunFailed(f"{UNIFORM}, which every method is compared with: {failed}")
        document = {
            **conclude(planned, study, target, compare.order(rows)),
            "experiment": question.experiment,
            "policies": compare.policies(runs),
            "store": str(store),
            "provenance": provenance(job, manifest),
            "runs_trained": len(shop.trained),
            "runs_reused": len(every.keys() - shop.trained),
            "seconds": time.perf_counter() - began,
        }
        longest = target.lasting(max(final.tokens for each in finals.values() for final in each.values()))
        document["notes"] += repetition_notes(planned.target, replace(study, proxy=longest), manifest)
        write(document, out)
        for record in every.values():
            tracker.log(record)  # also those that were in the store
        tracker.conclude(document)
    return document


def refuse_policies(job: Job, study: Study, target: Proxy, terms: Terms) -> None:
    """Raise JobError, before anything is trained, with all policies that cannot feed the final runs."""
    problems, names = [], study.space.names
    for body in job.compared():
        method = make(body["name"], body["knobs"])
        if isinstance(method, Online):
            try:
                feed, _ = compare.answer(body["name"], method, study)
                begin(feed, names, target.tokens, terms.step)
                begin(feed, names, terms.length(feed, names, 0), terms.step)
            except MixoptError as e:
                problems.append(f"{body['label']} in the final runs: {e}")
    if problems:
        raise JobError("\n".join(problems))


def search(job: Job, study: Study, terms: Terms, shop: Workshop) -> list[Contender]:
    """Every method after its search. Runs that several ask for are trained once; those of one shape train together.

    What goes wrong with one method (a law that needs more runs, a divergence, a crash) is its error, and no other's.
    """
    contenders = {body["label"]: Contender(**body) for body in job.compared()}
    methods = {label: make(c.name, c.knobs) for label, c in contenders.items()}
    studies, errors, searching = dict.fromkeys(methods, study), dict[str, str](), list(methods)
    while searching:
        wanted: dict[str, list[RunSpec]] = {}
        for label in searching:
            try:
                specs = _asked(methods[label], studies[label], terms)
            except MixoptError as e:
                errors[label] = str(e).replace("proxies.count", "compare.budget") if job.compare.budget else str(e)
            else:
                if [spec.id for spec in specs] != [record.spec.id for record in studies[label].swarm.records]:
                    wanted[label] = specs
        made, crashed = _make(wanted, shop, "search")
        studies |= {label: replace(study, swarm=Swarm(records)) for label, records in made.items()}
        errors |= crashed
        searching = [label for label in wanted if label not in crashed]
    with shop.progress.task("fit and propose", None):
        for label, contender in contenders.items():
            contender = replace(contender, searched=studies[label].swarm, error=errors.get(label, ""))
            contenders[label] = _concluded(contender, methods[label], studies[label], terms)
    return list(contenders.values())


def _asked(method: Method, study: Study, terms: Terms) -> list[RunSpec]:
    refuse_too_few(method, study.count, len(study.space.names))
    specs = list({spec.id: spec for spec in compare.asked(method, study)}.values())
    compare.refuse_overspending(specs, terms)
    return specs


def _concluded(contender: Contender, method: Method, study: Study, terms: Terms) -> Contender:
    """With what is to feed its final runs, or the reason why there is nothing."""
    if contender.error:
        return contender
    try:
        compare.refuse_overspending(study.swarm.records, terms)
        refuse_too_many_failures(method, study)
        feed, notes = compare.answer(contender.name, method, study)
    except MixoptError as e:
        return replace(contender, error=str(e))
    return replace(contender, feed=feed, notes=notes)


def final_runs(
    contenders: Sequence[Contender], target: Proxy, terms: Terms, shop: Workshop
) -> tuple[list[Contender], dict[str, dict[str, Final]]]:
    """The final runs of each method and reading, first all of equal length; a crash is an error of its method.

    Raises RunFailed where uniform, which all are compared with, did not get through.
    """
    feeds = {c.label: c.feed for c in contenders if c.feed is not None}
    lengths = dict.fromkeys(feeds, terms.tokens)
    made: dict[str, dict[str, tuple[int, tuple[RunRecord, ...]]]] = {label: {} for label in feeds}
    errors = {c.label: c.error for c in contenders}
    spent = {c.label: c.spent for c in contenders}
    for reading in ("same_final", "same_total"):
        specs = compare.final_specs(feeds, lengths, target, terms.seeds)
        records, crashed = _make(specs, shop, READINGS[reading])
        errors |= crashed
        for label, found in records.items():
            made[label][reading] = lengths[label], found
        lengths = {}
        for label in records:
            try:
                lengths[label] = terms.length(feeds[label], tuple(target.supply), spent[label])
            except MixoptError as e:
                errors[label] = f"at the same total: {e}"
        feeds = {label: feeds[label] for label in lengths}
    if errors[UNIFORM]:
        raise RunFailed(f"{UNIFORM}, which every method is compared with: {errors[UNIFORM]}")
    finals = {
        label: {name: Final(*found, made[UNIFORM][name][1]) for name, found in made[label].items()} for label in feeds
    }
    return [replace(c, error=errors[c.label]) for c in contenders], finals


def _make(
    specs: Mapping[str, Sequence[RunSpec]], shop: Workshop, label: str
) -> tuple[dict[str, tuple[RunRecord, ...]], dict[str, str]]:
    """The records of each method's runs, and the reason where a method lacks some because they crashed.

    Raises RunFailed where some were not even tried: the executor gave up, which says nothing of a method.
    """
    crashed: dict[str, str] = {}
    try:
        shop.make(compare.stackable([spec for own in specs.values() for spec in own]), label)
    except RunFailed:
        for name, own in specs.items():
            lacking = [spec.id for spec in own if spec not in shop.store]
            if any(run_id not in shop.crashed for run_id in lacking):
                raise
            if lacking:
                crashed[name] = str(stopped([shop.crashed[run_id] for run_id in lacking], len(own)))
    return {name: shop.store.swarm(own).records for name, own in specs.items() if name not in crashed}, crashed


def _records(finals: Mapping[str, Final]) -> list[RunRecord]:
    """The method's own final runs, those of both readings once."""
    return list({record.spec.id: record for final in finals.values() for record in final.own}.values())


def conclude(planned: Plan, study: Study, target: Proxy, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document but for where it comes from."""
    terms, section = planned.terms, planned.job.compare
    return {
        "schema": compare.SCHEMA,
        "name": planned.job.name,
        "seed": planned.job.seed,
        "seeds": list(terms.seeds),
        "objective": {"weights": dict(study.objective.weights), "floors": dict(study.objective.floors)},
        "domains": list(study.space.names),
        "search": _side(study.proxy) | {"budget": terms.budget, "count": study.count},
        "target": _side(target) | {"total": section.total, "rate": terms.rate},
        "derived": list(planned.reasons),
        "verdict": compare.verdict(rows),
        "rows": list(rows),
        "notes": notes(planned, rows),
    }


def notes(planned: Plan, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the reader of the numbers should know."""
    terms, equal = planned.terms, "FLOPs" if planned.job.compare.total == "flops" else "tokens"
    counted = "held-out readings, gradients and passes of a reference are not counted"
    found = [f"The same total is equal in training {equal}; {counted}."]
    rivals, chance = len(compare.rivals(rows)), 100 * (1 - LEVEL)
    if rivals > 1:
        found.append(
            f"{rivals} methods were compared with uniform, each with an interval of its own: one that is no better "
            f"still looks better or worse in {chance:.0f} of 100 comparisons, and the first of many is flattered."
        )
    if (share := 1 - terms.tokens / terms.total(0)) > SMALL_SHARE:
        found.append(
            f"The search budget is {100 * share:.0f} % of the total here. The longer the real run is, beside which a search is "
            "cheap, the more the same final run is the reading that counts."
        )
    longest = max((row["same_total"]["tokens"] for row in compare.rivals(rows)), default=0)
    if longest > planned.job.target.tokens:
        found.append(
            f"Final runs of up to {longest:,} tokens are longer than the real run of {planned.job.target.tokens:,}."
        )
    for key in ("learning_rate", "batch"):
        if (given := getattr(planned.job.proxies, key)) is not None:
            found.append(f"proxies.{key} {given:g} is given by the job: the target proxy uses it too.")
    return found


def write(document: Mapping[str, Any], out: Path) -> None:
    """All files of the run directory but the lock, each complete or not there."""
    write_atomically(out / COMPARISON, json.dumps(document, indent=1, allow_nan=False))
    write_atomically(out / LEADERBOARD, compare.table(document["rows"]))
    report_comparison.write(document, out)


def _with_proxies(job: Job, update: Mapping[str, Any]) -> Job:
    return job.model_copy(update={"proxies": job.proxies.model_copy(update=update)})


def _larger(size: str) -> str:
    """One size up, or the same where there is none."""
    sizes = list(SIZES)
    return sizes[min(sizes.index(size) + 1, len(sizes) - 1)]


def _side(proxy: Proxy) -> dict[str, Any]:
    return {key: getattr(proxy, key) for key in ("size", "tokens", "sequence", "batch", "learning_rate")}


def _reasons(job: Job, own: Setting, chosen: Setting, terms: Terms) -> tuple[str, ...]:
    """Every number of the comparison that the job does not give, with where it is from."""
    section, size = job.compare, _larger(job.proxies.size)
    count = job.proxies.count
    found = [f"search budget {terms.budget:,} tokens: {count} proxies of {own.tokens:,}"]
    if section.size is None:
        why = f"one up from {job.proxies.size}" if size != job.proxies.size else "there is none above the job's proxies"
        found.append(f"target proxies of size {size}: {why}")
    if section.tokens is None:
        found.append(f"{terms.tokens:,} tokens per target proxy: as many per parameter as the job's proxies have")
    unit = "FLOPs" if section.total == "flops" else "tokens (compare.total)"
    found.append(f"same total: {terms.rate:.3g} final tokens for each search token left over, equal in {unit}")
    return (*found, *own.reasons, *(f"target: {reason}" for reason in chosen.reasons))
