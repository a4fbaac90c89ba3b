"""MLflow as a write-only mirror: no trouble there stops a search, slows it or loses a run.

The search appends to an outbox (`pipelines/outbox.py`, which also draws the layout) and goes on. A child process runs
`deliver`, the one writer and the only code that touches MLflow, whose client takes seconds to import and can block for
minutes where a server is down. What could not be delivered waits in the outbox for `ship`.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import logging
import os
import re
import select
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mixopt.errors import DataError
from mixopt.runs import RunRecord
from mixopt.study import Untracked
from pipelines.outbox import Entry, Outbox, Question, answer_entries, digest, proxy_entry, swarm_entry

log = logging.getLogger("mixopt")

CLOSE_SECONDS = 20.0
LONGEST_PAUSE = 300.0
SCREEN = "screen"
SQLITE = "sqlite:///"
RUNNING, FAILED, FINISHED = "RUNNING", "FAILED", "FINISHED"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `deliver` tries again itself, and first looks whether the run is there
}
METRICS_PER_BATCH, PARAMS_PER_BATCH = 1000, 100  # these limits: mlflow 3.17.2, mlflow/utils/validation.py
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH, EXPERIMENT_LENGTH = 250, 6000, 8000, 500
SHARED_VIEW = "mlflow.sharedViewState."  # the tags that MLflow's own "share" button writes
Answer = Callable[[Question, Mapping[str, Any]], Sequence[Entry]]


class Post:
    """An outbox and the courier that empties it, for work which must not notice: an error becomes a sentence.

    Only `close` waits for MLflow, for at most 20 s.
    """

    def __init__(self, uri: str, out: Path) -> None:
        self.outbox = _open(out, absolute(uri))
        self._told = False
        self._courier: Courier | None = None
        with self.mirroring("this run"):
            if importlib.util.find_spec("mlflow"):
                self._courier = Courier(self.outbox, "--follow")
            else:
                self._tell("mlflow is not installed (pip install 'mixopt[mlflow]')")

    @contextmanager
    def mirroring(self, what: str) -> Iterator[None]:
        """Errors of the block are said and forgotten; so is what the courier complains about, once."""
        try:
            yield
            if self._courier and (complaint := self._courier.complaint()):
                self._tell(complaint)
        except Exception as e:  # noqa: BLE001 - a mirror never stops the work
            log.warning("tracking: %s is not mirrored (%s: %s).", what, type(e).__name__, e)

    def close(self) -> None:
        """Wait for the courier, for at most 20 s and only if it has work, and say what it could not deliver."""
        courier, self._courier = self._courier, None
        with self.mirroring("the end"):
            if courier:
                courier.close(CLOSE_SECONDS if self.outbox.waiting() else 0)
                _report(self.outbox, courier)

    def _tell(self, trouble: str) -> None:
        if not self._told:
            log.warning("tracking: %s. The work goes on; its runs wait in %s.", trouble, self.outbox.folder)
        self._told = True


class MlflowTracker:
    """Mirrors one search or comparison: `answer` lays out what it found. No method raises."""

    def __init__(self, uri: str, out: Path, question: Question, answer: Answer = answer_entries) -> None:
        self._question, self._answer = question, answer
        self._post = Post(uri, out)
        entries = (entry for _, _, entry in self._post.outbox.read() if entry.experiment == question.experiment)
        self._known = {entry.key: _state(entry) for entry in entries}

    def log(self, record: RunRecord) -> None:
        """Mirror one finished proxy, once: again only if it had failed and now has not."""
        with self._post.mirroring(f"run {record.spec.id}"):
            for entry in (swarm_entry(self._question), proxy_entry(self._question, record)):
                self._put(entry)

    def conclude(self, results: Mapping[str, Any]) -> None:
        """Mirror what was found, with the report's files of the run directory."""
        with self._post.mirroring("the answer"):
            for entry in self._answer(self._question, results):
                self._put(entry)

    def close(self) -> None:
        """Wait for MLflow a little, and say what could not be delivered."""
        self._post.close()

    def _put(self, entry: Entry) -> None:
        known = self._known.get(entry.key)
        if known is None or known != _state(entry) != FAILED:
            self._post.outbox.append(entry)
            self._known[entry.key] = _state(entry)


class Screen(NamedTuple):
    """How to look at the runs: what to run in a shell, what to open in a browser, what to type as the filter."""

    command: str
    address: str
    filter: str


