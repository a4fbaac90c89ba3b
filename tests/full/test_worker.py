"""What ends a full run for good, and how workers notice that their driver has gone."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from mixopt.errors import JobError, RunFailed
from pipelines.full import launch
from pipelines.full.saved import refuse_full_disk
from pipelines.full.worker import DRIVER_LOCK, driven, holding, hopeless


def chained(first: BaseException, cause: BaseException) -> BaseException:
    first.__cause__ = cause
    return first


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (RunFailed("training loss of web is not finite"), "training loss of web is not finite"),
        (
            OSError(errno.ENOSPC, "No space left on device", "step8/rank0.pt"),
            "step8/rank0.pt: No space left on device.",
        ),
        (chained(RuntimeError("failed"), OSError(errno.EROFS, "Read-only file system")), "Read-only file system"),
        (RuntimeError("Original error:\nOSError: [Errno 28] No space left on device"), "lower checkpoint.keep"),
    ],
)
def test_what_another_start_would_not_cure(error: BaseException, part: str) -> None:
    assert part in (hopeless(error) or "")


@pytest.mark.parametrize("error", [RuntimeError("Connection reset by peer"), TimeoutError("store"), OSError(5, "I/O")])
def test_what_may_pass(error: BaseException) -> None:
    assert hopeless(error) is None


def test_a_driver_that_was_killed_is_gone(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from pipelines.full.launch import driving
with driving(Path({str(tmp_path)!r})) as word:
    print(word, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        word = driver.stdout.readline().strip()
        lock = tmp_path / DRIVER_LOCK
        assert driven(lock, word)
        assert not driven(lock, "another driver's")
        driver.kill()
        driver.wait()
        assert not driven(lock, word)


def test_one_driver_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 0.2)
    with launch.driving(tmp_path) as word:
        with pytest.raises(JobError, match="another mixopt train is at work here"), launch.driving(tmp_path):
            pass
        assert (tmp_path / DRIVER_LOCK).read_text() == word
    with launch.driving(tmp_path) as other:
        assert other != word


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    with holding(tmp_path / "lock"), pytest.raises(TimeoutError), holding(tmp_path / "lock", 0.3):
        pass
    assert time.monotonic() - began >= 0.3


def test_no_checkpoint_is_begun_for_which_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 12 * 10**9))
    refuse_full_disk(tmp_path, 10**9)
    with pytest.raises(RunFailed, match=r"12.00 GB are free, and a checkpoint of 1,000,000,001 .* There is none yet"):
        refuse_full_disk(tmp_path, 10**9 + 1)
    for step in (4, 12):
        (tmp_path / f"step{step}").mkdir()
        (tmp_path / f"step{step}" / ".metadata.json").touch()
    with pytest.raises(RunFailed, match="That of step 12 is kept: make room"):
        refuse_full_disk(tmp_path, 10**10)
