"""A worker of a full run: `torchrun ... -m pipelines.full.worker RUN_DIR`, of a run that `mixopt train` has locked.

What cannot be cured by another start, such as a full disk or a loss that is no number, is written to `failure.json`
and ends the run; anything else ends this process alone, and the launcher starts all workers again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mixopt.errors import MixoptError
from mixopt.files import write_atomically

FAILURE, DRIVER_LOCK, WORKER_LOCK = "failure.json", ".driver.lock", ".worker.lock"
FOLLOW = "MIXOPT_DRIVER"  # the word that the driver has written into its lock, where workers shall end with it
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
LOOK = 0.5  # seconds between looks at the driver
WAIT = 60.0  # seconds that another run's last worker may take to end


def work(run_dir: Path) -> None:
    """Train as one of the workers that the environment describes, unless the run has failed for good."""
    folder = run_dir / "full"
    if (folder / FAILURE).exists():
        return
    try:
        if os.environ.get("RANK", "0") == "0":
            with holding(folder / WORKER_LOCK):
                _train(run_dir)
        else:
            _train(run_dir)
    except Exception as e:
        said = hopeless(e)
        if said is None:
            raise
        write_atomically(folder / FAILURE, json.dumps({"error": said, "traceback": traceback.format_exc()}))
        os._exit(1)  # the others wait for this worker in some collective operation: the launcher ends them


def _train(run_dir: Path) -> None:
    from pipelines.full import course, engine

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    found = course.load(run_dir)
    engine.join(found)
    engine.run(found)
    engine.leave()


def hopeless(e: BaseException | None) -> str | None:
    """What to say where another start would fail alike; None for what may pass, such as a lost neighbour."""
    while e is not None:
        if isinstance(e, MixoptError):
            return str(e)
        if isinstance(e, OSError) and e.errno in HOPELESS:
            return (
                f"{e.filename or 'the checkpoint folder'}: {e.strerror}. The last complete checkpoint is kept: make room "
                "and run the same command again."
            )
        if "No space left on device" in str(e):  # what the engine made of it
            return (
                "a checkpoint could not be written: no space left on device. The last complete checkpoint is kept: make "
                "room, or lower checkpoint.keep, and run the same command again."
            )
        e = e.__cause__ or e.__context__
    return None


@contextlib.contextmanager
def holding(path: Path, seconds: float = WAIT) -> Iterator[IO[str]]:
    """Hold the lock of a file, until this process ends at the latest. Raises TimeoutError if another keeps it for so long."""
    end = time.monotonic() + seconds
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as e:
                if time.monotonic() >= end:
                    raise TimeoutError(f"{path} is held by another process.") from e
                time.sleep(LOOK / 5)
        yield file


def follow(lock: Path, word: str, launcher: int) -> None:
    """End this process when the driver that wrote this word into its lock has ended, or the launcher that started it."""
    while os.getppid() == launcher and driven(lock, word):
        time.sleep(LOOK)
    os._exit(0)  # which the launcher does not answer with another start


def driven(lock: Path, word: str) -> bool:
    """Whether the driver of this word is alive: then it holds its lock."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return file.read() == word
    return False


def main() -> None:
    """The entry of torchrun."""
    run_dir = Path(sys.argv[1])
    if word := os.environ.get(FOLLOW):
        lock = run_dir / "full" / DRIVER_LOCK
        threading.Thread(target=follow, args=(lock, word, os.getppid()), daemon=True).start()
    work(run_dir)


if __name__ == "__main__":
    main()
