"""Bars on a terminal; elsewhere one line for each finished task that did something."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mixopt.progress import Progress, Silent
from pipelines.progress import Bars


def work(progress: Progress) -> None:
    with progress.task("outer", 4, "runs") as advance:
        with progress.task("inner [x]", None, "bytes") as read:
            read(2_500_000)
        advance(4)
    with progress.task("nothing to do", 0):
        pass


def shown(terminal: bool) -> str:
    out = io.StringIO()
    work(Bars(Console(file=out, force_terminal=terminal, width=100)))
    return out.getvalue()


def test_silent_takes_everything() -> None:
    work(Silent())


def test_without_a_terminal_finished_tasks_have_one_line_each() -> None:
    lines = shown(terminal=False).splitlines()
    assert [line.rsplit(" in ")[0] for line in lines] == ["inner [x]: 2.5 MB", "outer: 4/4 runs"]


def test_on_a_terminal_bars_are_gone_at_the_end() -> None:
    lines = shown(terminal=True)
    assert "outer: 4/4 runs in" in lines
    assert "nothing to do:" not in lines


def test_a_task_that_failed_is_not_told_as_finished() -> None:
    out = io.StringIO()
    bars = Bars(Console(file=out))
    with pytest.raises(ValueError, match="broken"), bars.task("work", 1) as advance:
        advance(1)
        raise ValueError("broken")
    assert out.getvalue() == ""
    work(bars)
