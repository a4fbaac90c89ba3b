"""The composition root of a search: job in, run directory out."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mixopt import handoff, report, results, tables
from mixopt.backends import export_all
from mixopt.domains import Manifest
from mixopt.errors import JobError, RunFailed
from mixopt.files import write_atomically
from mixopt.job import Job
from mixopt.mixture import Mixture, Schedule
from mixopt.progress import Progress
from mixopt.runs import RunRecord, Swarm
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Method, Recommendation, Study
from mixopt.validate import Validate, arms
from mixopt.yaml_text import dump_yaml, parse_yaml
from pipelines import tuned
from pipelines.compute import make_executor
from pipelines.feedback import advised
from pipelines.mlflow_tracker import make_tracker
from pipelines.outbox import Question
from pipelines.plan import least_runs, make_study, refuse_too_few, rehearse, repetition_notes, setting
from pipelines.prepare import prepare
from proxies.sizes import Derived

LOCK, RESULTS, COMPARISON = "job.lock.yaml", "results.json", "compare.json"
WEAK = 0.5  # rank correlation below which a law is said to know little
IDENTITY = ("name", "seed", "data", "target", "objective", "method", "proxies")  # what one run directory is about


def run(job: Job, folder: Path, out: Path, progress: Progress) -> dict[str, Any]:
    """Prepare the text, train the proxies, conclude, validate, and write everything under `out`.

    Killed and run again it trains what is missing and gives the same answer. `folder` is where the job's relative
    paths start. Returns the content of results.json.
    """
    began, store = time.perf_counter(), job.store_path(folder)
    refuse_other_job(job, out)
    method = job.make_method()
    manifest = prepare(job.data_config(folder), store, progress)
    rate = tuned.find(job, store, manifest.names, manifest.tokenizer.vocabulary)
    study = make_study(job, manifest, rate)
    refuse_too_few(method, study.count, len(study.space.names))
    rehearse(method, study)
    locked = job.to_json() | {"derived": derived(study), "provenance": provenance(job, manifest)}
    write_atomically(out / LOCK, dump_yaml(locked))
    question = Question(
        job.name, corpus(job), manifest.fingerprint, job.method["name"], job.seed, study.space, study.objective
    )
    with closing(make_tracker(job.tracking.mlflow, out, question)) as tracker:
        shop = Workshop(make_executor(job, manifest), Store(store), progress, tracker)
        study = shop.complete(study, method, "proxies")
        refuse_too_many_failures(method, study)
        with progress.task("fit and propose", None):
            said, told = advised(method, job, study, provenance(job, manifest)["fingerprints"], store)
            answer = said.recommend(study, np.random.default_rng([study.seed, 1]))
        check, checked = validate(job, study, answer, shop)
        runs = [*study.swarm.records, *checked.swarm.records]
        for record in runs:
            tracker.log(record)  # also those that were in the store; what is mirrored already is left alone
        effort = results.Effort(
            len(shop.trained), len({r.spec.id for r in runs} - shop.trained), time.perf_counter() - began
        )
        document = conclude(job, study, manifest, answer, effort, runs, rate) | {"store": str(store)}
        document["notes"] += told
        if check is not None:
            document |= validated(checked, check, document["notes"])
        write(study, manifest, document, out)
        tracker.conclude(document)
    if job.export:
        export_all(handoff.load(out / "mixture.json"), job.export, out / "export", sequence=job.target.sequence)
    return document


def validate(job: Job, study: Study, answer: Recommendation, shop: Workshop) -> tuple[Validate | None, Study]:
    """Train the recommendation against prior, uniform and the best swarm point, on seeds that the search did not use."""
    alone = replace(study, swarm=Swarm())
    if job.validation.seeds == 0:
        return None, alone
    check = Validate(arms(study, answer.mixture), job.validation.seeds, first_seed=study.seed + 1)
    return check, shop.complete(alone, check, "validation")


def validated(checked: Study, check: Validate, notes: list[str]) -> dict[str, Any]:
    """The parts of the results that validation gives; a note instead where its runs failed: the answer stays."""
    try:
        measured = results.validation(checked, check)
        notes += [floor["says"] for floor in measured["floors"] if floor["kept"] != "yes"]
        return {"validation": measured, "trajectories": results.trajectories(checked, check)}
    except RunFailed as e:
        notes.append(str(e))
        return {}


def conclude(
    job: Job,
    study: Study,
    manifest: Manifest,
    answer: Recommendation,
    effort: results.Effort,
    runs: Sequence[RunRecord],
    rate: Derived | None,
) -> dict[str, Any]:
    """The results document, before validation."""
    chosen = setting(job, len(manifest.domains), rate)
    target = job.target
    return {
        "schema": results.SCHEMA,
        "name": job.name,
        "method": job.method["name"],
        "law": answer.evidence.get("law"),
        "seed": job.seed,
        "domains": results.domain_rows(study, manifest, answer.mixture),
        "target": {"tokens": target.tokens, "max_epochs": target.max_epochs},
        "proxy": {
            "size": study.proxy.size,
            "parameters": chosen.shape.parameters,
            "tokens": study.longest.tokens,
            "sequence": study.proxy.sequence,
            "batch": study.proxy.batch,
            "learning_rate": study.proxy.learning_rate,
            "count": len(study.swarm.records),
            "derived": list(chosen.reasons),
        },
        "objective": {"weights": dict(study.objective.weights), "floors": dict(study.objective.floors)},
        "predicted": results.predicted(answer),
        "uncertainty": answer.evidence.get("uncertainty"),
        "fit": answer.evidence.get("fit"),
        "schedule": answer.evidence.get("schedule"),
        "transfer": answer.evidence.get("transfer"),
        "proposal": {key: answer.evidence.get(key) for key in ("how", "floors", "cap_prices")},
        "validation": None,
        "trajectories": [],
        "swarm": results.swarm(study),
        "policies": results.policies(job.method["name"], runs),
        "cost": results.cost(runs, effort, 6.0 * target.parameters * target.tokens if target.parameters else None),
        "notes": [
            *repetition_notes(job, study, manifest),
            *answer.evidence.get("proposer_notes", ()),
            *doubts(answer),
            *reduced(runs),
        ],
        "provenance": provenance(job, manifest),
    }


def doubts(answer: Recommendation) -> list[str]:
    """Sentences where the uncertainty could not be measured, or the law, out of fold, hardly ranks the runs."""
    fit, missing = answer.evidence.get("fit"), answer.evidence.get("not_measured")
    notes = [missing] if missing else []
    if fit is None or (fit["mean_loss"]["spearman"] or 0) >= WEAK:
        return notes
    said = (
        f"Out of fold the law hardly ranks the runs (Spearman {fit['mean_loss']['spearman'] or 0:.2f} of the objective)"
    )
    return [*notes, f"{said}: trust the validation, not the law; more or longer proxies would help."]


def reduced(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence where a device's memory held fewer runs at once than were meant to train together."""
    found = sorted({said for record in runs if "asked" in (said := record.machine.get("stack", ""))})
    return [f"Stacks were smaller than planned: {', '.join(found)}."] if found else []


