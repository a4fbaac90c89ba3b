"""What a search or a comparison would do and cost, without any side effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mixopt.domains import Domain
from mixopt.errors import JobError
from mixopt.job import Job
from mixopt.methods import BASELINES, make
from mixopt.methods.online import Online
from mixopt.rehearsal import beside
from pipelines import environment, tokenizer, tuned
from pipelines.compare import plan, refuse_policies
from pipelines.compute import compiled, refuse_too_large
from pipelines.plan import cost, make_space, refuse_too_few, setting, sketch
from pipelines.prepare import corpus as prepared
from proxies.sizes import shape
from proxies.train import available, tokens_per_second


def dry_run(job: Job, folder: Path) -> dict[str, Any]:
    """The resolved job, its runs, tokens, FLOPs and an estimate of its time from steps trained here and now.

    Raises what a search would for files that are not there, too few proxies, a missing GPU, and bounds that leave no
    mixture where the job gives every domain's tokens.
    """
    names, vocabulary = corpus(job, folder)
    refuse_too_few(job.make_method(), setting(job, len(names)).count, len(names))
    rate = tuned.find(job, job.store_path(folder), names, vocabulary)
    found = cost(job, names, vocabulary, rate)
    chosen = setting(job, len(names), rate)
    refuse_too_large(job, chosen, vocabulary)
    compiles = compiled(job, names, vocabulary)
    speed = tokens_per_second(job.proxies.size, vocabulary, chosen.batch)
    per_token = shape(job.proxies.size).flops(vocabulary)
    return {
        "job": job.to_json(),
        "domains": names,
        **found,
        "reasons": [*found["reasons"], compiles.reason],
        "tokens_per_second": speed,
        "seconds": found["flops"] / (speed * per_token * max(1, job.compute.workers)),
        "note": "on CPU workers as fast as this process; preparing text and starting workers come on top"
        + ("; compiled steps take about two thirds of this" if compiles.value else ""),
    }


def compare_dry_run(job: Job, folder: Path) -> dict[str, Any]:
    """The terms of a comparison, what each method may cost at most, and an estimate of the time that all may take.

    Runs that methods share are counted for each of them here. Raises what a comparison would, as `dry_run` does.
    """
    names, vocabulary = corpus(job, folder)
    planned = plan(job, job.store_path(folder), names, vocabulary)
    terms, rows, seconds = planned.terms, [], 0.0
    study = sketch(planned.job, names, planned.own)
    refuse_policies(job, study, sketch(planned.target, names, planned.chosen).proxy, terms)
    sides = ((planned.job, planned.own), (planned.target, planned.chosen))
    for side, chosen in sides:
        refuse_too_large(side, chosen, vocabulary)
    speeds = [tokens_per_second(side.proxies.size, vocabulary, chosen.batch) for side, chosen in sides]
    for body in job.compared():
        method, longer = make(body["name"], body["knobs"]), terms.tokens
        free = body["name"] in BASELINES or isinstance(method, Online)
        finals, search = terms.tokens, 0 if free else terms.budget
        if free:
            longer, finals = terms.total(0), finals + terms.total(0)
        if isinstance(method, Online):
            feed = method.policy(study, np.random.default_rng(0))
            longer, finals = terms.length(feed, names, 0), finals + beside(feed, names, terms.tokens, terms.step)
        rows.append({"method": body["label"], "search_tokens": search, "final_tokens": [terms.tokens, longer]})
        seconds += search / speeds[0] + len(terms.seeds) * finals / speeds[1]
    return {
        "methods": rows,
        "seeds": list(terms.seeds),
        "budget": terms.budget,
        "target": {"size": planned.target.proxies.size, "tokens": terms.tokens},
        "reasons": list(planned.reasons),
        "tokens_per_second": speeds,
        "seconds": seconds / max(1, job.compute.workers),
    }


def corpus(job: Job, folder: Path) -> tuple[list[str], int]:
    """The domains' names and the vocabulary, before any text is read; the device must be there.

    Raises DataError for files that are not there, InfeasibleSpace where every domain's tokens are given and leave no mixture.
    """
    config = job.data_config(folder)
    if config.domains is not None:
        for name in config.domains:
            prepared(name, config)
        known = tuple(Domain(name, source.tokens) for name, source in config.domains.items() if source.tokens)
        if len(known) == len(config.domains):
            make_space(job, known)
    if not available(job.compute.device):
        raise JobError(f"compute.device: {job.compute.device} is not there: torch sees no such GPU. Use cpu.")
    names = list(config.domains) if config.domains is not None else list(environment.parts())
    return names, tokenizer.vocabulary(config.tokenizer)
