"""What a search would do and cost, without any side effect."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from mixopt.job import Job
from mixopt.validate import BEST, PRIOR, RECOMMENDED, UNIFORM
from pipelines import environment
from pipelines.plan import cost
from proxies.model import init, stack, token_losses
from proxies.sizes import shape

TRIAL_SECONDS = 2.0
BYTES_VOCABULARY = 257


def dry_run(job: Job, folder: Path) -> dict[str, Any]:
    """The resolved job, its runs, tokens, FLOPs and an estimate of its time from a few steps trained here and now."""
    job.data_config(folder)
    names = list(job.data.domains) if job.data.domains is not None else list(environment.parts())
    vocabulary = job.data.tokenizer.train or BYTES_VOCABULARY
    arms = [RECOMMENDED, PRIOR, UNIFORM, *([] if job.is_baseline else [BEST])]
    found = cost(job, len(names), vocabulary, len(arms))
    speed = tokens_per_second(job, vocabulary)
    workers = max(1, job.compute.workers)
    return {
        "job": job.to_json(),
        "domains": names,
        **found,
        "tokens_per_second": speed,
        "seconds": found["tokens"] / (speed * workers),
        "note": "time is for training on workers as fast as this process; preparing text and starting workers come on top",
    }


def tokens_per_second(job: Job, vocabulary: int) -> float:
    """Training tokens per second of one worker of one thread, measured on random tokens for about two seconds."""
    form = shape(job.proxies.size)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        params = {name: p.requires_grad_() for name, p in stack([init(form, vocabulary, 0)]).items()}
        optimizer = torch.optim.AdamW(list(params.values()), fused=True)
        rows = torch.randint(0, vocabulary, (1, 8, form.sequence + 1), generator=torch.Generator().manual_seed(0))
        done, began = 0, 0.0
        while done < 3 or time.perf_counter() - began < TRIAL_SECONDS:
            token_losses(params, form, rows).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            done += 1
            if done == 2:  # the first two warm up
                began = time.perf_counter()
        return (done - 2) * 8 * form.sequence / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