def write(study: Study, manifest: Manifest, document: dict[str, Any], out: Path) -> None:
    """All files of the run directory but the lock, each complete or not there."""
    write_atomically(out / RESULTS, json.dumps(document, indent=1, allow_nan=False))
    mixture = Mixture({row["name"]: row["recommended"] for row in document["domains"]})
    prediction = document["predicted"] | {"gain_over_prior": (document["validation"] or {}).get("gain_over_prior")}
    schedule = Schedule.of(document["schedule"]) if document["schedule"] else None
    answer = handoff.document(study.space, mixture, manifest, prediction, document["provenance"], schedule)
    handoff.save(answer, out / "mixture.json")
    if study.points.records:
        tables.write_swarm(study.points, study.space.names, study.objective.metrics, out)
    report.write(document, out)


def refuse_too_many_failures(method: Method, study: Study) -> None:
    """Raise RunFailed if so many runs diverged that the method's law cannot be fitted to the others."""
    records, good = study.swarm.records, study.swarm.good.records
    needed = least_runs(method, len(study.space.names))
    if len(good) < needed:
        failed = next(record for record in records if record.error)
        raise RunFailed(
            f"{len(records) - len(good)} of {len(records)} runs failed, and the law needs {needed} good ones. First, "
            f"run {failed.spec.id}: {failed.why}. A lower proxies.learning_rate helps."
        )


def refuse_other_job(job: Job, out: Path, document: str = RESULTS, about: Sequence[str] = IDENTITY) -> None:
    """Raise JobError if the run directory holds another question's `document`. More proxies or other machines are fine."""
    for other in {RESULTS, COMPARISON} - {document}:
        if (out / other).exists():
            raise JobError(f"{out}: holds {other}, which is another command's. Choose another --out.")
    if not (out / document).exists():
        return
    before = flat(parse_yaml((out / LOCK).read_text(encoding="utf-8"), str(out / LOCK)))
    now = flat(parse_yaml(dump_yaml(job.to_json()), "this job"))
    changed = [
        f"{key} was {before.get(key)}, is {now.get(key)}"
        for key in sorted(before | now)
        if any(f"{key}.".startswith(f"{part}.") for part in about)
        and key != "proxies.count"
        and before.get(key) != now.get(key)
    ]
    if changed:
        raise JobError(f"{out}: holds the results of another job ({'; '.join(changed)}). Choose another --out.")


def flat(body: Any, path: str = "") -> dict[str, Any]:
    """Nested mappings as one, keyed by dotted paths."""
    if not isinstance(body, dict):
        return {path: body}
    return {
        key: value for name, inner in body.items() for key, value in flat(inner, f"{path}.{name}".lstrip(".")).items()
    }


def provenance(job: Job, manifest: Manifest) -> dict[str, Any]:
    """What is needed to find, or doubt, these numbers again."""
    tokenizer = manifest.tokenizer
    return {
        "job": job.name,
        "mixopt": _version("mixopt"),
        "python": platform.python_version(),
        "torch": _version("torch"),
        "numpy": _version("numpy"),
        "lightgbm": _version("lightgbm"),
        "machine": f"{platform.system()} {platform.machine()}",
        "data": manifest.fingerprint,
        "prepared": str(manifest.root),
        "tokenizer": f"{tokenizer.kind}, vocabulary {tokenizer.vocabulary}, {tokenizer.fingerprint}",
        "fingerprints": {domain.name: domain.fingerprint for domain in manifest.domains},
    }


def derived(study: Study) -> dict[str, Any]:
    """What the job left to be derived, as it was."""
    return asdict(study.proxy) | {"count": study.count, "weights": dict(study.objective.weights)}


def corpus(job: Job) -> str:
    """A name for the text, for people: the source, or the job's name."""
    return job.data.source or job.name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
