"""The report's pictures: results document -> SVG, drawn by matplotlib.

Colours leave as CSS variables with the light theme's value to fall back on, so one picture serves light and dark
pages. Lengths are CSS pixels; a `width` below `NARROW` gets the layout for phones.
"""

from __future__ import annotations

import io
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from mixopt.report_numbers import (
    SHOWN,
    Results,
    changes,
    finite,
    label,
    number,
    percent,
    places,
    same_scale,
    scaled,
    shown_domains,
    signed,
    unit,
)

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
ARMS: Mapping[str, Look] = {
    "recommended": {"color": BEST, "linestyle": "-", "linewidth": 2.4},
    "prior": {"color": PRIOR, "linestyle": (0, (5, 2)), "linewidth": 2.0},
    "uniform": {"color": WARM, "linestyle": (0, (1.5, 1.5)), "linewidth": 2.0},
    "best swarm point": {"color": COOL, "linestyle": (0, (6, 2, 1.5, 2)), "linewidth": 2.0},
}
OTHER_ARM: Look = {"color": SOFT, "linestyle": "-", "linewidth": 1.2}
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


def svg(name: str, results: Results, width: int = WIDE) -> str:
    """One picture of `CHARTS` as an SVG element: the same bytes for the same document."""
    from matplotlib import style

    settings = {**STYLE, "svg.hashsalt": f"{name} {width}"}
    text = io.StringIO()
    with _DRAWING, style.context(["default", settings]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the page's own fonts draw the words
        canvas = CHARTS[name](results, width)
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


class _Canvas:
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


def _elided(words: str, most: int) -> str:
    """Words with the middle left out where they are too long: names often differ at both ends."""
    words = " ".join(words.split())
    return words if len(words) <= most else f"{words[: most // 2]}…{words[-(most - most // 2 - 1) :]}"


def _label_width(labels: Iterable[str], phone: bool) -> int:
    """Room to the left of rows: as the longest label needs; on phones labels stand above the marks."""
    return 6 if phone else 20 + 7 * max(len(_elided(words, LABEL)) for words in labels)


def _rows(ax: Axes, labels: Sequence[str], phone: bool) -> Any:
    """One row for each label, the first on top; returns their heights. Phones have the label above the marks."""
    y_R = np.arange(len(labels)) + (0.22 if phone else 0.0)
    ax.set_ylim(len(labels) - 0.5, -0.5)
    ax.set_yticks(y_R, [""] * len(labels) if phone else [_elided(words, LABEL) for words in labels])
    ax.tick_params(axis="y", labelcolor=INK, pad=8)
    ax.grid(visible=False, axis="y")
    if phone:
        look: Look = {"va": "center", "bbox": {"facecolor": PAPER, "edgecolor": "none", "pad": 1}}
        for y, words in zip(y_R, labels, strict=True):
            ax.text(0, y - 0.4, _elided(words, 44), transform=ax.get_yaxis_transform(), **look)
    return y_R


def _proportions(results: Results, width: int) -> _Canvas:
    domains = shown_domains(results)
    names, phone = [d["name"] for d in domains], width < NARROW
    pitch, left = 44 if phone else 30, _label_width(names, phone)
    bottom = 48 + pitch * len(domains)
    canvas = _Canvas(width, bottom + 46)
    split = left + 0.62 * (width - left)
    ax = canvas.axes(left, 48, split - 26, bottom)
    y_R = _rows(ax, names, phone)
    for key, colour, side in (("recommended", BEST, -1), ("prior", PRIOR, 1)):
        share_R = [100 * d[key] for d in domains]
        ax.barh(y_R + side * 4.5 / pitch, share_R, height=8 / pitch, color=colour)
    look: Look = {"textcoords": "offset points", "va": "center", "size": 11, "color": BEST, "weight": "bold"}
    for y, w in zip(y_R, (d["recommended"] for d in domains), strict=True):
        ax.annotate(percent(w), (100 * w, y - 4.5 / pitch), (4, 0), **look)
    ax.set_xlim(0, 118 * max(max(d["recommended"], d["prior"]) for d in domains))
    ax.set_xlabel("share of tokens, %" if phone else "share of training tokens, %")
    _epochs(canvas.axes(split, 48, width - 14, bottom), results, domains, y_R)
    bar = {"linewidth": 8, "solid_capstyle": "butt"}
    canvas.key(left, 14, [("recommended", {"color": BEST, **bar}), ("prior", {"color": PRIOR, **bar})])
    return canvas


def _epochs(ax: Axes, results: Results, domains: Sequence[Mapping[str, Any]], y_R: Any) -> None:
    cap = results["target"]["max_epochs"]
    ax.set_ylim(len(domains) - 0.5, -0.5)
    ax.set_yticks([])
    before_R, after_R = (np.array([d[key] for d in domains], dtype=float) for key in ("epochs_prior", "epochs"))
    right = 1.25 * max(after_R.max(), min(before_R.max(), 3 * after_R.max()))
    if finite(cap) and cap < 2 * right:
        right = max(right, 1.25 * cap)
        ax.axvline(cap, color=WORSE, linestyle=(0, (4, 3)), linewidth=1.2)
        place = ax.get_xaxis_transform()
        ax.annotate(f"max {cap:g}", (cap, 1), (0, 4), place, textcoords="offset points", ha="center", color=WORSE)
    ax.hlines(y_R, before_R, after_R, color=LINE, linewidth=2)
    ax.plot(before_R, y_R, "o", color=PAPER, markeredgecolor=PRIOR, markeredgewidth=1.6, markersize=7)
    ax.plot(after_R, y_R, "o", color=BEST, markersize=7)
    ax.set_xlim(0, right)
    ax.set_xlabel("epochs of the real run")


def _changes(results: Results, width: int) -> _Canvas:
    found = sorted(changes(results)[:SHOWN], key=lambda c: -c.mean)
    phone = width < NARROW
    labels = [c.label for c in found]
    pitch, left = 44 if phone else 28, _label_width(labels, phone)
    bottom = 8 + pitch * len(found)
    canvas = _Canvas(width, bottom + 46)
    ax = canvas.axes(left, 8, width - 84, bottom)
    y_R = _rows(ax, labels, phone)
    ax.axvline(0, color=SOFT, linewidth=1.2)
    decimals = places(c.mean for c in found)
    marks = {"better": ("o", BEST, BEST), "noise": ("o", SOFT, PAPER), "worse": ("s", WORSE, WORSE)}
    for y, c in zip(y_R, found, strict=True):
        shape, colour, fill = marks[c.tone]
        if finite(c.low) and finite(c.high):
            ax.hlines(y, c.low, c.high, color=colour, linewidth=2)
        ax.plot([c.mean], [y], shape, color=fill, markeredgecolor=colour, markeredgewidth=1.6, markersize=7)
        ax.text(1.02, y, signed(c.mean, decimals), transform=ax.get_yaxis_transform(), va="center", color=colour)
    ends = [x for c in found for x in (0.0, c.mean, c.low, c.high) if finite(x)]
    edge = 0.08 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - edge, max(ends) + edge)
    ax.locator_params(axis="x", nbins=5 if phone else 9)
    ax.set_xlabel(f"gain{'' if phone else ' over the prior'}, {unit(results)} (right is better)")
    return canvas


