"""The report's pictures: results document -> SVG, drawn by matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from mixopt.drawing import (
    BEST,
    COOL,
    INK,
    LINE,
    NARROW,
    PAPER,
    PRIOR,
    SOFT,
    WARM,
    WIDE,
    WORSE,
    Canvas,
    Chart,
    Look,
    element,
    elided,
    label_width,
    row_heights,
)
from mixopt.report_numbers import (
    SHOWN,
    Change,
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
    shown_effects,
    signed,
    unit,
)
from mixopt.uncertainty import STEP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARMS: Mapping[str, Look] = {
    "recommended": {"color": BEST, "linestyle": "-", "linewidth": 2.4},
    "prior": {"color": PRIOR, "linestyle": (0, (5, 2)), "linewidth": 2.0},
    "uniform": {"color": WARM, "linestyle": (0, (1.5, 1.5)), "linewidth": 2.0},
    "best swarm point": {"color": COOL, "linestyle": (0, (6, 2, 1.5, 2)), "linewidth": 2.0},
}
OTHER_ARM: Look = {"color": SOFT, "linestyle": "-", "linewidth": 1.2}


def svg(name: str, results: Results, width: int = WIDE) -> str:
    """One picture of `CHARTS` as an SVG element: the same bytes for the same document."""
    return element(name, CHARTS[name], results, width)


def _proportions(results: Results, width: int) -> Canvas:
    domains = shown_domains(results)
    names, phone = [d["name"] for d in domains], width < NARROW
    pitch, left = 44 if phone else 30, label_width(names, phone)
    bottom = 48 + pitch * len(domains)
    canvas = Canvas(width, bottom + 46)
    split = left + 0.62 * (width - left)
    ax = canvas.axes(left, 48, split - 26, bottom)
    y_R = row_heights(ax, names, phone)
    for key, colour, side in (("recommended", BEST, -1), ("prior", PRIOR, 1)):
        share_R = [100 * d[key] for d in domains]
        ax.barh(y_R + side * 4.5 / pitch, share_R, height=8 / pitch, color=colour)
    look: Look = {"textcoords": "offset points", "va": "center", "size": 11, "color": BEST, "weight": "bold"}
    ends = (results.get("uncertainty") or {}).get("proportions") or {}
    reach = [max(d["recommended"], *ends.get(d["name"], ())) if ends else d["recommended"] for d in domains]
    for y, d, far in zip(y_R - 4.5 / pitch, domains, reach, strict=True):
        if ends:
            low, high = ends[d["name"]]
            ax.hlines(y, 100 * low, 100 * high, color=PAPER, linewidth=3.5)
            ax.hlines(y, 100 * low, 100 * high, color=INK, linewidth=1.5)
        ax.annotate(percent(d["recommended"]), (100 * far, y), (4, 0), **look)
    ax.set_xlim(0, 118 * max(*reach, *(d["prior"] for d in domains)))
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


def _changes(results: Results, width: int) -> Canvas:
    found = sorted(changes(results)[:SHOWN], key=lambda c: -c.mean)
    phone = width < NARROW
    labels = [c.label for c in found]
    pitch, left = 44 if phone else 28, label_width(labels, phone)
    bottom = 8 + pitch * len(found)
    canvas = Canvas(width, bottom + 46)
    ax = canvas.axes(left, 8, width - 84, bottom)
    y_R = row_heights(ax, labels, phone)
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


def _effects(results: Results, width: int) -> Canvas:
    found, phone = shown_effects(results), width < NARROW
    pitch, left = 48 if phone else 34, label_width(found, phone)
    bottom = 34 + pitch * len(found)
    canvas = Canvas(width, bottom + 46)
    ax = canvas.axes(left, 34, width - 20, bottom)
    y_R = row_heights(ax, list(found), phone)
    ax.axvline(0, color=SOFT, linewidth=1.2)
    for y, ways in zip(y_R, found.values(), strict=True):
        for way, shape, side in (("up", ">", -1), ("down", "<", 1)):
            if change := ways[way]:
                at = y + side * 6 / pitch
                tone = Change(way, change["value"], change["low"], change["high"]).tone
                colour = {"better": BEST, "worse": WORSE, "noise": SOFT}[tone]
                ax.hlines(at, change["low"], change["high"], color=colour, linewidth=2)
                fill = PAPER if tone == "noise" else colour
                ax.plot([change["value"]], [at], shape, color=fill, markeredgecolor=colour, markersize=7)
    ends = [x for ways in found.values() for c in ways.values() if c for x in (0.0, c["value"], c["low"], c["high"])]
    edge = 0.06 * (max(ends) - min(ends)) or 1.0
    ax.set_xlim(min(ends) - edge, max(ends) + edge)
    ax.locator_params(axis="x", nbins=5 if phone else 9)
    ax.set_xlabel(f"gain{'' if phone else ' over the recommendation'}, {unit(results)} (right is better)")
    mark: Look = {"markevery": [1], "color": SOFT, "linestyle": "none"}
    step = f"{100 * STEP:g} points"
    canvas.key(left - 8, 14, [(f"{step} more", {"marker": ">", **mark}), (f"{step} less", {"marker": "<", **mark})])
    return canvas


def _predictions(results: Results, width: int) -> Canvas:
    fit, phone = results["fit"], width < NARROW
    scores = {m: s["spearman"] for m, s in fit["targets"].items() if finite(s["spearman"])}
    shown = list(scores)[:SHOWN]
    side = width - 66 if phone else 320
    pitch = 44 if phone else min(max(27, (side - 24) / max(len(shown), 1)), 42)
    top = 36 + side + 100 if phone else 60
    tall = pitch * len(shown)
    canvas = Canvas(width, max(36 + side, top + tall) + 48)
    _scatter(canvas.axes(50, 36, 50 + side, 36 + side), results)
    if shown:
        labels = [elided(label(m), 22) for m in shown]
        left = label_width(labels, phone) + (0 if phone else 50 + side + 20)
        ax = canvas.axes(left, top, width - 16, top + tall)
        y_R = row_heights(ax, labels, phone)
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


def _trajectories(results: Results, width: int) -> Canvas:
    arms = {t["label"]: t["points"] for t in results["trajectories"]}
    prior = {tokens: value for tokens, value in arms.get("prior", [])}
    phone = width < NARROW
    tall, top = (210, 78) if phone else (260, 66)
    both = len(prior) > 0 and len(arms) > 1
    canvas = Canvas(width, top + tall + 48 + (tall + 78 if phone and both else 0))
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


def _swarm(results: Results, width: int) -> Canvas:
    values_R = np.array(results["swarm"]["objective"], dtype=float)
    marks = _swarm_marks(results)
    top = 22 + 19 * len(marks)
    canvas = Canvas(width, top + 150 + 48)
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


CHARTS: Mapping[str, Chart] = {
    "proportions": _proportions,
    "changes": _changes,
    "effects": _effects,
    "predictions": _predictions,
    "trajectories": _trajectories,
    "swarm": _swarm,
}
