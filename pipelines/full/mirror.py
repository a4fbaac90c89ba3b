"""A full run shown to people while it trains: `events.jsonl` followed into the terminal and into MLflow.

The training process appends one JSON object a line and knows nothing of this. After a restart it cuts the lines after its
checkpoint; then the file is read again from its first line, and points that were shown before are left out.
MLflow gets about `POINTS` points of each curve: means over equal parts of the run's tokens, which do not depend on
when somebody looked. Its outbox is in RUN_DIR/full, so a folder that was deleted and begun anew is another run there.
"""

from __future__ import annotations

import json
import logging
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixopt.errors import JobError
from mixopt.progress import Progress
from mixopt.runs import Objective
from mixopt.yaml_text import parse_yaml
from pipelines.mlflow_tracker import Post
from pipelines.outbox import NOTE, Entry, experiment_name, finite, numbers

log = logging.getLogger("mixopt")

EVENTS = "events.jsonl"
LOOK_SECONDS = 1.0
POINTS = 500  # a curve of 17 domains with all its points would be millions of rows in MLflow's database
LINES = 20  # on the terminal, besides validations
SHOWN = 8  # domains in a line of the terminal
Event = Mapping[str, Any]
Point = tuple[str, float, int]
View = Callable[
    [bool, Sequence[Event]], None
]  # whether the file was cut back, and the events after those that were read


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
    """The MLflow experiment of the search that wrote this run directory, so that the full run stands beside it.

    Raises JobError if it is no run directory of a finished search.
    """
    try:
        results = json.loads((run_dir / "results.json").read_text(encoding="utf-8"))
        lock = run_dir / "job.lock.yaml"
        source = parse_yaml(lock.read_text(encoding="utf-8"), str(lock))["data"].get("source")
        objective = Objective(results["objective"]["weights"])
        return experiment_name(source or results["name"], results["provenance"]["data"], objective)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise JobError(f"{run_dir}: not the run directory of a finished search ({type(e).__name__}: {e}).") from e


@contextmanager
def following(
    run: FullRun, uri: str | None, progress: Progress, say: Callable[[Sequence[str]], None]
) -> Iterator[None]:
    """While the block runs, show what is appended to `run.folder/events.jsonl`; `uri` None means no MLflow.

    A thread of this process looks at the file each second, so the block may wait for the training in any way. The last
    look is after the block. `say` is `Terminal.lines`. Nothing that goes wrong here raises or stops the training. After
    a restart, points that were shown before are left out.
    """
    path, done, failure = run.folder / EVENTS, threading.Event(), ""
    mlflow = Mlflow(run, uri) if uri else None
    try:
        with ExitStack() as stack:
            views = [Screen(progress, say, stack, _next_token(path)).show, *([mlflow.show] if mlflow else [])]
            thread = threading.Thread(target=_look_often, args=(path, views, done), daemon=True)
            thread.start()
            try:
                yield
            finally:
                done.set()
                thread.join()
    except BaseException as e:
        failure = f"{type(e).__name__}: {e}"
        raise
    finally:
        if mlflow:
            mlflow.close(failure)


class Tail:
    """The complete lines of a file that grows, or is cut back and grows again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position, self._last = 0, b""

    def read(self) -> tuple[bool, list[Event]]:
        """Whether the file was cut back, and the events after those that were read: then from its beginning."""
        if not self._path.exists():
            return False, []
        with self._path.open("rb") as file:
            file.seek(self._position - len(self._last))
            anew = file.read(len(self._last)) != self._last
            if anew:
                file.seek(0)
                self._position, self._last = 0, b""
            events = []
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position, self._last = self._position + len(line), line
                with suppress(ValueError):  # two halves of lines that a crash left
                    events.append(json.loads(line))
        return anew, events


class Screen:
    """A bar over the run's tokens, and a line now and then, of what was trained from the token `first` on."""

    def __init__(self, progress: Progress, say: Callable[[Sequence[str]], None], stack: ExitStack, first: int) -> None:
        self._progress, self._say, self._stack = progress, say, stack
        self._said, self._shown = first, 0
        self._target = 0
        self._advance: Callable[[float], None] = lambda amount: None

    def show(self, anew: bool, events: Sequence[Event]) -> None:
        """Move the bar to the last event, backwards after a cut, and say what is new."""
        for event in events:
            tokens = event["tokens"]
            if event["kind"] == "start" and not self._target:
                self._target = event["target_tokens"]
                bar = self._progress.task(f"train {event['model']}", self._target, "tokens")
                self._advance = self._stack.enter_context(bar)
            due = event["kind"] == "step" and tokens * LINES // self._target > self._said * LINES // self._target
            if tokens > self._said and due:
                self._say([_step_line(event, self._target)])
                self._said = tokens
            elif tokens >= self._said and event["kind"] == "valid":
                self._say([f"validated: {_listed(_bpb(event['metrics']))}"])
                self._said = tokens + 1
        if events:
            self._advance(events[-1]["tokens"] - self._shown)
            self._shown = events[-1]["tokens"]


