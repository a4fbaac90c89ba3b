"""A worker of a full run: `torchrun ... -m pipelines.full.worker RUN_DIR`, of a run that `mixopt train` has locked.

What cannot be cured by another start, such as a full disk or a loss that is no number, is written to `failure.json`
and ends the run; anything else ends this process alone, and the launcher starts all workers again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import IO

from mixopt.errors import MixoptError
from mixopt.files import write_atomically

FAILURE, DRIVER_LOCK, WORKER_LOCK = "failure.json", ".driver.lock", ".worker.lock"
FOLLOW = "MIXOPT_FOLLOW_DRIVER"  # set where the workers shall end with the driver
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
LOOK = 0.5  # seconds between looks at the driver
WAIT = 60.0  # seconds that another run's last worker may take to end


def work(run_dir: Path) -> None:
    """Train as one of the workers that the environment describes, unless the run has failed for good."""
    folder = run_dir / "full"
    if (folder / FAILURE).exists():
        return
    kept = hold(folder / WORKER_LOCK, WAIT) if os.environ.get("RANK", "0") == "0" else None
    try:
        _train(run_dir)
    except Exception as e:
        said = hopeless(e)
        if said is None:
            raise
        write_atomically(folder / FAILURE, json.dumps({"error": said, "traceback": traceback.format_exc()}))
        os._exit(1)  # the others wait for this worker in some collective operation: the launcher ends them
    finally:
        if kept is not None:
            kept.close()


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


def hold(path: Path, seconds: float) -> IO[str] | None:
    """Lock a file until it is closed or this process ends; None if another process holds it for so long."""
    file, end = path.open("w"), time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() >= end:
                file.close()
                return None
            time.sleep(LOOK / 5)


def follow(lock: Path, launcher: int) -> None:
    """End this process when the driver that holds the lock has ended, or the launcher that started it."""
    while os.getppid() == launcher:
        with lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                break
            except OSError:
                time.sleep(LOOK)
    os._exit(1)


def main() -> None:
    """The entry of torchrun."""
    run_dir = Path(sys.argv[1])
    if os.environ.get(FOLLOW):
        lock = run_dir / "full" / DRIVER_LOCK
        threading.Thread(target=follow, args=(lock, os.getppid()), daemon=True).start()
    work(run_dir)


if __name__ == "__main__":
    main()
