"""Trains on Ray: one started for this search on this machine, or a cluster's by address.

A task is a chunk of proxies trained one stack after another in one process of one thread; it streams a record as
soon as one is finished, so that a lost worker costs only the stack it was training. Ray's own retries are off: they
would train a whole chunk again.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixopt.errors import JobError, RunFailed
from mixopt.runs import RunRecord, RunSpec
from mixopt.study import Train
from pipelines.local_executor import ONE_THREAD, attempt, chunks, count_losses, or_end

STORE_BYTES = 1 << 28  # Ray's object store holds records only
CHUNKS_PER_WORKER = 4  # small enough that all workers end at about the same time


@dataclass(frozen=True)
class RayExecutor:
    """`workers` tasks of one CPU (and `gpus` GPUs) at a time; `stack` specs train together."""

    train: Train
    workers: int
    stack: int = 1
    address: str | None = None
    gpus: float = 0.0

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Train each spec; what a lost worker had not finished is handed out again, five times at most."""
        if not specs:
            return
        with session(self.address, self.workers, "compute") as ray:
            task = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=0, num_returns="streaming")(_train_chunk)
            stacks = math.ceil(len(specs) / self.stack)
            size = self.stack * max(1, math.ceil(stacks / (self.workers * CHUNKS_PER_WORKER)))
            queue, losses = deque(chunks(specs, size)), Counter[str]()
            flying: dict[Any, dict[str, RunSpec]] = {}
            while queue or flying:
                while queue and len(flying) < self.workers:
                    chunk = queue.popleft()
                    flying[task.remote(self.train, chunk, self.stack)] = {spec.id: spec for spec in chunk}
                ready, _ = ray.wait(list(flying), num_returns=1)
                for stream in ready:
                    try:
                        record = ray.get(next(stream))
                        del flying[stream][record.spec.id]
                        yield record
                    except StopIteration:
                        del flying[stream]
                    except ray.exceptions.RayTaskError as e:
                        raise RunFailed(f"a Ray worker could not start its work: {e.cause or e}") from e
                    except ray.exceptions.RayError:
                        left = list(flying.pop(stream).values())
                        count_losses(losses, [left[: self.stack]])
                        queue.extend(
                            chunks(left, size)
                        )  # last: a run that kills its worker must not hold up the others


def _train_chunk(train: Train, specs: list[RunSpec], stack: int) -> Iterator[RunRecord]:
    os.environ.update(ONE_THREAD)
    for chunk in chunks(specs, stack):
        yield from or_end(attempt(train, chunk))


@contextlib.contextmanager
def session(
    address: str | None, cpus: int, section: str, environment: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Ray, connected: to the session there is, to `address`, or to one of so many CPUs that is started and stopped here.

    `environment` is that of workers of Ray Train, which asks the dashboard for the state of its own. Raises JobError where Ray is not installed, RunFailed where none answers, in the
    words of the job's `section`.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError as e:
        raise JobError(f"{section}: ray is not installed; pip install 'mixopt[ray]', or do without it.") from e
    if ray.is_initialized():
        yield ray
        return
    own: dict[str, Any] = {"address": address}
    if address is None:
        own = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": environment is not None}
    if environment is not None:
        own["runtime_env"] = {"env_vars": dict(environment)}
    try:
        ray.init(log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as e:
        raise RunFailed(f"{section}.address: no Ray at {address or 'this machine'} ({e}).") from e
    try:
        yield ray
    finally:
        ray.shutdown()
