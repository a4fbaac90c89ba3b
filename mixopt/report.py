"""The report of a search: a results document as one HTML page that needs no network, and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path

from mixopt import page
from mixopt.errors import DataError
from mixopt.page import Page
from mixopt.plots import CHARTS
from mixopt.report_numbers import Results
from mixopt.report_text import highlights, sections, subtitle, verdict
from mixopt.results import SCHEMA


def html(results: Results) -> str:
    """The report as one self-contained page."""
    return page.html(_page(results))


def markdown(results: Results) -> str:
    """The report as Markdown: the same sentences and tables, no pictures."""
    return page.markdown(_page(results))


def write(results: Results, out: Path) -> list[Path]:
    """Write `report.html` and `report.md` into `out`; each file is there completely or not at all.

    Where `mixopt feedback` has compared a full run there, the report says so.
    """
    path = out / "feedback.json"
    known = {"feedback": json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}
    return page.write(_page({**results, **known}), out)


def _page(results: Results) -> Page:
    if results.get("schema") != SCHEMA:
        raise DataError(f"report: results have schema {results.get('schema')!r} (allowed {SCHEMA!r}). Search again.")
    tone, said = verdict(results)
    tiles, told = highlights(results), sections(results)
    return Page(results, "data mixture", subtitle(results), tone, said, tiles, told, CHARTS)