class Courier:
    """The child process that delivers an outbox.

    It learns the end from its standard input, which closes with `close` or when this process dies; an interrupt of
    the search does not reach it.
    """

    def __init__(self, outbox: Outbox, *options: str) -> None:
        command = [sys.executable, "-P", "-W", "ignore", "-m", "pipelines.mlflow_tracker", str(outbox.out), *options]
        self._log = outbox.folder / "courier.log"
        with self._log.open("wb") as log_file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log_file, start_new_session=True
            )

    def complaint(self) -> str:
        """The last line that it wrote, without the full stop."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip(" .") for line in reversed(lines) if line.strip()), "")

    def close(self, seconds: float | None = None) -> None:
        """Let it finish, for at most this long."""
        try:
            self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            log.debug("tracking: stopped after %s s.", seconds)
        finally:
            self._process.kill()
            self._process.wait()


class Mirror:
    """The writer to the MLflow at `address`; `folder` is where the entries' files are counted from."""

    def __init__(self, address: str, folder: Path) -> None:
        self._address = address
        self._folder = folder

    def write(self, entry: Entry) -> None:
        """Make this run exist, once; one that a crash left half written is completed, and a part is added to it."""
        with _alone(self._address):
            experiment = self._experiment(fitting(entry.experiment, EXPERIMENT_LENGTH))
            if entry.view:
                self._show(experiment, entry.view)
            runs = self._runs(experiment, entry.key)
            if any(_settled(run, entry) for run in runs):
                return
            half = next((run for run in runs if _same(run, entry) and (entry.part or run.info.status == RUNNING)), None)
            for run in runs:
                if run is not half:
                    self._client.delete_run(run.info.run_id)
            run = half or self._create(experiment, entry)
            self._fill(run.info.run_id, entry)

    def answers(self) -> bool:
        """Whether MLflow can be asked anything at all."""
        with suppress(Exception):
            self._client.search_experiments(max_results=1)
            return True
        return False

    @cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self._address)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            database = _database(self._address)
            return str(self._client.create_experiment(name, _artifacts(database).as_uri() if database else None))
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _show(self, experiment: str, view: Mapping[str, Any]) -> None:
        """Keep a view with the experiment, as MLflow's "share" button does, and its address in the outbox's folder."""
        state = {
            "searchFilter": " AND ".join(f"tags.`{key}` = '{value}'" for key, value in view["tags"].items()),
            "orderByKey": f"metrics.`{clean(view['order'])}`",
            "orderByAsc": False,
            "selectedColumns": [f"params.`{clean(param)}`" for param in view["params"]],
        }
        self._client.set_experiment_tag(experiment, f"{SHARED_VIEW}{view['key']}", json.dumps(state))
        address = f"/#/experiments/{experiment}/runs?viewStateShareKey={view['key']}"
        (self._folder / SCREEN).write_text(address, encoding="ascii")

    def _runs(self, experiment: str, key: str) -> list[Any]:
        return list(self._client.search_runs([experiment], f"tags.`mixopt.run_id` = '{clean(key)}'"))

    def _create(self, experiment: str, entry: Entry) -> Any:
        links = {tag: run.info.run_id for tag, key in entry.links.items() for run in self._runs(experiment, key)[:1]}
        own = {"mixopt.run_id": clean(entry.key), "mixopt.version": entry.version, "mixopt.schema": "1"}
        return self._client.create_run(
            experiment,
            start_time=entry.time - round(1000 * entry.seconds),
            tags={key: fitting(value, TAG_LENGTH) for key, value in {**entry.tags, **links, **own}.items()},
            run_name=fitting(entry.name, KEY_LENGTH),
        )

    def _fill(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Metric, Param

        params = [Param(clean(key), fitting(value, PARAM_LENGTH)) for key, value in entry.params.items()]
        metrics = [Metric(clean(key), value, entry.time, step) for key, value, step in entry.metrics]
        for start in range(0, len(params), PARAMS_PER_BATCH):
            self._client.log_batch(run_id, params=params[start : start + PARAMS_PER_BATCH], synchronous=True)
        for start in range(0, len(metrics), METRICS_PER_BATCH):
            self._client.log_batch(run_id, metrics[start : start + METRICS_PER_BATCH], synchronous=True)
        for name, text in entry.texts.items():
            self._client.log_text(run_id, text, name)
        for path in (self._folder / name for name in entry.files):
            if path.exists():
                self._client.log_artifact(run_id, str(path.resolve()))
        if entry.part == "open":
            self._client.update_run(run_id, RUNNING)
        else:
            self._client.set_terminated(run_id, FAILED if entry.error else FINISHED, entry.time)


def make_tracker(
    uri: str | None, out: Path, question: Question, answer: Answer = answer_entries
) -> MlflowTracker | Untracked:
    """The tracker for `sqlite:///<file>`, `http://<server>` or None; its outbox is in the run directory `out`."""
    return Untracked() if uri is None else MlflowTracker(uri, out, question, answer)


def ship(out: Path) -> int:
    """Deliver what waits in the outbox of the run directory `out`; how many runs were delivered.

    Raises DataError where there is no outbox.
    """
    if not (out / "tracking" / "address").exists():
        raise DataError(f"{out}: no outbox here. Give the run directory of a search that was tracked.")
    outbox = _open(out)
    before = outbox.waiting()
    if before:
        courier = Courier(outbox)
        courier.close()
        _report(outbox, courier)
    return before - outbox.waiting()


def deliver(out: Path, *, follow: bool) -> None:
    """Write what waits in an outbox to MLflow; with `follow`, until the standard input closes or the parent is gone."""
    os.environ.update(QUIET | os.environ)
    outbox = Outbox(out)
    mirror = Mirror(outbox.address, outbox.folder)
    done, todo, position, pause = outbox.delivered(), dict[int, Entry](), 0, 1.0
    parent, ending = os.getppid(), not follow
    while True:
        for begin, end, entry in outbox.read(position):
            position = end
            if begin not in done:
                todo[begin] = entry
        _deliver_once(outbox, mirror, todo)
        if ending:
            return
        pause = min(2 * pause, LONGEST_PAUSE) if todo else 1.0
        ending = bool(select.select([sys.stdin], [], [], pause)[0]) or os.getppid() != parent


def screen(uri: str, port: int = 5000, out: Path | None = None) -> Screen:
    """How to open the comparison of methods; there is nothing to run where MLflow is a server already.

    The address is that of the view which was kept for the run directory `out`, if one was.
    """
    address, chosen = absolute(uri), "tags.mixopt.kind != 'proxy' AND tags.mixopt.kind != 'swarm'"
    kept = out / "tracking" / SCREEN if out else None
    view = kept.read_text(encoding="ascii") if kept and kept.exists() else ""
    chosen = "" if view else chosen
    if address.startswith("http"):
        return Screen("", f"{address.rstrip('/')}{view}", chosen)
    quiet = "MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false"
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", address]
    network = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    return Screen(f"{quiet} {shlex.join(server + network)}", f"http://127.0.0.1:{port}{view}", chosen)


def absolute(uri: str) -> str:
    """The same database wherever the reader stands: a relative path counts from the working directory of this call."""
    return f"{SQLITE}{Path(uri.removeprefix(SQLITE)).resolve()}" if uri.startswith(SQLITE) else uri


def clean(key: str) -> str:
    """A key that MLflow takes; one that had to be changed ends in a hash, so that two keys stay two."""
    parts = re.sub(r"[^\w\-. :/]", "_", key).split("/")
    safe = "/".join(part for part in parts if part.strip(".")).lstrip(".")
    return key if key and key == safe[:KEY_LENGTH] else f"{safe[: KEY_LENGTH - 13]}-{digest(key)}"


def fitting(text: str, length: int) -> str:
    """The text in at most this many characters that every database takes."""
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return text if len(text) <= length else text[: length - 1] + "…"


def _report(outbox: Outbox, courier: Courier) -> None:
    if left := outbox.waiting():
        again = shlex.join([sys.executable, "-m", "pipelines.mlflow_tracker", str(outbox.out)])
        why = courier.complaint() or f"it took longer than {CLOSE_SECONDS:g} s"
        log.warning("tracking: %d runs are not in MLflow (%s). Nothing is lost: ship them with `%s`.", left, why, again)


def _deliver_once(outbox: Outbox, mirror: Mirror, todo: dict[int, Entry]) -> None:
    for position, entry in list(todo.items()):
        try:
            mirror.write(entry)
        except Exception as e:  # noqa: BLE001 - whatever it was, the entry stays in the outbox
            answers = mirror.answers()
            did = f"refused {entry.name}" if answers else "does not answer"
            said = f"MLflow at {outbox.address} {did}: {e}".split("\n")[0]
            log.warning("%s", fitting(re.sub("//[^/@]*@", "//", said), 250))  # no passwords
            if not answers:
                return
        else:
            outbox.mark(position)
            del todo[position]


def _open(out: Path, address: str = "") -> Outbox:
    """The outbox; a database that is gone has forgotten what it was told."""
    outbox = Outbox(out, address)
    database = _database(outbox.address)
    if database and not database.exists():
        outbox.forget()
    return outbox


def _state(entry: Entry) -> str:
    return FAILED if entry.error else entry.version


def _same(run: Any, entry: Entry) -> bool:
    return bool(run.data.tags.get("mixopt.version", "") == entry.version)


def _settled(run: Any, entry: Entry) -> bool:
    if entry.error:
        return run.info.status in (FAILED, FINISHED)
    return run.info.status == FINISHED and _same(run, entry)


def _database(address: str) -> Path | None:
    return Path(address.removeprefix(SQLITE).split("?")[0]) if address.startswith(SQLITE) else None


def _artifacts(database: Path) -> Path:
    return database.parent / "mlartifacts"


@contextmanager
def _alone(address: str) -> Iterator[None]:
    """The only writer of this machine, for a while: two searches may mirror to one place."""
    database = _database(address)
    folder = _artifacts(database) if database else Path(tempfile.gettempdir(), f"mixopt-{os.getuid()}")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{digest(address)}.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s")
    os.nice(5)  # the search comes first
    deliver(Path(sys.argv[1]), follow="--follow" in sys.argv[2:])
