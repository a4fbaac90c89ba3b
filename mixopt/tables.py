"""Swarms and domains as CSV files: results made elsewhere come in, results made here go out.

A swarm is two files with one line for each run: ratios (proportions by domain) and metrics. They are joined on `run`,
`run_id` or `index`, the first that both have. RegMix's names are understood: `train_the_pile_arxiv` is the domain
`arxiv`, `metric/the_pile_arxiv_val_loss` its metric `arxiv`.

Shapes: R runs, D domains, M metrics.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mixopt.domains import Domain
from mixopt.errors import DataError, did_you_mean
from mixopt.files import write_atomically
from mixopt.mixture import SUM_TOLERANCE, FloatArray, Mixture
from mixopt.runs import Swarm

KEYS = ("run", "run_id", "index")
ROUNDED = (0.996, 1.003)
REGMIX_PREFIXES = ("train_", "the_pile_")
REGMIX_METRIC = re.compile(r"metric/(?:the_pile_)?(.+)_val_loss")
DOMAIN_COLUMNS = ("domain", "tokens", "prior", "lower", "upper")


@dataclass(frozen=True)
class Table:
    """A swarm read from files: domains and metrics sorted by name, runs in the order of the ratios' file."""

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    runs: tuple[str, ...]
    X_RD: FloatArray
    Y_RM: FloatArray
    notes: tuple[str, ...]


def read_swarm(ratios: Path, metrics: Path) -> Table:
    """Read proportions and metrics and join them.

    Columns without a single number (names, comments) are left out and noted. Lines that sum to 0.996 ... 1.003, as
    rounded proportions do, are scaled to sum 1, and that is noted.

    Raises DataError for a file, line or cell that cannot be used.
    """
    left, right = _read(ratios), _read(metrics)
    key = next((key for key in KEYS if key in left.columns and key in right.columns), None)
    if key is None:
        raise DataError(
            f"{ratios} and {metrics}: no column to join on. Give both files one of "
            f"{', '.join(KEYS)} (columns: {_some(list(left.columns))}; commas must separate them)."
        )
    left, right = _by(key, left, ratios), _by(key, right, metrics)
    for here, there, path in ((left, right, metrics), (right, left, ratios)):
        if missing := [run for run in here.index if run not in there.index]:
            raise DataError(f"{path}: no line for {key} {_some(missing)}. Both files need one line for each run.")

    notes: list[str] = []
    domains, X_RD = _numbers(left, ratios, notes)
    columns, Y_RM = _numbers(right.loc[left.index], metrics, notes)
    names = canonical(domains)
    measured = [metric_name(column) for column in columns]
    for what, found, path in (("domain", names, ratios), ("metric", measured, metrics)):
        if twice := _twice(found):
            raise DataError(f"{path}: two columns for {what} {_some(twice)}. Leave one of them.")
    X_RD = _scaled(X_RD, left.index, ratios, notes)
    return Table(
        names=tuple(sorted(names)),
        metrics=tuple(sorted(measured)),
        runs=tuple(left.index),
        X_RD=X_RD[:, np.argsort(names)],
        Y_RM=Y_RM[:, np.argsort(measured)],
        notes=tuple(notes),
    )


def write_swarm(swarm: Swarm, names: Sequence[str], metrics: Sequence[str], out_dir: Path) -> list[Path]:
    """Write `ratios.csv` and `metrics.csv` of the good runs, as `read_swarm` reads them, floats to the last bit.

    A file that is there is complete.
    """
    good, written = swarm.good, []
    runs = [record.spec.id for record in good.records]
    for name, columns, table in (
        ("ratios.csv", names, good.mixtures_RD(names)),
        ("metrics.csv", metrics, good.metrics_RM(metrics)),
    ):
        frame = pd.DataFrame(table, columns=list(columns), index=pd.Index(runs, name=KEYS[0]))
        written.append(path := out_dir / name)
        write_atomically(path, frame.to_csv(lineterminator="\n"))
    return written


