"""A page of sentences, tables and pictures, as HTML that needs no network and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mixopt import drawing
from mixopt.files import write_atomically
from mixopt.report_blocks import Block, Chart, Fold, Table
from mixopt.report_numbers import Results

LIGHT, DARK = (
    "".join(f"--{name}:{value};" for name, value in theme.items()) for theme in (drawing.LIGHT, drawing.DARK)
)
STYLE = f"""
:root {{ {LIGHT} --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  color-scheme: light dark; }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK} }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--sans);
  -webkit-text-size-adjust: 100%; }}
main {{ max-width: 808px; margin: 0 auto; padding: 40px 24px 72px; }}
h1 {{ font-size: 30px; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 4px; overflow-wrap: anywhere; }}
h2 {{ font-size: 20px; line-height: 1.3; letter-spacing: -.01em; margin: 56px 0 8px; padding-top: 16px;
  border-top: 1px solid var(--line); }}
p, ul {{ margin: 10px 0; max-width: 68ch; overflow-wrap: anywhere; }}
ul {{ padding-left: 20px; }}
li {{ margin: 4px 0; }}
.subtitle, figcaption, summary, .tile span {{ color: var(--soft); }}
.subtitle {{ margin: 0; }}
.verdict {{ font-size: 21px; line-height: 1.4; font-weight: 600; margin: 28px 0; padding-left: 16px;
  border-left: 4px solid var(--prior); }}
.verdict.better {{ border-color: var(--best); }}
.verdict.worse {{ border-color: var(--worse); }}
.tiles {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 20px 24px; }}
.tile {{ display: grid; font-size: 13.5px; line-height: 1.4; align-content: start; overflow-wrap: anywhere; }}
.tile b {{ font-size: 24px; line-height: 1.35; font-weight: 600; letter-spacing: -.01em; }}
.scroll {{ overflow-x: auto; margin: 16px 0; }}
.pair {{ display: inline-block; vertical-align: top; max-width: 100%; margin-right: 44px; }}
.dense table {{ font-size: 13px; }}
table {{ border-collapse: separate; border-spacing: 0; font-size: 14.5px; line-height: 1.4;
  font-variant-numeric: tabular-nums; }}
th, td {{ padding: 6px 0 6px 22px; text-align: left; vertical-align: baseline; }}
.dense th, .dense td {{ padding-left: 13px; }}
main th:first-child, main td:first-child {{ padding-left: 0; min-width: 128px; overflow-wrap: anywhere;
  position: sticky; left: 0; background: var(--paper); }}
thead th {{ font-weight: 500; font-size: 13px; max-width: 144px; color: var(--soft); vertical-align: bottom;
  line-height: 1.3; border-bottom: 1px solid var(--soft); }}
tbody th {{ font-weight: 500; }}
tbody tr + tr > * {{ border-top: 1px solid var(--line); }}
.r {{ text-align: right; }}
td.r {{ white-space: nowrap; }}
.better td:last-child {{ color: var(--best); font-weight: 600; }}
.worse td:last-child {{ color: var(--worse); font-weight: 600; }}
.bound td:last-child {{ color: var(--warm); font-weight: 600; }}
figure {{ margin: 24px 0; }}
figure svg {{ display: block; max-width: 100%; height: auto; }}
figure svg.phone {{ display: none; }}
figcaption {{ font-size: 13.5px; margin-top: 8px; max-width: 76ch; }}
details {{ margin: 14px 0; }}
summary {{ cursor: pointer; font-size: 14.5px; }}
pre {{ font-size: 13px; line-height: 1.45; overflow: auto; max-height: 420px; padding: 12px 14px; border-radius: 4px;
  border: 1px solid var(--line); }}
