"""What must be right before a full run begins: each problem with its numbers, all of them at once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mixopt.errors import InfeasibleSpace, JobError
from mixopt.parsing import together
from mixopt.policy import Fixed, Scheduled
from mixopt.rehearsal import rehearsed
from pipelines.full.course import Course, gpus
from pipelines.full.saved import BYTES, complete

SLACK = 0.01  # of the epochs that a domain may exceed: rows end where shards do


def refuse(course: Course) -> None:
    """Raise JobError with everything that would end the run, or spoil it."""
    problems = [
        *engine(course),
        *shares(course),
        *lengths(course),
        *folder(course),
    ]
    problems += [] if problems else repetition(course)
    if problems:
        raise JobError(together("full run", problems))


def engine(course: Course) -> Iterator[str]:
    """What the machine lacks."""
    launch = course.full.launch
    if importlib.util.find_spec("olmo_core") is None:
        yield "olmo_core is not installed; pip install 'mixopt[olmo]'."
    if launch.by == "ray" and importlib.util.find_spec("ray") is None:
        yield "launch.by: ray is not installed; pip install 'mixopt[ray]', or use torchrun."
    if launch.device == "cuda" and launch.by == "torchrun":
        there = gpus()
        if there == 0:
            yield "launch.device: cuda is not there: torch sees no GPU on this machine. Use cpu, or ray with a cluster's address."
        elif there < course.workers:
            yield f"launch.workers: {course.workers} workers need as many GPUs, this machine has {there}."
    if launch.device == "cpu" and course.full.precision == "bfloat16" and course.full.compile:
        yield "compile: the engine compiles on GPUs only. Leave it out."


def shares(course: Course) -> Iterator[str]:
    """Whether batches divide among workers, and a worker's share into parts."""
    full, workers, sequence = course.full, course.workers, course.sequence
    batch, micro = full.batch_tokens or 0, full.micro_batch_tokens or 0
    if batch % sequence:
        yield f"batch_tokens: {batch:,} tokens are not whole rows of {sequence:,}."
        return
    rows = batch // sequence
    if rows % workers:
        near = sorted({max(workers, rows // workers * workers), -(-rows // workers) * workers})
        fits = " or ".join(f"{n * sequence:,}" for n in near)
        yield (
            f"batch_tokens: {batch:,} tokens are {rows} rows of {sequence:,}, which {workers} workers cannot share evenly. "
            f"Use {fits} tokens, or a number of workers that divides {rows}."
        )
        return
    own = rows // workers
    if micro % sequence or micro == 0:
        yield f"micro_batch_tokens: {micro:,} tokens are not whole rows of {sequence:,}."
    elif own % (micro // sequence):
        fits = ", ".join(f"{n * sequence:,}" for n in range(1, own + 1) if own % n == 0)
        yield (
            f"micro_batch_tokens: {micro // sequence} rows do not divide the {own} rows of each worker. Use one of {fits}."
        )


def lengths(course: Course) -> Iterator[str]:
    """Whether every domain has a row to train on and one to evaluate."""
    for name in course.names:
        domain = course.manifest[name]
        for split, what in (("train", "training"), ("valid", "held-out")):
            if course.store.blocks(name, split) < 1:
                shards = getattr(domain, split).shards
                longest = max((shard.tokens for shard in shards), default=0)
                yield (
                    f"sequence: domain {name!r} has no {what} shard of {course.sequence + 1:,} tokens, a row and the one "
                    f"after it (the longest of {len(shards)} has {longest:,}). Use shorter rows, or longer shards."
                )


def folder(course: Course) -> Iterator[str]:
    """Whether checkpoints can be written, and are not too large."""
    path = course.checkpoints
    if "://" in str(course.full.checkpoint.folder):
        yield f"checkpoint.folder: {course.full.checkpoint.folder} is an address; mount it, and give the path."
        return
    try:
        free = probed(path)
    except OSError as e:
        yield f"checkpoint.folder: {path} cannot be written ({e.strerror or e})."
        return
    each, count = BYTES * course.parameters, course.full.checkpoint.keep + 1 - len(complete(path))
    if free < max(1, count) * each:
        yield (
            f"checkpoint.folder: {path} has {free / 1e9:,.1f} GB free. A checkpoint of {course.parameters:,} parameters "
            f"takes {each / 1e9:,.1f} GB, and there are {max(1, count)} more at a time (checkpoint.keep + 1: one is removed "
            f"only when a newer one is complete). Make room or lower checkpoint.keep."
        )


def probed(path: Path) -> int:
    """Bytes free in a folder that can be written; what is made to find out is removed again. Raises OSError."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    probe = path / ".probe"
    probe.write_bytes(os.urandom(64))
    probe.unlink()
    free = shutil.disk_usage(path).free
    for folder in made:
        folder.rmdir()
    return free


def repetition(course: Course) -> list[str]:
    """Domains that would be read more often than they may be, and policies that cannot feed the run."""
    try:
        feed = course.feed
        list(rehearsed(feed, course.names, course.tokens, course.step_tokens))
    except (JobError, InfeasibleSpace) as e:
        return [line.replace("method.", "feed.") for line in str(e).splitlines()]
    if not isinstance(feed, Fixed | Scheduled):
        return []  # kept within the caps on its way
    mixture = feed.mixture if isinstance(feed, Fixed) else feed.schedule.mean
    most, problems = course.full.max_epochs or 0.0, []
    for name in course.names:
        there, wanted = course.store.blocks(name) * course.sequence, course.tokens * mixture[name]
        if wanted > most * there * (1 + SLACK) + course.step_tokens:
            problems.append(
                f"domain {name!r}: {100 * mixture[name]:.3g} % of {course.tokens:,} tokens are {wanted:,.0f}, "
                f"{wanted / there:.3g} epochs of the {there:,} in {course.manifest.root}; max_epochs is {most:g}. Prepare "
                "more of it, train on fewer tokens, or raise max_epochs."
            )
    return problems
