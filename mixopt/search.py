"""The loop: make every run exist that the method asks for, then let the method conclude.

Resume, retry and extension are this same code path: a killed search asks again and finds most of its runs there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mixopt.errors import RunFailed
from mixopt.progress import Progress
from mixopt.runs import RunRecord, RunSpec, Swarm
from mixopt.store import Store
from mixopt.study import Executor, Method, Study, Tracker, Untracked


@dataclass
class Workshop:
    """Where runs are made and kept: what a search needs beside its question.

    The tracker mirrors each record as it comes, `trained` collects the ids of those made here, `crashed` by id what
    became of those that were stopped by something outside themselves.
    """

    executor: Executor
    store: Store
    progress: Progress
    tracker: Tracker = field(default_factory=Untracked)
    trained: set[str] = field(default_factory=set)
    crashed: dict[str, RunRecord] = field(default_factory=dict)

    def complete(self, study: Study, method: Method, label: str) -> Study:
        """The study with every run that the method asks for.

        Raises RunFailed if runs crashed for reasons outside themselves; they are tried again next time.
        """
        asked: list[RunSpec] = []
        while (wanted := _once(method.ask(study, np.random.default_rng([study.seed, 0])))) != asked:
            asked = wanted
            study = replace(study, swarm=self.make(asked, label))
        return study

    def make(self, specs: Sequence[RunSpec], label: str) -> Swarm:
        """The records of these runs, each once and in their order; what the store lacks is trained.

        Raises RunFailed as `complete` does.
        """
        asked = _once(specs)
        missing = [spec for spec in asked if spec not in self.store]
        if missing:
            self._train(missing, len(asked), label)
        return self.store.swarm(asked)

    def _train(self, missing: list[RunSpec], asked: int, label: str) -> None:
        crashed = []
        with self.progress.task(label, asked, "runs") as advance:
            advance(asked - len(missing))
            for record in self.executor.run(missing):
                self.store.add(record)
                self.trained.add(record.spec.id)
                self.tracker.log(record)
                advance(1)
                if record.spec not in self.store:
                    crashed.append(record)
        self.crashed |= {record.spec.id: record for record in crashed}
        if crashed:
            raise stopped(crashed, len(missing))


def stopped(crashed: Sequence[RunRecord], runs: int) -> RunFailed:
    """The error for these of so many runs."""
    return RunFailed(
        f"{len(crashed)} of {runs} runs crashed; the others are kept. First, run "
        f"{crashed[0].spec.id}: {crashed[0].why.rstrip('.')}. "
        "Run the same command again to train what is missing."
    )


def _once(specs: Sequence[RunSpec]) -> list[RunSpec]:
    return list({spec.id: spec for spec in specs}.values())