@media screen and (max-width: 640px) {{
  main {{ padding: 24px 16px 48px; }}
  h1 {{ font-size: 25px; }}
  .verdict {{ font-size: 18.5px; margin: 20px 0; }}
  .tiles {{ grid-template-columns: 1fr 1fr; }}
  h2 {{ margin-top: 40px; }}
  table {{ font-size: 13px; }}
  thead th {{ font-size: 12px; }}
  th, td {{ padding-left: 10px; }}
  main th:first-child, main td:first-child {{ min-width: 116px; }}
  figure svg.wide {{ display: none; }}
  figure svg.phone {{ display: block; }}
}}
@media print {{
  body {{ font-size: 10.5pt; }}
  main {{ max-width: none; padding: 0; }}
  h2 {{ margin-top: 28px; break-after: avoid; }}
  figure, tr, .tile {{ break-inside: avoid; }}
  pre, .scroll {{ overflow: visible; max-height: none; }}
}}
"""


@dataclass(frozen=True)
class Page:
    """What a page says, before any format.

    `document` is what the `charts` draw, by the names that its sections use. `tone` (better, worse, noise) colours the
    `verdict`; `tiles` are label, value and explanation of the few numbers at the top.
    """

    document: Results
    title: str
    subtitle: str
    tone: str
    verdict: str
    tiles: Sequence[tuple[str, str, str]]
    sections: Mapping[str, Sequence[Block]]
    charts: Mapping[str, drawing.Chart]


def html(page: Page) -> str:
    """The page, self-contained."""
    tiles = "".join(
        f'<div class="tile"><span>{escape(name)}</span><b>{escape(value)}</b><span>{escape(words)}</span></div>\n'
        for name, value, words in page.tiles
    )
    body = "".join(_section(title, blocks, page) for title, blocks in page.sections.items())
    name = escape(page.document["name"])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}: {escape(page.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{name}</h1>\n<p class="subtitle">{escape(page.subtitle)}</p>\n'
        f'<p class="verdict {page.tone}">{escape(page.verdict)}</p>\n<div class="tiles">\n{tiles}</div>\n'
        f"{body}</main>\n</body>\n</html>\n"
    )


def markdown(page: Page) -> str:
    """The page as Markdown: the same sentences and tables, no pictures."""
    parts = [f"# {_plain(page.document['name'])}", _plain(page.subtitle), f"**{_plain(page.verdict)}**"]
    parts.append("\n".join(f"- {_plain(f'{name}: {value} ({words})')}" for name, value, words in page.tiles))
    for title, blocks in page.sections.items():
        parts += [f"## {title}", *filter(None, map(_markdown, blocks))]
    return "\n\n".join(parts) + "\n"


def write(page: Page, out: Path) -> list[Path]:
    """Write `report.html` and `report.md` into `out`; each file is there completely or not at all."""
    pages = {out / "report.html": html(page), out / "report.md": markdown(page)}
    for path, text in pages.items():
        write_atomically(path, text)
    return list(pages)


def _section(title: str, blocks: Sequence[Block], page: Page) -> str:
    body = "".join(_html(block, page) for block in blocks)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}</section>\n"


def _html(block: Block, page: Page) -> str:
    match block:
        case str():
            return f"<p>{escape(block)}</p>\n"
        case tuple():
            items = "".join(f"<li>{escape(item)}</li>\n" for item in block)
            return f"<ul>\n{items}</ul>\n"
        case Table():
            return _html_table(block)
        case Chart():
            draw, sizes = page.charts[block.name], (drawing.WIDE, drawing.PHONE)
            wide, phone = (drawing.element(block.name, draw, page.document, width) for width in sizes)
            drawn = wide.replace("<svg", '<svg class="wide"', 1) + phone.replace("<svg", '<svg class="phone"', 1)
            return f"<figure>\n{drawn}<figcaption>{escape(block.caption)}</figcaption>\n</figure>\n"
        case Fold():
            folded = block.block
            inner = f"<pre>{escape(folded)}</pre>\n" if isinstance(folded, str) else _html(folded, page)
            return f"<details>\n<summary>{escape(block.summary)}</summary>\n{inner}</details>\n"


def _html_table(table: Table) -> str:
    sides = [' class="r"' if side == "r" else "" for side in table.align]
    titles = zip(sides, table.header, strict=True)
    head = "".join(f'<th scope="col"{side}>{escape(words)}</th>' for side, words in titles)
    body = ""
    for row, tone in zip(table.rows, table.tones or [""] * len(table.rows), strict=True):
        cells = "".join(f"<td{side}>{escape(words)}</td>" for side, words in zip(sides[1:], row[1:], strict=True))
        look = f' class="{tone}"' if tone else ""
        body += f'<tr{look}><th scope="row">{escape(row[0])}</th>{cells}</tr>\n'
    fit = " pair" if table.align == "lr" else " dense" if len(table.header) > 8 else ""
    return (
        f'<div class="scroll{fit}"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>\n'
    )


def _markdown(block: Block) -> str:
    match block:
        case str():
            return _plain(block)
        case tuple():
            return "\n".join(f"- {_plain(item)}" for item in block)
        case Table():
            return table_text(block)
        case Fold():
            inner = f"```\n{block.block}\n```" if isinstance(block.block, str) else _markdown(block.block)
            return f"<details><summary>{escape(block.summary)}</summary>\n\n{inner}\n\n</details>"
        case Chart():
            return ""


def table_text(table: Table) -> str:
    """A table in Markdown."""
    head, *rows = ([_plain(words) for words in row] for row in (table.header, *table.rows))
    rule = ["--:" if side == "r" else ":--" for side in table.align]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _plain(words: str) -> str:
    """Words that Markdown shows as they are, on one line."""
    return re.sub(r"([\\`*|<>\[\]&~])", r"\\\1", " ".join(words.split()))
