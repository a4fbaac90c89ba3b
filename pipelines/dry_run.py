"""What a search would do and cost, without any side effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mixopt.domains import Domain
from mixopt.errors import JobError
from mixopt.job import Job
from pipelines import environment, readers, tokenizer, tuned
from pipelines.compute import compiled, refuse_too_large
from pipelines.plan import cost, make_space, refuse_too_few, setting
from proxies.sizes import shape
from proxies.train import available, tokens_per_second


def dry_run(job: Job, folder: Path) -> dict[str, Any]:
    """The resolved job, its runs, tokens, FLOPs and an estimate of its time from steps trained here and now.

    Raises what a search would for files that are not there, too few proxies, a missing GPU, and bounds that leave no
    mixture where the job gives every domain's tokens.
    """
    config = job.data_config(folder)
    if config.domains is not None:
        for name, source in config.domains.items():
            readers.parts(name, source)
        known = tuple(Domain(name, source.tokens) for name, source in config.domains.items() if source.tokens)
        if len(known) == len(config.domains):
            make_space(job, known)
    names = list(config.domains) if config.domains is not None else list(environment.parts())
    refuse_too_few(job.make_method(), setting(job, len(names)).count, len(names))
    if not available(job.compute.device):
        raise JobError(f"compute.device: {job.compute.device} is not there: torch sees no such GPU. Use cpu.")
    vocabulary = tokenizer.vocabulary(config.tokenizer)
    rate = tuned.find(job, job.store_path(folder), names, vocabulary)
    found = cost(job, names, vocabulary, rate)
    chosen = setting(job, len(names), rate)
    refuse_too_large(job, chosen, vocabulary)
    compiles = compiled(job, names, vocabulary)
    speed = tokens_per_second(job.proxies.size, vocabulary, chosen.batch)
    flops_per_second = speed * shape(job.proxies.size).flops(vocabulary) * max(1, job.compute.workers)
    return {
        "job": job.to_json(),
        "domains": names,
        **found,
        "reasons": [*found["reasons"], compiles.reason],
        "tokens_per_second": speed,
        "seconds": found["flops"] / flops_per_second,
        "note": "on CPU workers as fast as this process; preparing text and starting workers come on top"
        + ("; compiled steps take about two thirds of this" if compiles.value else ""),
    }