def _predictions(results: Results, width: int) -> _Canvas:
    fit, phone = results["fit"], width < NARROW
    scores = {m: s["spearman"] for m, s in fit["targets"].items() if finite(s["spearman"])}
    shown = list(scores)[:SHOWN]
    side = width - 66 if phone else 320
    pitch = 44 if phone else min(max(27, (side - 24) / max(len(shown), 1)), 42)
    top = 36 + side + 100 if phone else 60
    tall = pitch * len(shown)
    canvas = _Canvas(width, max(36 + side, top + tall) + 48)
    _scatter(canvas.axes(50, 36, 50 + side, 36 + side), results)
    if shown:
        labels = [_elided(label(m), 22) for m in shown]
        left = _label_width(labels, phone) + (0 if phone else 50 + side + 20)
        ax = canvas.axes(left, top, width - 16, top + tall)
        y_R = _rows(ax, labels, phone)
        own_R = [own if finite(own := fit["own_proportion"].get(m)) else np.nan for m in shown]
        law_R = [scores[m] for m in shown]
        ax.hlines(y_R, own_R, law_R, color=LINE, linewidth=2)
        ax.plot(own_R, y_R, "D", color=PAPER, markeredgecolor=WARM, markeredgewidth=1.6, markersize=6)
        ax.plot(law_R, y_R, "o", color=BEST, markersize=7.5)
        ax.set_xlim(min(0, *law_R, np.nanmin([0, *own_R])) - 0.03, 1.03)
        ax.set_xlabel("Spearman, out of fold")
        own_mark = {"marker": "D", "markevery": [1], "color": WARM, "markerfacecolor": PAPER, "linestyle": "none"}
        law_mark = {"marker": "o", "markevery": [1], "color": BEST, "linestyle": "none"}
        canvas.key(left - 8, top - 26, [("law", law_mark), ("own proportion", own_mark)])
    return canvas


