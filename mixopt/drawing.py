"""How the report's pictures look: palette, matplotlib's settings, a canvas in CSS pixels, rows with labels.

Colours leave as CSS variables with the light theme's value to fall back on, so one picture serves light and dark
pages. Lengths are CSS pixels; a `width` below `NARROW` gets the layout for phones.

Shapes: R rows.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from mixopt.report_numbers import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Look = Mapping[str, Any]  # matplotlib's keywords for one mark or text
WIDE, NARROW, PHONE = 760, 500, 344
LABEL = 34  # characters of a row's label
LIGHT = {
    "ink": "#1b1d21",
    "soft": "#5a6069",
    "line": "#dcdee2",
    "best": "#0a62aa",
    "prior": "#969ca4",
    "worse": "#c23412",
    "warm": "#a86f06",
    "cool": "#0b7d69",
    "paper": "#fdfdfc",
}
DARK = {
    "ink": "#e8e8e5",
    "soft": "#a2a7af",
    "line": "#373b42",
    "best": "#62aeee",
    "prior": "#858b94",
    "worse": "#ff7d5e",
    "warm": "#dfab47",
    "cool": "#46c0a6",
    "paper": "#15171a",
}
INK, SOFT, LINE, BEST, PRIOR, WORSE, WARM, COOL, PAPER = LIGHT.values()
STYLE = {
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 12.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "text.parse_math": False,
    "svg.fonttype": "none",
}
_DRAWING = threading.Lock()  # matplotlib's settings are global


def element(name: str, draw: Chart, results: Results, width: int) -> str:
    """What `draw` draws as an SVG element: the same bytes for the same document."""
    from matplotlib import style

    settings = {**STYLE, "svg.hashsalt": f"{name} {width}"}
    text = io.StringIO()
    with _DRAWING, style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's own fonts draw the words
        canvas = draw(results, width)
        canvas.figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    size = f"{canvas.width:g}", f"{canvas.height:g}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" viewBox="0 0 {" ".join(size)}" '
        f'stroke-linejoin="round" role="img" aria-label="{escape(name)}: {escape(results["name"])}">\n'
        f"{_inline(text.getvalue())}"
    )


def _inline(document: str) -> str:
    """What matplotlib wrote after the opening tag, with themed colours, the page's font and no ids of groups."""
    names = {value: f"var(--{key}, {value})" for key, value in LIGHT.items()}
    body = document[document.index("<g id=") :]
    body = re.sub(r"(fill|stroke): (#\w{6})", lambda m: f"{m[1]}: {names.get(m[2], m[2])}", body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: var(--sans, sans-serif)", body)
    body = re.sub(r'<g id="[^"]*"', "<g", body).replace("xlink:href", "href")
    return re.sub(r' transform="rotate\(-0 [^"]*"', "", body)


class Canvas:
    """A figure measured in pixels from its upper left corner."""

    def __init__(self, width: int, height: float) -> None:
        from matplotlib.figure import Figure

        self.width, self.height = width, height
        self.figure = Figure(figsize=(width / 72, height / 72))

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Axes between these edges."""
        w, h = self.width, self.height
        return self.figure.add_axes((left / w, 1 - bottom / h, (right - left) / w, (bottom - top) / h))

    def key(self, x: float, y: float, entries: Iterable[tuple[str, Look]]) -> None:
        """A legend in rows from this point on: each entry a mark and its words."""
        from matplotlib.lines import Line2D

        start = x
        for words, mark in entries:
            needed = 44 + 7.6 * len(words)
            if x > start and x + needed > self.width:
                x, y = start, y + 18
            line = Line2D([x / self.width, (x + 20) / self.width], 2 * [1 - y / self.height], **mark)
            line.set_transform(self.figure.transFigure)
            self.figure.add_artist(line)
            self.figure.text((x + 27) / self.width, 1 - (y + 4) / self.height, words, color=SOFT)
            x += needed


def elided(words: str, most: int) -> str:
    """Words with the middle left out where they are too long: names often differ at both ends."""
    words = " ".join(words.split())
    return words if len(words) <= most else f"{words[: most // 2]}…{words[-(most - most // 2 - 1) :]}"


def label_width(labels: Iterable[str], phone: bool) -> int:
    """Room to the left of rows: as the longest label needs; on phones labels stand above the marks."""
    return 6 if phone else 20 + 7 * max(len(elided(words, LABEL)) for words in labels)


def row_heights(ax: Axes, labels: Sequence[str], phone: bool) -> Any:
    """One row for each label, the first on top; returns their heights. Phones have the label above the marks."""
    y_R = np.arange(len(labels)) + (0.22 if phone else 0.0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(y_R, [""] * len(labels) if phone else [elided(words, LABEL) for words in labels])
    ax.tick_params(axis="y", labelcolor=INK, pad=8)
    ax.grid(visible=False, axis="y")
    if phone:
        look: Look = {"va": "center", "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1}}
        for y, words in zip(y_R, labels, strict=True):
            ax.text(0, y - 0.4, elided(words, 44), transform=ax.get_yaxis_transform(), **look)
    return y_R


Chart = Callable[[Results, int], Canvas]
"""Draws a results document at a width."""