class Mlflow:
    """One run `full/NAME` in MLflow, written in parts; what the outbox holds already is not put there again."""

    def __init__(self, run: FullRun, uri: str) -> None:
        self._run = run
        self._post = Post(uri, run.folder)
        self._key, self._ended = f"full/{run.name}/{time.time_ns() // 10**6}", False
        self._latest: dict[str, int] = {}  # the step of each curve's last point
        self._described = False
        for _, _, entry in self._post.outbox.read():
            self._key, self._ended = entry.key, entry.part == "last" and not entry.error
            self._described |= "model" in entry.params
            for key, _, step in entry.metrics:
                self._latest[key] = max(step, self._latest.get(key, -1))
        self._curves = Curves(run.available)

    def show(self, anew: bool, events: Sequence[Event]) -> None:
        """Append a part with the new points, if there are any."""
        if anew:
            self._curves = Curves(self._run.available)
        fresh = []
        for key, value, step in (point for event in events for point in self._curves.add(event)):
            if step > self._latest.get(key, -1):
                fresh.append((key, value, step))
                self._latest[key] = step
        ending = any(event["kind"] == "end" for event in events)
        if (fresh or ending) and not self._ended:
            self._append(fresh, "last" if ending else "open")
            self._ended = ending

    def close(self, failure: str) -> None:
        """Say that the training failed, if it did, and wait a little for MLflow."""
        with self._post.mirroring("the failure"):
            if failure and not self._ended:
                self._append([], "last", failure)
        self._post.close()

    def _append(self, points: Sequence[Point], part: Literal["open", "last"], error: str = "") -> None:
        entry = Entry(
            experiment=self._run.experiment,
            key=self._key,
            name=f"full/{self._run.name}",
            tags={
                "mixopt.kind": "full",
                "mixopt.job": self._run.name,
                NOTE: "The real run on the recommended mixture.",
            },
            params={} if self._described else self._params(),
            metrics=points,
            error=error,
            texts={"failure.txt": error} if error else {},
            part=part,
        )
        self._post.outbox.append(entry)
        self._described |= "model" in entry.params

    def _params(self) -> dict[str, str]:
        """Said once, since MLflow refuses another value later."""
        started = self._curves.started
        if not started:
            return {}
        told = {"tokens": started["target_tokens"], **{k: started[k] for k in ("model", "parameters", "batch_tokens")}}
        return {**self._run.params, **{key: str(value) for key, value in told.items()}}


@dataclass
class Curves:
    """The points of a run's curves. `started` is the run's first event."""

    available: Mapping[str, int]
    started: Event = field(default_factory=dict)
    steps: list[Event] = field(default_factory=list)  # of the part of the run that is not yet a point

    def add(self, event: Event) -> list[Point]:
        """The points that this event completes."""
        if event["kind"] == "start":
            self.started = self.started or event
        elif event["kind"] == "valid":
            return [(key, value, event["tokens"] // 1000) for key, value in _bpb(event["metrics"]).items()]
        elif event["kind"] == "step":
            self.steps.append(event)
        width = max(1, self.started.get("target_tokens", 0) // POINTS)
        if not self.steps or (event["kind"] != "end" and event["tokens"] // width == self._begun(width)):
            return []
        steps, self.steps = self.steps, []
        return [(key, value, steps[-1]["tokens"] // 1000) for key, value in summary(steps, self.available).items()]

    def _begun(self, width: int) -> int:
        """The part of the run in which its first step that is no point yet began."""
        return (self.steps[0]["tokens"] - self.started.get("batch_tokens", 0)) // width


def summary(steps: Sequence[Event], available: Mapping[str, int]) -> dict[str, float]:
    """One point of each curve for consecutive steps: means; but the last learning rate and the last epochs."""
    last = steps[-1]
    epochs = {name: tokens / available[name] for name, tokens in last["drawn"].items() if available.get(name)}
    return {
        **_means(
            [{key: step.get(key) for key in ("loss", "tokens_per_second", "mfu", "data_share")} for step in steps]
        ),
        **numbers("loss", _means([step["domains"] for step in steps])),
        **numbers("proportions", _means([step["proportions"] for step in steps])),
        **numbers("epochs", epochs),
        **finite({"learning_rate": last["learning_rate"]}),
    }


def _means(bodies: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for body in bodies:
        for key, value in finite(body).items():
            found.setdefault(key, []).append(value)
    return {key: statistics.fmean(values) for key, values in found.items()}


def _bpb(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Held-out losses are BPB in another unit, and their names those of the training losses."""
    return {key: value for key, value in finite(metrics).items() if not key.startswith("loss/")}


def _step_line(event: Event, target: int) -> str:
    speed = f"{event['tokens_per_second']:,.0f} tokens/s"
    used = f", MFU {100 * event['mfu']:.1f} %" if event.get("mfu") else ""
    return f"{event['tokens']:,} of {target:,} tokens: loss {event['loss']:.4f}, {speed}{used}"


def _listed(values: Mapping[str, float]) -> str:
    said = [f"{key} {value:.4f}" for key, value in list(values.items())[:SHOWN]]
    return ", ".join(said) + (f" and {len(values) - SHOWN} more" if len(values) > SHOWN else "")


def _next_token(path: Path) -> int:
    """The first token that the file does not tell of."""
    with suppress(OSError, KeyError, TypeError):
        return max((int(event["tokens"]) + 1 for event in Tail(path).read()[1]), default=0)
    return 0


def _look_often(path: Path, views: Sequence[View], done: threading.Event) -> None:
    tail, ending = Tail(path), False
    while not ending:
        ending = done.wait(LOOK_SECONDS)
        anew, events = tail.read()
        views = [view for view in views if _shown(view, anew, events)]


def _shown(view: View, anew: bool, events: Sequence[Event]) -> bool:
    try:
        view(anew, events)
        return True
    except Exception as e:  # noqa: BLE001 - a mirror never stops the training
        log.warning("the training goes on, but is shown no more (%s: %s).", type(e).__name__, e)
        return False
