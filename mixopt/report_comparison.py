"""The report of a comparison: what a leaderboard document says, as one HTML page and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixopt import page
from mixopt.compare import READINGS, SCHEMA, clear, ranked, rivals
from mixopt.errors import DataError
from mixopt.page import Page
from mixopt.plots_comparison import CHARTS, mixes, tone
from mixopt.report_blocks import Block, Chart, Fold, Table
from mixopt.report_numbers import (
    MISSING,
    SHOWN,
    Results,
    duration,
    percent,
    places,
    plural,
    scaled,
    signed,
    unit,
)
from mixopt.validate import LEVEL, UNIFORM


def write(document: Results, out: Path) -> list[Path]:
    """Write `report.html` and `report.md` into `out`. Raises DataError for a document of another kind."""
    if document.get("schema") != SCHEMA:
        raise DataError(
            f"report: the comparison has schema {document.get('schema')!r} (allowed {SCHEMA!r}). Compare again."
        )
    return page.write(_page(document), out)


def board(document: Results) -> Table:
    """The leaderboard: both gains with half of their intervals, what they cost, and what got worst."""
    rows = [cells(row, digits(document)) for row in ranked(document["rows"])]
    header = ("Method", *(words.capitalize() for words in READINGS.values()), "Search", "Final", "Worst domain")
    return Table(header, [(name, *map(_joined, gains), *costs, worst) for name, gains, costs, worst in rows], "lrrrrr")


def cells(row: Mapping[str, Any], decimals: int) -> tuple[str, list[tuple[str, str]], tuple[str, str], str]:
    """Method, both gains with half of their intervals, tokens of the search and of the final run, the worst domain."""
    costs = scaled(row["search"]["tokens"]), scaled(row["same_total"]["tokens"])
    if row["as_uniform"]:
        said = "reference" if row["method"] == UNIFORM else "as uniform"
        return row["method"], [(said, "")] * 2, costs, MISSING
    found = [row[name]["gain"] for name in READINGS]
    gains = [(signed(g["mean"], decimals), f"{(g['high'] - g['low']) / 2:.{decimals}f}") for g in found]
    worst = row["worst_domain"]
    return row["method"], gains, costs, f"{worst['name']} {signed(worst['change_percent'], 1)} %"


def digits(document: Results) -> int:
    """Decimals that all gains share."""
    return places(row[name]["gain"]["mean"] for row in ranked(document["rows"]) for name in READINGS)


def _joined(gain: tuple[str, str]) -> str:
    return " ±".join(filter(None, gain))


def _page(document: Results) -> Page:
    best = [row for row in rivals(document["rows"]) if tone(row["same_total"]["gain"]) == "better"]
    return Page(
        document,
        "comparison of methods",
        _subtitle(document),
        "better" if best else "noise",
        document["verdict"]["same_total"],
        _tiles(document),
        {
            "Leaderboard": _leaderboard(document),
            "Proportions": _proportions(document),
            "Domains": _domains(document),
            "Cost": _cost(document),
            "How it was compared": _terms(document),
            "Provenance": [
                tuple(f"{key}: {value}" for key, value in document["provenance"].items() if key != "fingerprints")
            ],
        },
        CHARTS,
    )


def _subtitle(document: Results) -> str:
    methods, domains = plural(len(document["rows"]), "method"), plural(len(document["domains"]), "domain")
    target, seeds = document["target"], plural(len(document["seeds"]), "paired seed")
    return f"{methods} on {domains}; final runs of size {target['size']}, {scaled(target['tokens'])} tokens, {seeds}"


def _tiles(document: Results) -> list[tuple[str, str, str]]:
    rows, tiles = rivals(document["rows"]), []
    decimals = digits(document)
    for name, words in READINGS.items():
        if rows:
            first = max(rows, key=lambda row: row[name]["gain"]["mean"])
            gain = first[name]["gain"]
            sure = "interval above zero" if tone(gain) == "better" else "interval holds zero"
            if tone(gain) == "worse":
                sure = "interval below zero"
            tiles.append((f"First at the {words}", signed(gain["mean"], decimals), f"{first['method']}, {sure}"))
    search = document["search"]
    proxies = f"tokens: {search['count']} proxies of {scaled(search['tokens'])}"
    tiles.append(("Search budget of each", scaled(search["budget"]), proxies))
    tiles.append(("Final run", scaled(document["target"]["tokens"]), f"tokens, size {document['target']['size']}"))
    return tiles


def _leaderboard(document: Results) -> list[Block]:
    about = (
        f"Gains are {unit(document)} saved against uniform, means over {plural(len(document['seeds']), 'paired seed')} with "
        f"{100 * LEVEL:.0f} % intervals. At the same total a final run gets what its method did not spend on searching, "
        "uniform's too; in the same final run every method has equally many tokens, whatever its search cost."
    )
    blocks: list[Block] = [document["verdict"]["same_final"], about]
    if rivals(document["rows"]):
        caption = "Lines are the intervals; filled marks are those that exclude zero. Uniform is the line at zero in both readings."
        blocks += [
            Chart("forest", caption),
            "Gains, with half of the interval behind the ±; tokens of the search and of the final run at the same total.",
            board(document),
        ]
        blocks.append(
            "The worst domain is that whose bits per byte rise most against uniform in the same final run, in percent of uniform's."
        )
    if said := sentences(document["rows"]):
        blocks.append(tuple(said))
    return blocks


def _proportions(document: Results) -> list[Block]:
    rows = ranked(document["rows"])
    names = sorted(document["domains"], key=lambda name: -max((row["mixture"][name] for row in rows), default=0.0))
    cells = [(name, *(percent(row["mixture"][name]) for row in rows)) for name in names[:SHOWN]]
    blocks: list[Block] = [
        "Share of training tokens over the whole final run, at the first seed.",
        Table(("Domain", *(row["method"] for row in rows)), cells, "l" + "r" * len(rows)),
    ]
    if any(map(mixes, rows)):
        caption = "Share of tokens in %, over the final run of the first seed, of the methods that change it while they train."
        blocks.append(Chart("mixing", f"{caption} In colour: the domains that move most."))
    return blocks


def _domains(document: Results) -> list[Block]:
    rows = rivals(ranked(document["rows"]))
    if not rows:
        return ["No method was measured."]
    reach = {name: max(abs(row["changes"][name]["mean"]) for row in rows) for name in document["domains"]}
    names = sorted(reach, key=lambda name: -reach[name])[:SHOWN]
    cells = [(name, *(_change(row["changes"][name]) for row in rows)) for name in names]
    count = len(names) * len(rows)
    about = (
        "Bits per byte of each domain in the same final run, change against uniform in percent: negative is better. A star "
        f"marks intervals that exclude zero; of {plural(count, 'cell')} that are pure noise about {(1 - LEVEL) * count:.2g} "
        "would have one."
    )
    return [
        about,
        Table(("Domain", *(row["method"] for row in rows)), cells, "l" + "r" * len(rows)),
    ]


def _change(change: Mapping[str, float]) -> str:
    return signed(100 * change["mean"], 1) + ("*" if clear(change) else "")


def _cost(document: Results) -> list[Block]:
    rows = [*ranked(document["rows"]), *(row for row in document["rows"] if row["error"])]
    header = (
        "Method",
        "Search runs",
        "Search tokens",
        "Final tokens",
        "Trained in it",
        "Search, worker time",
        "One final run",
    )
    cells = []
    for row in rows:
        search, total = row["search"], row["same_total"]
        final = ("tokens", "trained_tokens")
        ends = [*(scaled(total[key]) for key in final)] if total else [MISSING] * 2
        last = duration(total["seconds"]) if total else MISSING
        cells.append(
            (row["method"], f"{search['runs']:,}", scaled(search["tokens"]), *ends, duration(search["seconds"]), last)
        )
    told = tuple(
        f"{row['method']}: {', '.join(f'{key} {value:.3g}' for key, value in row['evidence'].items())}"
        for row in rows
        if row["evidence"]
    )
    said = "Runs that several methods ask for are trained once and charged to each. Final runs are those of the same total."
    made = f"{plural(document['runs_trained'], 'run')} trained here, {document['runs_reused']:,} found in the store."
    return [f"{said} {made}", Table(header, cells, "lrrrrrr"), *([told] if told else [])]


def _terms(document: Results) -> list[Block]:
    knobs = [
        (row["method"], row["name"], ", ".join(f"{key}={value}" for key, value in row["knobs"].items()) or MISSING)
        for row in document["rows"]
    ]
    return [
        *([tuple(document["notes"])] if document["notes"] else []),
        Fold("The methods' knobs", Table(("Method", "Name", "Knobs"), knobs, "lll")),
        Fold("Where the numbers of the setting are from", "\n".join(document["derived"])),
    ]


def sentences(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What went wrong with methods, and what must be said of them."""
    failed = [f"{row['method']} was not measured: {row['error']}" for row in rows if row["error"]]
    return [*failed, *(f"{row['method']}: {note}" for row in rows for note in row["notes"])]
