"""The learning rate of a job's proxies: swept once on the prior's mixture, kept in the store, used by later jobs."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from mixopt import rates
from mixopt.domains import Manifest
from mixopt.errors import RunFailed
from mixopt.job import Job
from mixopt.policy import Fixed
from mixopt.progress import Progress
from mixopt.runs import Objective, RunRecord, RunSpec
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from pipelines import tuned
from pipelines.compute import make_executor
from pipelines.plan import make_study
from pipelines.prepare import prepare

SEEDS = 2

Losses = dict[float, list[float]]  # by rate, one for each seed


def run(job: Job, folder: Path, progress: Progress) -> dict[str, Any]:
    """Sweep around the derived rate, keep the result, and return it with what it took.

    Killed and run again it trains what is missing; run once more it trains nothing and chooses the same.
    """
    began, store = time.perf_counter(), job.store_path(folder)
    manifest = prepare(job.data_config(folder), store, progress)
    underived = job.model_copy(update={"proxies": job.proxies.model_copy(update={"learning_rate": None})})
    study = make_study(underived, manifest)
    shop = Workshop(make_executor(job, manifest), Store(store), progress)
    losses = sweep(study, shop)
    mean = means(losses)
    body = document(study, manifest, losses, rates.optimum(mean))
    path = tuned.save(store, body)
    made = len(losses) * SEEDS
    return body | {
        "derived_learning_rate": study.proxy.learning_rate,
        "reason": tuned.derived(body).reason,
        "notes": notes(job, mean),
        "file": str(path),
        "proxies_trained": len(shop.trained),
        "proxies_reused": made - len(shop.trained),
        "seconds": time.perf_counter() - began,
    }


def sweep(study: Study, shop: Workshop) -> Losses:
    """The objective at every rate that the sweep wants, seed by seed; infinite where a run diverged.

    Raises RunFailed if no rate is without a diverged run.
    """
    feed = Fixed(study.space.nearest(study.space.prior_D))
    losses: Losses = {}
    while (asked := rates.wanted(study.proxy.learning_rate, means(losses))) != list(losses):
        proxies = [replace(study.proxy, learning_rate=rate) for rate in asked]
        specs = [RunSpec(feed, proxy, seed) for proxy in proxies for seed in _seeds(study)]
        found: Losses = {rate: [] for rate in asked}
        for record in shop.make(specs, "learning rates").records:
            found[record.spec.proxy.learning_rate].append(_loss(record, study.objective))
        losses = found
    if not math.isfinite(min(means(losses).values())):
        raise RunFailed(
            f"all {len(losses)} learning rates from {min(losses):.3g} to {max(losses):.3g} diverged. "
            "Give proxies.learning_rate yourself, or a larger proxies.batch."
        )
    return losses


def means(losses: Losses) -> dict[float, float]:
    """The mean over the seeds by rate; infinite where one diverged."""
    return {rate: fmean(of_seeds) for rate, of_seeds in losses.items()}


def document(study: Study, manifest: Manifest, losses: Losses, chosen: float) -> dict[str, Any]:
    """What is kept: what the sweep is about, every rate with its losses (null: diverged), the rate that was chosen."""
    proxy = asdict(study.proxy)
    del proxy["learning_rate"]
    return {
        "proxy": proxy,
        "mixture": dict(study.space.nearest(study.space.prior_D)),
        "objective": dict(study.objective.weights),
        "seeds": _seeds(study),
        "domains": sorted(manifest.names),
        "vocabulary": manifest.tokenizer.vocabulary,
        "rates": [
            {"learning_rate": rate, "losses": [_finite(loss) for loss in losses[rate]], "mean": _finite(mean)}
            for rate, mean in means(losses).items()
        ],
        "learning_rate": chosen,
    }


def notes(job: Job, mean: dict[float, float]) -> list[str]:
    """What the reader of the result should know."""
    said = []
    if rates.at_edge(mean):
        side = "lowest" if rates.lowest(mean) == min(mean) else "highest"
        said.append(f"The best rate is the {side} that was tried: the optimum may lie beyond.")
    if job.proxies.learning_rate is not None:
        said.append(f"This job itself keeps its own proxies.learning_rate, {job.proxies.learning_rate:g}.")
    return said


def _seeds(study: Study) -> list[int]:
    return list(range(study.seed, study.seed + SEEDS))


def _loss(record: RunRecord, objective: Objective) -> float:
    return math.inf if record.error else objective.value(record.metrics)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
