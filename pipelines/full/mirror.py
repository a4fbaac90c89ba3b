"""A full run shown to people while it trains: `events.jsonl` followed into the terminal and into MLflow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mixopt.progress import Progress


@dataclass(frozen=True, kw_only=True)
class FullRun:
    """What the events do not say. `folder` is RUN_DIR/full; `name` is the job's and names the run in MLflow.

    `params` tell full runs apart (mixture id, feed, learning rate, ...); model and tokens are read from the events.
    `available` holds the training tokens of each domain, for epochs.
    """

    folder: Path
    name: str
    experiment: str
    params: Mapping[str, str]
    available: Mapping[str, int]


def experiment(run_dir: Path) -> str:
    """The MLflow experiment of the search that wrote this run directory, so that the full run stands beside it."""
    raise NotImplementedError


@contextmanager
def following(
    run: FullRun, uri: str | None, progress: Progress, say: Callable[[Sequence[str]], None]
) -> Iterator[None]:
    """While the block runs, show what is appended to `run.folder/events.jsonl`; `uri` None means no MLflow.

    A thread of this process looks at the file each second, so the block may wait for the training in any way. The last
    look is after the block. `say` is `Terminal.lines`. Nothing that goes wrong here raises or stops the training. After
    a restart, points that were shown before are left out.
    """
    yield