def _scatter(ax: Axes, results: Results) -> None:
    folds = results["fit"]["out_of_fold"]
    predicted_R, observed_R = folds["objective_predicted"], folds["objective_observed"]
    low, high = min(*predicted_R, *observed_R), max(*predicted_R, *observed_R)
    edge = 0.05 * (high - low) or 1e-3
    ends = np.array([low - edge, high + edge])
    if same_scale(results) and finite(noise := results["validation"]["noise"]):
        ax.fill_between(ends, ends - noise, ends + noise, color=LINE, linewidth=0)
    ax.plot(ends, ends, color=SOFT, linewidth=1.2)
    ax.plot(predicted_R, observed_R, "o", color=BEST, alpha=0.6, markersize=5.5, markeredgewidth=0)
    ax.set(xlim=ends, ylim=ends)
    ax.locator_params(nbins=5)
    ax.set_xlabel(f"predicted objective, {unit(results)}")
    ax.set_title(f"observed objective, {unit(results)}", color=SOFT, x=-0.12)


def _trajectories(results: Results, width: int) -> _Canvas:
    arms = {t["label"]: t["points"] for t in results["trajectories"]}
    prior = {tokens: value for tokens, value in arms.get("prior", [])}
    phone = width < NARROW
    tall, top = (210, 78) if phone else (260, 66)
    both = len(prior) > 0 and len(arms) > 1
    canvas = _Canvas(width, top + tall + 48 + (tall + 78 if phone and both else 0))
    middle = width - 12 if phone or not both else width / 2 - 22
    ax = canvas.axes(52, top, middle, top + tall)
    for name, path in arms.items():
        ax.plot(*zip(*path, strict=True), **ARMS.get(name, OTHER_ARM))
    _token_axis(ax, f"objective, {unit(results)}")
    if both:
        left, top = (52, top + tall + 78) if phone else (width / 2 + 46, top)
        gap = canvas.axes(left, top, width - 12, top + tall)
        for name, path in arms.items():
            shared = [(tokens, prior[tokens] - value) for tokens, value in path if tokens in prior]
            if shared:
                gap.plot(*zip(*shared, strict=True), **ARMS.get(name, OTHER_ARM))
        _token_axis(gap, f"{unit(results)} below the prior")
    canvas.key(8, 12, [(name, ARMS.get(name, OTHER_ARM)) for name in arms])
    return canvas


def _token_axis(ax: Axes, title: str) -> None:
    ax.xaxis.set_major_formatter(lambda x, _: scaled(x))
    ax.locator_params(axis="x", nbins=4)
    ax.locator_params(axis="y", nbins=6)
    ax.set_xlabel("tokens seen")
    ax.set_title(title, color=SOFT, x=-0.12)


def _swarm(results: Results, width: int) -> _Canvas:
    values_R = np.array(results["swarm"]["objective"], dtype=float)
    marks = _swarm_marks(results)
    top = 22 + 19 * len(marks)
    canvas = _Canvas(width, top + 150 + 48)
    ax = canvas.axes(44, top, width - 14, top + 150)
    ax.hist(values_R, bins=min(40, 6 + len(values_R) // 5), color=PRIOR, alpha=0.55, edgecolor=PAPER, linewidth=1)
    ends = [*values_R, *(x for _, x, _ in marks)]
    edge = 0.04 * (max(ends) - min(ends)) or 1e-3
    ax.set_xlim(min(ends) - edge, max(ends) + edge)
    for row, (words, x, line) in enumerate(sorted(marks, key=lambda mark: -mark[1])):
        right = x > (max(ends) + min(ends)) / 2
        lift, colour = 8 + 19 * row, SOFT if line["color"] == PRIOR else line["color"]
        ax.axvline(x, ymax=1 + (lift + 4) / 150, clip_on=False, **line)
        said = f"{words} {number(x)}"
        look: Look = {
            "textcoords": "offset points",
            "ha": "right" if right else "left",
            "va": "center",
            "color": colour,
        }
        ax.annotate(said, (x, 1), (-6 if right else 6, lift), ax.get_xaxis_transform(), **look)
    ax.locator_params(axis="y", integer=True, nbins=4)
    ax.grid(visible=False, axis="x")
    ax.set_ylabel("runs")
    ax.set_xlabel(f"objective, {unit(results)} (lower is better)")
    return canvas


def _swarm_marks(results: Results) -> list[tuple[str, float, Look]]:
    """Words, value and look of the lines over the swarm's distribution: arms only where they share its scale."""
    arms = results["validation"]["arms"] if same_scale(results) else {}
    marks: list[tuple[str, float, Look]]
    marks = [(name, fmean(arms[name]["objective"]), ARMS[name]) for name in ("recommended", "prior") if name in arms]
    if "recommended" not in arms and finite(predicted := results["predicted"]["objective"]):
        marks.append(("recommended, predicted", predicted, ARMS["recommended"]))
    if finite(best := results["swarm"]["best"]):
        marks.append(("best of the swarm, one run", best, ARMS["best swarm point"]))
    return marks


CHARTS: Mapping[str, Callable[[Results, int], _Canvas]] = {
    "proportions": _proportions,
    "changes": _changes,
    "predictions": _predictions,
    "trajectories": _trajectories,
    "swarm": _swarm,
}
