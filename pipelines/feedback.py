"""`mixopt feedback`: a full run against the search that proposed its mixture, recorded for the searches to come.

RUN_DIR/feedback.json        what was found out; the report shows it
STORE/transfers/<id>.json    the full runs, shared between jobs
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mixopt import feedback, handoff, report, tables
from mixopt.domains import Domain
from mixopt.errors import JobError, SwarmError
from mixopt.files import write_atomically
from mixopt.job import Job, load
from mixopt.laws import make
from mixopt.methods.transferred import Carried, Transferred
from mixopt.mixture import FloatArray, Mixture
from mixopt.progress import Progress
from mixopt.quality import own_domains
from mixopt.study import Method, Study
from mixopt.transfers import FullRun, Scale, Transfers, apart, telling
from pipelines import full_runs
from pipelines.plan import make_space, objective
from proxies.sizes import shape

LOCK, RESULTS, FEEDBACK = "job.lock.yaml", "results.json", "feedback.json"


def run(run_dir: Path, files: Sequence[Path], progress: Progress) -> dict[str, Any]:
    """Read the full runs, record them, compare, write everything down. Returns the content of feedback.json.

    Raises JobError where search or full run are missing, DataError for metrics that do not compare.
    """
    results = _results(run_dir)
    job = load(run_dir / LOCK)
    plan = handoff.load(run_dir / "mixture.json")
    about = results["provenance"]
    asked = full_runs.Asked(plan, about["fingerprints"], about["data"], results["name"])
    runs = full_runs.read(run_dir, files, asked)
    ours = min(runs, key=lambda each: apart(each.mixture, plan.mixture))
    transfers = Transfers(Path(results["store"]))
    new = [each.id for each in runs if transfers.add(each)]
    with progress.task("compare with the prediction", None):
        known = transfers.about(asked.text)
        searched = _searched(run_dir, results, job, known)
        found = feedback.document(searched, ours, known, np.random.default_rng([job.seed, 2]))
    body = found | {"recorded": new, "notes": _notes(ours, plan, asked)}
    write_atomically(run_dir / FEEDBACK, json.dumps(body, indent=1, allow_nan=False) + "\n")
    report.write(results, run_dir)
    return body


def advised(method: Method, job: Job, study: Study, text: Mapping[str, str], store: Path) -> tuple[Method, list[str]]:
    """The method, moved by the full runs that the store has of this text, and a note where there are some of no use."""
    known = Transfers(store).about(text)
    if not known:
        return method, []
    proxies = Scale(shape(study.proxy.size).parameters, study.proxy.tokens)
    used = telling(known, proxies, Scale(job.target.parameters, job.target.tokens))
    if used and getattr(method, "law", None) is not None:
        return Transferred(method, used), []
    why = "the method learns no law" if used else "they are of one mixture at each scale, or farther from the target"
    return method, [f"{len(known)} recorded full runs on this text were not used: {why} (mixopt feedback says more)."]


def _searched(run_dir: Path, results: Mapping[str, Any], job: Job, known: Sequence[FullRun]) -> feedback.Searched:
    """What the search knew, from what it wrote down and the full runs that had moved its answer."""
    moved = (results.get("transfer") or {}).get("runs", ())
    used = tuple(run for run in known if run.id in moved)
    domains = tuple(Domain(row["name"], row["tokens"]) for row in results["domains"])
    names, validation = sorted(domain.name for domain in domains), results["validation"]
    about, method = objective(job.objective, names), job.make_method()
    proxies = Scale(results["proxy"]["parameters"], results["proxy"]["tokens"])
    arms = {
        arm: (Mixture(body["mixture"]), {metric: fmean(values) for metric, values in body["metrics"].items()})
        for arm, body in (validation["arms"] if validation else {}).items()
    }
    searched = feedback.Searched(
        space=make_space(job, domains),
        objective=about,
        proxies=proxies,
        at=proxies,
        target=Scale(job.target.parameters, job.target.tokens),
        arms=arms,
        validation=validation,
        kl=float(getattr(method, "kl", 0.0)),
    )
    name = "effdata" if results.get("law") == "effdata" else getattr(method, "law", None)
    if name is None or not (run_dir / "ratios.csv").exists():
        return searched
    X_RD, Y_RM = _swarm(run_dir, names, about.metrics)
    try:
        law = make(name, own_domains(names, about.metrics)).fit(X_RD, Y_RM)
        searched = replace(searched, law=law, law_name=name, swarm=(X_RD, Y_RM))
        if not used:
            return searched
        carried = Carried.of(names, about, (X_RD, Y_RM), used)
    except SwarmError:
        return searched
    return replace(searched, carried=carried, at=used[0].scale)


def _swarm(run_dir: Path, names: Sequence[str], metrics: Sequence[str]) -> tuple[FloatArray, FloatArray]:
    """Mixtures [R, D] and metrics [R, M] of the search's runs."""
    table = tables.read_swarm(run_dir / "ratios.csv", run_dir / "metrics.csv")
    columns = [table.names.index(name) for name in names], [table.metrics.index(metric) for metric in metrics]
    return table.X_RD[:, columns[0]], table.Y_RM[:, columns[1]]


def _results(run_dir: Path) -> dict[str, Any]:
    path = run_dir / RESULTS
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise JobError(f"{path}: cannot be read ({e}). Is this the run directory of a finished search?") from e
    return dict(body)


def _notes(ours: FullRun, plan: handoff.Plan, asked: full_runs.Asked) -> list[str]:
    """What a reader must know before believing the comparison."""
    notes = []
    if (off := apart(ours.mixture, plan.mixture)) >= 1e-3:
        notes.append(
            f"This run's mixture is {off:.3f} from that of mixture.json (Euclidean): predictions are for what was trained."
        )
    if abs(math.log(ours.tokens / plan.target_tokens)) > math.log(1.05):
        notes.append(
            f"The run had {ours.tokens:,} tokens and the search was for {plan.target_tokens:,}: domains repeat otherwise "
            f"than the proxies did."
        )
    if asked.tokenizer and ours.tokenizer != asked.tokenizer:
        notes.append(
            f"The run read with another tokenizer ({ours.tokenizer}): bits per byte compare, its tokens are other tokens."
        )
    return notes