def read_domains(path: Path) -> tuple[tuple[Domain, ...], Mixture | None, dict[str, float], dict[str, float]]:
    """Domains with the tokens that the real run can draw, their prior if given, and lower and upper bounds.

    Columns: domain (or name), tokens, and where wanted prior, lower, upper; an empty bound is no bound.
    Raises DataError for a file, column or cell that cannot be used.
    """
    frame = _read(path)
    if "domain" not in frame.columns:
        frame = frame.rename(columns={"name": "domain"})
    for column in frame.columns:
        if column not in DOMAIN_COLUMNS:
            raise DataError(f"{path}: unknown column {column!r}; {did_you_mean(column, DOMAIN_COLUMNS)}")
    for column in ("domain", "tokens"):
        if column not in frame.columns:
            raise DataError(f"{path}: no column {column!r}. Needed: domain, tokens; optional: prior, lower, upper.")
    frame = _by("domain", frame, path)
    names = canonical(list(frame.index))

    def values(key: str, largest: float = 1.0, *, optional: bool = False) -> dict[str, float]:
        cells = zip(names, frame[key], strict=True) if key in frame.columns else ()
        found = {name: _number(cell, f"{path}: {key} of {name}") for name, cell in cells if cell or not optional}
        for name, value in found.items():
            if not 0 <= value <= largest:
                raise DataError(f"{path}: {key} of {name}: must be between 0 and {largest:g} (got {value:g}).")
        return found

    domains = tuple(Domain(name, round(tokens)) for name, tokens in values("tokens", math.inf).items())
    try:
        prior = Mixture(values("prior")) if "prior" in frame.columns else None
    except DataError as e:
        raise DataError(f"{path}: column prior: {e}") from e
    return domains, prior, values("lower", optional=True), values("upper", optional=True)


def canonical(names: Sequence[str]) -> list[str]:
    """Domain names without RegMix's prefixes, where all of them have one."""
    for prefix in REGMIX_PREFIXES:
        if all(name.startswith(prefix) for name in names):
            names = [name.removeprefix(prefix) for name in names]
    return list(names)


def metric_name(column: str) -> str:
    """A metric's name, RegMix's without its prefix and suffix."""
    match = REGMIX_METRIC.fullmatch(column)
    return match[1] if match else column


def _read(path: Path) -> pd.DataFrame:
    """All cells as text, under the names of the first line."""
    try:
        cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig").fillna("")
    except (OSError, ValueError) as e:
        raise DataError(
            f"{path}: not readable as CSV in UTF-8 ({e}). Check the path and how the file was saved."
        ) from e
    frame = cells.iloc[1:].set_axis([name.strip() for name in cells.iloc[0]], axis=1)
    if twice := _twice(frame.columns):
        raise DataError(f"{path}: two columns are called {_some(twice)}. Leave one of them.")
    if frame.empty:
        raise DataError(f"{path}: no lines below the first, which names the columns.")
    return frame


def _by(key: str, frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The other columns, by the values of column `key`."""
    values = frame[key].str.strip()
    if (values == "").any():
        raise DataError(f"{path}: column {key} is empty in {int((values == '').sum())} lines. Give each line its own.")
    if twice := _twice(values):
        raise DataError(f"{path}: two lines for {key} {_some(twice)}. Leave one of them.")
    return frame.drop(columns=key).set_index(values)


def _numbers(frame: pd.DataFrame, path: Path, notes: list[str]) -> tuple[list[str], FloatArray]:
    """The columns that hold numbers, and these as an array."""
    columns = [column for column in frame.columns if column not in (*KEYS, "")]
    text = [column for column in columns if not any(_is_number(cell) for cell in frame[column]) and any(frame[column])]
    if text:
        notes.append(f"{path.name}: columns without a number are left out: {', '.join(text)}.")
    columns = [column for column in columns if column not in text]
    if not columns:
        raise DataError(f"{path}: no column of numbers. Is the separator a comma?")
    values = [
        [_number(row[c], f"{path}: {c} of {frame.index.name} {run}") for c in columns] for run, row in frame.iterrows()
    ]
    return columns, np.array(values)


def _scaled(X_RD: FloatArray, runs: Sequence[str], path: Path, notes: list[str]) -> FloatArray:
    """Proportions [R, D] with rows that sum to 1."""
    sum_R = X_RD.sum(axis=1)
    for run, row_D, total in zip(runs, X_RD, sum_R, strict=True):
        if (row_D < 0).any() or not ROUNDED[0] - SUM_TOLERANCE <= total <= ROUNDED[1] + SUM_TOLERANCE:
            raise DataError(
                f"{path}: the proportions of run {run} must be >= 0 and sum to 1 (got {total:.6g}, the smallest "
                f"{row_D.min():.6g}; rounding to {ROUNDED[0]} ... {ROUNDED[1]} is allowed). Correct or remove the line."
            )
    off_R = np.abs(sum_R - 1) > SUM_TOLERANCE
    if off_R.any():
        notes.append(
            f"{path.name}: {off_R.sum()} of {len(sum_R)} lines summed to {sum_R.min():.4g} ... {sum_R.max():.4g} "
            "and were scaled to sum 1."
        )
    return np.where(off_R[:, None], X_RD / sum_R[:, None], X_RD)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, where: str) -> float:
    if not _is_number(cell) or not math.isfinite(float(cell)):
        raise DataError(f"{where}: must be a finite number (got {cell!r}). Correct it, or remove the line.")
    return float(cell)


def _twice(values: Iterable[str]) -> list[str]:
    return [value for value, count in Counter(values).items() if count > 1]


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:5]) + (f" and {len(values) - 5} more" if len(values) > 5 else "")
