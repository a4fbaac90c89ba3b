"""How long work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Progress(Protocol):
    """A place to show work that takes a while."""

    def task(self, label: str, total: float | None, unit: str = "") -> AbstractContextManager[Callable[[float], None]]:
        """Work of `total` units (None: not known); the callable advances it by an amount."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, label: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
        """Advance into nothing."""
        yield lambda amount: None
