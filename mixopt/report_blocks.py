"""What a section of the report is made of: a `str` is a paragraph, a `tuple` a list of sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text; `align` has an l or r for each column, `tones` better, worse, bound or nothing for each row."""

    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    align: str
    tones: Sequence[str] = ()


@dataclass(frozen=True)
class Chart:
    """A picture by its name in `plots.CHARTS`, and how to read it."""

    name: str
    caption: str


@dataclass(frozen=True)
class Fold:
    """Something that opens on demand; a `str` in it is text to copy."""

    summary: str
    block: str | Table


Block = str | tuple[str, ...] | Table | Chart | Fold
