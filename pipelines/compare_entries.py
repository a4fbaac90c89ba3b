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
from mixopt.compare import READINGS, rivals
from mixopt.mixture import Mixture
from mixopt.report_comparison import board, sentences
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
COLUMNS = (
    *("gain/same_total", "gain/same_total_low", "gain/same_total_high"),
    *("gain/same_final", "gain/same_final_low", "gain/same_final_high"),
    *("cost/search_tokens", "cost/final_tokens", "cost/seconds", "worst_domain/change"),
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
            "order": COLUMNS[0],
            "metrics": COLUMNS,
        },
    )
    return [own, *(_method(question, row, own, this) for row in document["rows"])]


def _method(question: Question, row: Mapping[str, Any], parent: Entry, this: Mapping[str, str]) -> Entry:
    """One method: its gains are what the table is sorted by."""
    mixture = Mixture.normalised(row["mixture"]) if row["mixture"] else None
    final = _gains(row) | numbers("cost", _cost(row)) | numbers("evidence", row["evidence"])
    if row["worst_domain"]:
        final["worst_domain/change"] = row["worst_domain"]["change_percent"]
    if mixture:
        final |= mixture_shape(question.space, mixture)
    params = {"method": row["name"], **{f"method.{key}": value for key, value in row["knobs"].items()}}
    params |= {"size": parent.params["target.size"], "tokens": parent.params["target.tokens"]}
    if row["worst_domain"]:
        params["worst_domain"] = row["worst_domain"]["name"]
    failed = {"mixopt.failure": row["error"]} if row["error"] else {}
    note = {NOTE: "\n\n".join(said)} if (said := sentences([row])) else {}
    return Entry(
        experiment=question.experiment,
        key=f"method/{parent.key}/{row['method']}",
        name=row["method"],
        version=parent.version,
        tags=question.tags("method") | dict(this) | failed | note,
        seconds=final.get("cost/seconds", 0.0),
        error=row["error"],
        links={PARENT: parent.key},
        params={key: str(value) for key, value in params.items()} | (mixture_params(mixture) if mixture else {}),
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


def _cost(row: Mapping[str, Any]) -> dict[str, Any]:
    total = row["same_total"] or {"tokens": None, "seconds": 0.0}
    seconds = row["search"]["seconds"] + total["seconds"]
    return {"search_tokens": row["search"]["tokens"], "final_tokens": total["tokens"], "seconds": seconds}


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
