"""What a comparison leaves for a tracker to show: one run for each method, so that a table of runs is the leaderboard.

In the question's experiment `compare/<job>-s<seed>` has the report, the leaderboard and its files. Below it stands a run for
each method with gains, costs, and its proportions over the final run; step = tokens in thousands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from mixopt import page
from mixopt.compare import READINGS, cost, rivals
from mixopt.mixture import Mixture
from mixopt.report_comparison import board, cells, digits, sentences
from pipelines.outbox import (
    NOTE,
    PARENT,
    Entry,
    Question,
    digest,
    finite,
    mixture_params,
    mixture_shape,
    mixture_table,
    numbers,
)

FILES = ("report.html", "report.md", "leaderboard.csv", "compare.json", "job.lock.yaml")
ORDER = "gain/same_total"
COLUMNS = (
    "1 same total",
    "2 half 95 pct",
    "3 same final",
    "4 half 95 pct",
    "5 search",
    "6 final run",
    "7 worst domain",
)


def comparison_entries(question: Question, document: Mapping[str, Any]) -> list[Entry]:
    """The comparison, then its methods, those that failed too. All change together: methods refer to the comparison."""
    name = f"{question.name}-s{question.seed}"
    version = digest(json.dumps([document["rows"], document["search"], document["target"]], sort_keys=True))
    this = {"mixopt.comparison": f"{name}-{version}"}
    sides = {f"{side}.{key}": value for side in ("search", "target") for key, value in document[side].items()}
    own = Entry(
        experiment=question.experiment,
        key=f"compare/{name}",
        name=f"compare/{name}",
        version=version,
        tags=question.tags("compare") | this | {NOTE: _note(document)},
        seconds=document["seconds"],
        params={key: str(value) for key, value in {**sides, "seeds": len(document["seeds"])}.items()},
        metrics=[(f"best/{reading}", gain, 0) for reading, gain in _best(document).items()],
        files=[f"../{file}" for file in FILES],
        view={
            "key": digest(f"compare/{name}"),
            "tags": {"mixopt.kind": "method", **this},
            "order": ORDER,
            "params": COLUMNS,
        },
    )
    return [own, *(_method(question, row, own, _shown(row, digits(document))) for row in document["rows"])]


def _shown(row: Mapping[str, Any], decimals: int) -> dict[str, str]:
    """The method's line of the leaderboard as parameters: short, since columns are narrow."""
    if row["error"]:
        return dict.fromkeys(COLUMNS, "") | {COLUMNS[0]: "failed"}
    _, gains, costs, worst = cells(row, decimals)
    return dict(zip(COLUMNS, (*gains[0], *gains[1], *costs, worst), strict=True))


def _method(question: Question, row: Mapping[str, Any], parent: Entry, shown: Mapping[str, str]) -> Entry:
    """One method: `shown` is its line of the leaderboard, its gains are what the table is sorted by.

    One that failed is a run like the others, so that it is replaced with them.
    """
    mixture = Mixture.normalised(row["mixture"]) if row["mixture"] else None
    final = _gains(row) | numbers("cost", cost(row)) | numbers("evidence", row["evidence"])
    params = {"method": row["name"], **{f"method.{key}": value for key, value in row["knobs"].items()}, **shown}
    params |= {"size": parent.params["target.size"], "tokens": parent.params["target.tokens"]}
    tags = question.tags("method") | {"mixopt.comparison": parent.tags["mixopt.comparison"]}
    if row["worst_domain"]:
        final["worst_domain/change"] = row["worst_domain"]["change_percent"]
    if row["error"]:
        tags["mixopt.failure"] = row["error"]
    if said := sentences([row]):
        tags[NOTE] = "\n\n".join(said)
    if mixture:
        final |= mixture_shape(question.space, mixture)
        params |= mixture_params(mixture)
    return Entry(
        experiment=question.experiment,
        key=f"method/{parent.key}/{row['method']}",
        name=row["method"],
        version=parent.version,
        tags=tags,
        seconds=final["cost/seconds"],
        links={PARENT: parent.key},
        params={key: str(value) for key, value in params.items()},
        metrics=[*((key, value, 0) for key, value in final.items()), *_proportions(row)],
        texts=mixture_table(mixture) if mixture else {},
    )


def _gains(row: Mapping[str, Any]) -> dict[str, float]:
    """Both gains with the ends of their intervals; the objective and each domain's loss in the same final run."""
    found: dict[str, float] = {}
    for reading in READINGS:
        if row[reading]:
            gain = row[reading]["gain"]
            found |= {f"gain/{reading}": gain["mean"], f"gain/{reading}_low": gain["low"]}
            found[f"gain/{reading}_high"] = gain["high"]
    if final := row["same_final"]:
        found |= {"obj/value": fmean(final["objective"].values()), **final["metrics"]}
    return finite(found)


def _proportions(row: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Each proportion where a mixture begins and where it ends: steps, as they were."""
    points: dict[tuple[str, int], float] = {}
    begin = 0
    for end, mixture in row["proportions"]:
        for name, share in mixture.items():
            points[f"p/{name}", end // 1000] = share
            points.setdefault((f"p/{name}", begin // 1000), share)
        begin = end
    return [(key, share, step) for (key, step), share in points.items()]


def _best(document: Mapping[str, Any]) -> dict[str, float]:
    """The largest gain of a method in each reading."""
    rows = rivals(document["rows"])
    return {reading: max(row[reading]["gain"]["mean"] for row in rows) for reading in READINGS if rows}


def _note(document: Mapping[str, Any]) -> str:
    said = [f"**{document['name']}**: {document['verdict']['same_total']}", document["verdict"]["same_final"]]
    said.append(page.table_text(board(document)))
    return "\n\n".join([*said, *sentences(document["rows"])])
