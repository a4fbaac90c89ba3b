"""Trains on this machine: worker processes of one thread each, which stay alive from run to run."""

from __future__ import annotations

import multiprocessing as mp
import os
import threading
import traceback
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import groupby

from mixopt.errors import DeviceLost, RunFailed
from mixopt.runs import RunRecord, RunSpec
from mixopt.study import Train

ATTEMPTS = 5  # how often a run may lose its worker before the search gives up
IN_FLIGHT = 2  # stacks handed out per worker: one training, one waiting
ONE_THREAD = {  # a busy neighbour must not cost a spinning core; compiling needs no processes of its own
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


@dataclass(frozen=True)
class LocalExecutor:
    """`workers` processes, 0 to train in this one; `stack` specs train together."""

    train: Train
    workers: int = 0
    stack: int = 1

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Train each spec; a run whose worker is lost is handed out again. Raises RunFailed after five losses."""
        queue, losses = deque(chunks(specs, self.stack)), Counter[str]()
        if self.workers == 0:
            for chunk in queue:
                yield from attempt(self.train, chunk)
            return
        while queue:
            flying: dict[Future[list[RunRecord]], list[RunSpec]] = {}
            try:
                yield from self._drain(queue, flying)
            except BrokenProcessPool:
                queue.extendleft(reversed(flying.values()))
                count_losses(losses, list(flying.values()))

    def _drain(
        self, queue: deque[list[RunSpec]], flying: dict[Future[list[RunRecord]], list[RunSpec]]
    ) -> Iterator[RunRecord]:
        """Empty the queue through one pool; `flying` is what a broken pool leaves unfinished."""
        pool = ProcessPoolExecutor(self.workers, mp.get_context("spawn"), initializer=_settle)
        try:
            while queue or flying:
                while queue and len(flying) < self.workers * IN_FLIGHT:
                    chunk = queue.popleft()
                    try:
                        flying[pool.submit(_work, self.train, chunk)] = chunk
                    except BrokenProcessPool:
                        queue.appendleft(chunk)
                        raise
                done, _ = wait(flying, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda f: f.exception() is not None):  # what finished before what broke
                    records = future.result()
                    del flying[future]
                    yield from records
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def attempt(train: Train, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
    """A record for each spec, also when the trainer raises: then a crashed one with the traceback.

    Raises DeviceLost: the runs are not at fault, and this process can make none of them.
    """
    left = {spec.id: spec for spec in specs}
    try:
        for record in train(specs):
            del left[record.spec.id]
            yield record
    except DeviceLost:
        raise
    except Exception:  # noqa: BLE001 - the one place where a program's own exception becomes a failed record
        for spec in left.values():
            yield RunRecord(spec, error=traceback.format_exc())


def chunks(specs: Sequence[RunSpec], size: int) -> list[list[RunSpec]]:
    """Consecutive groups of at most `size` specs whose proxies can train together."""
    alike = [list(group) for _, group in groupby(specs, key=lambda spec: spec.proxy.shared)]
    return [group[i : i + size] for group in alike for i in range(0, len(group), size)]


def count_losses(losses: Counter[str], lost: Sequence[Sequence[RunSpec]]) -> None:
    """Note that these stacks lost their worker. Raises RunFailed for one that did so five times."""
    losses.update(spec.id for chunk in lost for spec in chunk)
    for run_id, count in losses.items():
        if count >= ATTEMPTS:
            raise RunFailed(
                f"run {run_id}: was with a worker {count} times when one died (killed, or out of memory?). Finished runs are kept; "
                "try fewer compute.workers or a smaller proxies.size and run the same command again."
            )


def or_end(records: Iterator[RunRecord]) -> Iterator[RunRecord]:
    """These records; a worker whose GPU is lost ends, so that another one takes over what it had not finished."""
    try:
        yield from records
    except DeviceLost:
        os._exit(1)


def _work(train: Train, specs: list[RunSpec]) -> list[RunRecord]:
    return list(or_end(attempt(train, specs)))


def _settle() -> None:
    """In a new worker, before torch is loaded: one thread, and no life after the parent's."""
    os.environ.update(ONE_THREAD)
    parent = mp.parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: mp.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)
