"""Starts the workers of a full run: by torchrun on this machine, or by Ray Train on its own or a cluster's.

Both start all workers again when one is lost, as often as `launch.restarts` says, and training goes on from the last
complete checkpoint. Workers end with the driver: run the same command again, and it goes on alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from mixopt.errors import JobError, RunFailed
from pipelines.full.course import RECORD, Course
from pipelines.full.worker import DRIVER_LOCK, FAILURE, FOLLOW, holding
from pipelines.local_executor import ONE_THREAD

PATIENCE = 5.0  # seconds in which workers of a driver that was killed have ended
GRACE = 60.0  # seconds that workers may take to save and end when the driver is stopped
SHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
TOLD = 12  # lines of a worker's log in an error


def launch(course: Course, word: str) -> None:
    """Train until the run is finished, as the driver of this word. Raises RunFailed for a run that did not finish."""
    if course.full.launch.by == "ray":
        from pipelines.full.ray_train import train

        train(course)
    else:
        torchrun(course, word)
    if (failure := course.folder / FAILURE).exists():
        raise RunFailed(json.loads(failure.read_text(encoding="utf-8"))["error"])
    if not (course.folder / RECORD).exists():
        raise RunFailed("the workers ended before the run did. Run the same command again to go on.")


@contextlib.contextmanager
def driving(folder: Path) -> Iterator[str]:
    """Hold the lock of a run, with a word in it by which its workers know this driver.

    Raises JobError while another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(holding(folder / DRIVER_LOCK, PATIENCE))
        except TimeoutError as e:
            raise JobError(f"{folder}: another mixopt train is at work here. Wait for it, or end it first.") from e
        word = uuid.uuid4().hex
        lock.truncate(0)
        lock.write(word)
        lock.flush()
        yield word


def torchrun(course: Course, word: str) -> None:
    """Workers of this machine. Raises RunFailed if they were lost more often than they may be."""
    logs = course.folder / "logs"
    process = subprocess.Popen(
        [*command(course), "--log-dir", str(logs), "--redirects", "3", *entry(course)],
        env=environment(course, word),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with _ending_like_an_interrupt():
            _, said = process.communicate()
    except BaseException:  # the user's interrupt, or a cluster's that wants its machine back
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        process.kill()
        process.communicate()
        raise
    if process.returncode and not (course.folder / FAILURE).exists():
        tail = _tail(logs) or said.splitlines()[-TOLD:]
        times = course.full.launch.restarts
        raise RunFailed(
            f"a worker was lost, and starting all again {times} times did not help. Its last words:\n"
            + "\n".join(f"  {line}" for line in tail)
            + f"\nThe last complete checkpoint is kept; the logs are in {logs}."
        )


def command(course: Course) -> list[str]:
    """Torchrun for this machine, over the loopback."""
    asked = course.full.launch
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1", "--nproc-per-node", str(course.workers)),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *("--max-restarts", str(asked.restarts), "--monitor-interval", "0.5"),
    ]


def elsewhere(course: Course) -> str:
    """What to start on every machine, where nobody else starts the workers."""
    line = "torchrun --nnodes MACHINES --nproc-per-node WORKERS --rdzv-backend c10d --rdzv-endpoint HOST:29500"
    return f"{SHARED}=1 {line} {' '.join(entry(course))}"


def entry(course: Course) -> list[str]:
    """What each worker runs."""
    return ["-m", "pipelines.full.worker", str(course.searched.directory)]


def environment(course: Course, word: str) -> dict[str, str]:
    """Of the workers: on a CPU one thread each, and a key-value store of their own after every start.

    torchrun's own store is one for all starts: workers that are started again would find the addresses of those before
    them in it (torch 2.13; its variable says so that it is not shared).
    """
    own = {FOLLOW: word, "PYTHONFAULTHANDLER": "1", SHARED: "1"}
    return os.environ | own | (ONE_THREAD if course.full.launch.device == "cpu" else {})


@contextlib.contextmanager
def _ending_like_an_interrupt() -> Iterator[None]:
    """Let SIGTERM stop the run as Ctrl-C does: workers save where they are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def _tail(logs: Path) -> list[str]:
    """The end of the newest log that says something."""
    files = sorted(logs.rglob("stderr.log"), key=lambda path: path.stat().st_mtime, reverse=True)
    texts = (path.read_text(encoding="utf-8", errors="replace").strip() for path in files)
    return next((text.splitlines()[-TOLD:] for text in texts if text), [])
