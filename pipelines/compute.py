"""Where a job's proxies are trained: the executor it names, how many runs share a device, and what is compiled."""

from __future__ import annotations

from collections.abc import Sequence

from mixopt.domains import Manifest
from mixopt.errors import JobError
from mixopt.job import Job
from mixopt.study import Executor
from pipelines.local_executor import LocalExecutor
from pipelines.plan import Setting, cost, setting
from pipelines.ray_executor import RayExecutor
from proxies.program import can_compile
from proxies.sizes import Derived, member_bytes, rows_at_once
from proxies.train import Trainer, available, memory

STACK_TOKENS = 1 << 18  # tokens of a step of a whole stack that keep a GPU busy: 128k to 512k
COMPILE_FROM = 300.0  # seconds of training per worker that outweigh the half minute that compiling takes
CORE_FLOPS = 25e9  # of one core, training eagerly


def make_executor(job: Job, manifest: Manifest) -> Executor:
    """The executor that the job names, around the trainer on this corpus.

    Raises JobError for a GPU or a compiler that is not there, and for proxies that do not fit into memory.
    """
    compute, vocabulary = job.compute, manifest.tokenizer.vocabulary
    local = compute.executor == "local"
    if local and not available(compute.device):
        raise JobError(f"compute.device: {compute.device} is not there: torch sees no such GPU. Use cpu.")
    chosen = setting(job, len(manifest.domains))
    if local:
        refuse_too_large(job, chosen, vocabulary)
    store = manifest.root.parents[1]  # that holds data/<key>
    compiles = bool(compiled(job, manifest.names, vocabulary).value)
    runs_at_once = stack(job, chosen)
    train = Trainer(
        manifest.root, compute.device, runs_at_once, compiles, partial=store / "partial", weights=store / "weights"
    )
    if compute.executor == "ray":
        gpus = 1.0 if compute.device.startswith("cuda") else 0.0
        return RayExecutor(train, max(1, compute.workers), runs_at_once, compute.address, gpus)
    workers = compute.workers if compute.device == "cpu" else min(1, compute.workers)  # that share nothing
    return LocalExecutor(train, workers, runs_at_once)


def stack(job: Job, chosen: Setting) -> int:
    """Runs that train together: one on a CPU, where more gain nothing; on a GPU what keeps it busy."""
    if job.compute.stack is not None:
        return job.compute.stack
    if job.compute.device == "cpu":
        return 1
    sequence = chosen.shape.sequence
    return max(1, STACK_TOKENS // (rows_at_once(chosen.batch, sequence) * sequence))


def compiled(job: Job, names: Sequence[str], vocabulary: int) -> Derived:
    """Whether training steps are compiled (1 or 0): a function of the job, so that a search resumed is the same search.

    Raises JobError where the job asks for it and the machine has no compiler.
    """
    compute, local = job.compute, job.compute.executor == "local"
    able = can_compile(compute.device) or not local
    if compute.compile is not None:
        if compute.compile and not able:
            raise JobError(
                "compute.compile: true needs a C++ compiler (on a GPU, Triton); install one or leave it out."
            )
        return Derived(compute.compile, f"compute.compile is {str(compute.compile).lower()}")
    if compute.device != "cpu":
        return Derived(able, "training steps compiled: on a GPU they always are" if able else "no Triton: not compiled")
    seconds = cost(job, names, vocabulary)["flops"] / max(1, compute.workers) / CORE_FLOPS
    why = f"about {seconds:,.0f} s of training per worker, compiling pays from {COMPILE_FROM:.0f} s"
    if seconds < COMPILE_FROM:
        return Derived(False, f"training steps not compiled: {why}")
    return Derived(able, f"training steps compiled: {why}" if able else f"not compiled for want of a compiler: {why}")


def refuse_too_large(job: Job, chosen: Setting, vocabulary: int) -> None:
    """Raise JobError for proxies that this machine cannot hold, one for each worker."""
    device, workers = job.compute.device, max(1, job.compute.workers)
    needed = member_bytes(chosen.shape, vocabulary, chosen.batch, chosen.precision)
    at_once = workers * (job.compute.stack or 1) if device == "cpu" else 1
    have = memory(device)
    if at_once * needed > have:
        raise JobError(
            f"proxies.size: a {job.proxies.size} proxy takes {needed / 2**30:.1f} GiB to train and {at_once} train at once, "
            f"but {device} has {have / 2**30:.1f} GiB. Choose a smaller size, fewer compute.workers or a smaller stack."
        )
