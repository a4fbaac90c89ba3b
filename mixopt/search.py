"""The loop: make every run exist that the method asks for, then let the method conclude.

Resume, retry and extension are this same code path: a killed search asks again and finds most of its runs there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from mixopt.errors import RunFailed
from mixopt.runs import RunRecord, RunSpec, Swarm
from mixopt.store import Store
from mixopt.study import Executor, Method, Study


@dataclass(frozen=True)
class Progress:
    """How far a search is: runs asked for so far and the record that was just made (None: found in the store)."""

    asked: int
    done: int
    record: RunRecord | None


Watch = Callable[[Progress], None]


def complete(study: Study, method: Method, executor: Executor, store: Store, watch: Watch) -> Study:
    """The study with every run that the method asks for.

    Raises RunFailed if runs crashed for reasons outside themselves: they are tried again next time.
    """
    while True:
        asked = _once(method.ask(study, np.random.default_rng([study.seed, 0])))
        missing = [spec for spec in asked if spec not in store]
        done = len(asked) - len(missing)
        watch(Progress(len(asked), done, None))
        crashed = []
        for record in executor.run(missing):
            store.add(record)
            done += 1
            watch(Progress(len(asked), done, record))
            if record.spec not in store:
                crashed.append(record)
        if crashed:
            raise RunFailed(
                f"{len(crashed)} of {len(missing)} runs crashed; the others are kept. First: run "
                f"{crashed[0].spec.id}: {crashed[0].error.strip().splitlines()[-1]}. "
                "Run the same command again to train what is missing."
            )
        grown = Swarm(store.swarm(asked).records)
        if len(grown.records) == len(study.swarm.records) and not missing:
            return replace(study, swarm=grown)
        study = replace(study, swarm=grown)


def _once(specs: list[RunSpec]) -> list[RunSpec]:
    return list({spec.id: spec for spec in specs}.values())
