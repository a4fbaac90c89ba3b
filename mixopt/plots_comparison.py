"""The pictures of a comparison: document -> canvas, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mixopt.compare import READINGS, ranked, rivals
from mixopt.drawing import (
    BEST,
    COOL,
    INK,
    LINE,
    NARROW,
    PAPER,
    SOFT,
    WARM,
    WORSE,
    Canvas,
    Chart,
    Look,
    elided,
    label_width,
    row_heights,
)
from mixopt.report_numbers import Change, Results, places, scaled, signed, unit

DOMAINS = 5  # that are drawn in a colour of their own
COLOURS = (BEST, WARM, COOL, WORSE, INK)
MARKS = {"same_total": "o", "same_final": "D"}


def tone(gain: Mapping[str, float]) -> str:
    """Better or worse where the interval excludes zero, else noise."""
    return Change("", **gain).tone


def mixes(row: Mapping[str, Any]) -> bool:
    """Whether the method's proportions change over its final run."""
    return len(row["proportions"]) > 1


def _forest(document: Results, width: int) -> Canvas:
    """Both gains of each method with their intervals, around uniform at zero."""
    rows, phone = rivals(ranked(document["rows"])), width < NARROW
    labels = [row["method"] for row in rows]
    pitch, left = 58 if phone else 40, label_width(labels, phone)
    bottom = 34 + pitch * len(rows)
    canvas = Canvas(width, bottom + 46)
    ax = canvas.axes(left, 34, width - 84, bottom)
    y_R = row_heights(ax, labels, phone)
    ax.axvline(0, color=SOFT, linewidth=1.2)
    decimals = places(row[name]["gain"]["mean"] for row in rows for name in READINGS)
    for y, row in zip(y_R, rows, strict=True):
        for name, side in zip(READINGS, (-1, 1), strict=True):
            gain, at = row[name]["gain"], y + side * 8 / pitch
            colour = {"better": BEST, "worse": WORSE, "noise": SOFT}[tone(gain)]
            fill = PAPER if tone(gain) == "noise" else colour
            ax.hlines(at, gain["low"], gain["high"], color=colour, linewidth=2)
            ax.plot(
                [gain["mean"]], [at], MARKS[name], color=fill, markeredgecolor=colour, markeredgewidth=1.6, markersize=7
            )
            said = signed(gain["mean"], decimals)
            ax.text(1.02, at, said, transform=ax.get_yaxis_transform(), va="center", color=colour)
    ends = [row[name]["gain"][end] for row in rows for name in READINGS for end in ("low", "high")]
    edge = 0.06 * (max(0.0, *ends) - min(0.0, *ends)) or 1.0
    ax.set_xlim(min(0.0, *ends) - edge, max(0.0, *ends) + edge)
    ax.locator_params(axis="x", nbins=5 if phone else 9)
    ax.set_xlabel(f"gain{'' if phone else ' over uniform'}, {unit(document)} (right is better)")
    mark: Look = {"markevery": [1], "color": SOFT, "linestyle": "none", "markersize": 7}
    canvas.key(left - 8, 14, [(READINGS[name], {"marker": MARKS[name], **mark}) for name in READINGS])
    return canvas


def _mixing(document: Results, width: int) -> Canvas:
    """Proportions over a final run, a panel for each method that changes them."""
    rows = [row for row in ranked(document["rows"]) if mixes(row)]
    phone = width < NARROW
    columns = 1 if phone else min(3, len(rows))
    tall, top, across = 150, 54 if phone else 40, (width - 8) / columns
    height = tall + 78
    canvas = Canvas(width, top + height * -(-len(rows) // columns))
    shown = _moving(rows, document["domains"])
    looks: dict[str, Look] = {name: {"color": SOFT, "linewidth": 0.8, "alpha": 0.55} for name in document["domains"]}
    looks |= {name: {"color": colour, "linewidth": 2.0} for name, colour in zip(shown, COLOURS, strict=False)}
    most = 105 * max(p for row in rows for _, mixture in row["proportions"] for p in mixture.values())
    for i, row in enumerate(rows):
        x, y = 44 + across * (i % columns), top + 26 + height * (i // columns)
        ax = canvas.axes(x, y, 8 + across * (i % columns + 1) - 20, y + tall)
        ends = [0, *(tokens for tokens, _ in row["proportions"])]
        for name in sorted(looks, key=lambda name: name in shown):
            steps = [100 * mixture[name] for _, mixture in row["proportions"]]
            ax.step(ends, [*steps[:1], *steps], where="pre", **looks[name])
        ax.set_ylim(0, most)
        ax.set_xlim(0, ends[-1])
        ax.xaxis.set_major_formatter(lambda value, _: scaled(value))
        ax.locator_params(axis="x", nbins=3)
        ax.locator_params(axis="y", nbins=4)
        ax.set_title(elided(row["method"], 30))
        ax.set_xlabel("tokens seen")
    rest = [("other domains", {"color": LINE, "linewidth": 2.0})] if len(shown) < len(looks) else []
    canvas.key(8, 14, [*((elided(name, 22), looks[name]) for name in shown), *rest])
    return canvas


def _moving(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The domains whose proportions move most in any of these runs."""

    def moved(name: str) -> float:
        values = [[mixture[name] for _, mixture in row["proportions"]] for row in rows]
        return max(max(path) - min(path) for path in values)

    return sorted(names, key=lambda name: (-moved(name), name))[:DOMAINS]


CHARTS: Mapping[str, Chart] = {"forest": _forest, "mixing": _mixing}
