"""The run store: one file per run, content-addressed, shared between jobs. Present means complete.

    store/runs/3f/3fa9c1....json          a run that reached its end: good, or diverged
    store/runs/3f/3fa9c1....crashed.json  what stopped a run that may be tried again

Files are written under a temporary name and renamed, so that a killed writer leaves nothing half-written and two
writers of the same run agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from mixopt.errors import DataError
from mixopt.files import write_atomically
from mixopt.runs import RunRecord, RunSpec, Swarm


class Store:
    """The records of one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __contains__(self, spec: object) -> bool:
        """Whether this run's record is here."""
        return isinstance(spec, RunSpec) and self.holds(spec.id)

    def holds(self, run_id: str) -> bool:
        """Whether the record of the run of this id is here."""
        return self._path(run_id).exists()

    def add(self, record: RunRecord) -> None:
        """Keep a record. A run stopped by something outside itself is noted but stays missing."""
        ended = not record.error or record.diverged
        write_atomically(
            self._path(record.spec.id, "" if ended else ".crashed"), json.dumps(record.to_json(), allow_nan=False)
        )

    def get(self, spec: RunSpec) -> RunRecord:
        """The record of one run. Raises DataError where the file is not what `add` wrote."""
        return self.find(spec.id)

    def find(self, run_id: str) -> RunRecord:
        """The record of the run of this id. Raises DataError as `get` does."""
        path = self._path(run_id)
        try:
            record = RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"run store: {path} is not a run record ({e}). Delete it to train that run again.") from e
        if record.spec.id != run_id:
            raise DataError(f"run store: {path} holds run {record.spec.id}. Delete it to train that run again.")
        return record

    def swarm(self, specs: Iterable[RunSpec]) -> Swarm:
        """The records there are, in the order of the specs."""
        return Swarm(tuple(self.get(spec) for spec in specs if spec in self))

    def _path(self, run_id: str, suffix: str = "") -> Path:
        return self.root / "runs" / run_id[:2] / f"{run_id}{suffix}.json"
