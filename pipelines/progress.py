"""Progress on a terminal. The only home of rich's progress bars.

Where stderr is no terminal, one line tells of each finished task and nothing of the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Display


class Bars:
    """Tasks as bars on stderr, each gone when it is done."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[done]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._running = 0

    @contextmanager
    def task(self, label: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
        """A bar while the block runs; one line once it has done something and ended without an error."""
        began, done = time.monotonic(), 0.0
        bar = self._display.add_task(label, total=total, done="")

        def advance(amount: float) -> None:
            nonlocal done
            done += amount
            self._display.update(bar, advance=amount, done=_amount(done, total, unit))

        with self._shown():
            try:
                yield advance
            finally:
                self._display.remove_task(bar)
        if done:
            line = f"{label}: {_amount(done, total, unit)} in {time.monotonic() - began:.1f} s"
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """The display, while at least one task is running on a terminal."""
        self._running += 1
        if self._console.is_terminal:
            self._display.start()
        try:
            yield
        finally:
            self._running -= 1
            if self._console.is_terminal and not self._running:
                self._display.stop()


def _amount(done: float, total: float | None, unit: str) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.1f} MB"
    return f"{done:,.0f}{'' if total is None else f'/{total:,.0f}'} {unit}".rstrip()
