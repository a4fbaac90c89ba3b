"""Full runs as they come in: the record that `mixopt train` wrote, or metrics of a run that another stack trained.

    {"parameters": 1_200_000_000, "tokens": 25_000_000_000, "metrics": {"bpb/web": 0.81, ...},
     "mixture": {"web": 0.5, ...}, "model": "1b", "tokenizer": "..."}         or a list of such objects

Without a mixture such a run is taken to have followed `mixture.json`. Metrics are bits per byte on the text that the search
held out: those compare between tokenizers, losses in nats per token do not and are refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixopt.errors import DataError, JobError, did_you_mean
from mixopt.handoff import Plan
from mixopt.mixture import Mixture
from mixopt.transfers import FullRun
from mixopt.yaml_text import parse_yaml
from pipelines.full import events
from pipelines.full.course import EVENTS, LOCK, RECORD

SCHEMA = "mixopt.full/v1"
KNOWN = ("parameters", "tokens", "metrics", "mixture", "model", "tokenizer")
BPB = "bpb/"


@dataclass(frozen=True)
class Asked:
    """What a run is read against: the plan that it was to follow, what its text is known by, and the search's name.

    `text` are the domains' fingerprints, `data` is that of all of them.
    """

    plan: Plan
    text: Mapping[str, str]
    data: str
    job: str

    @property
    def tokenizer(self) -> str:
        """The identity of the search's tokenizer."""
        return str((self.plan.tokenizer or {}).get("revision", ""))


def read(run_dir: Path, files: Sequence[Path], asked: Asked) -> list[FullRun]:
    """The full run of this run directory, where it has one, then those of the files: one at least.

    Raises JobError where there is none, DataError for what cannot be compared with the search.
    """
    record = run_dir / "full" / RECORD
    runs = []
    if record.exists():
        body = _parse(record)
        _refuse_another(body, record, asked)
        runs.append(_recorded(body, record, str(record), asked))
    for path in files:
        for where, body in _rows(path):
            recorded = body.get("schema") == SCHEMA
            runs.append(_recorded(body, path, where, asked) if recorded else _given(body, where, asked))
    if not runs:
        raise JobError(_none(run_dir))
    return runs


def _none(run_dir: Path) -> str:
    """What to say where nothing was trained to its end."""
    again = f"mixopt train {run_dir} --config full.yaml"
    told = events.read(run_dir / "full" / EVENTS)
    target = next((event["target_tokens"] for event in told if event["kind"] == "start"), None)
    if target is None:
        return (
            f"{run_dir / 'full' / RECORD}: there is no full run here. Train one, `{again}`, or give what another stack "
            f"measured: --metrics full.json."
        )
    return (
        f"{run_dir / 'full'}: the full run is not finished, {told[-1]['tokens']:,} of {target:,} tokens. Losses on the way "
        f"to a lower learning rate say nothing of the end: go on with `{again}`."
    )


def _refuse_another(body: Any, record: Path, asked: Asked) -> None:
    """Raise DataError for a run of another answer than this directory's."""
    trained = body.get("mixture_id") if isinstance(body, Mapping) else None
    if trained != asked.plan.id:
        raise DataError(
            f"{record}: the run trained mixture {trained}, mixture.json recommends {asked.plan.id}: the search was made again "
            f"since, or the file was changed. Move {record.parent} away and train, or move it and give its record as "
            f"--metrics: then it counts as a run on another mixture."
        )


def _recorded(body: Any, path: Path, where: str, asked: Asked) -> FullRun:
    """The run of a record: the mixture that it planned where that never changed, else what it drew."""
    if not isinstance(body, Mapping) or body.get("schema") != SCHEMA:
        schema = body.get("schema") if isinstance(body, Mapping) else None
        raise DataError(f"{where}: unknown schema {schema!r} (known: {SCHEMA!r}).")
    lock = path.parent / LOCK
    if lock.exists():
        data = parse_yaml(lock.read_text(encoding="utf-8"), str(lock))["derived"]["data"]
        if data != asked.data:
            raise DataError(
                f"{where}: the run read and was measured on other text ({data}) than the search ({asked.data}), so losses do "
                f"not compare. Were the held-out documents the same? Then give its figures as --metrics full.json."
            )
    planned = [mixture for _, mixture in body.get("trace") or ()]
    fixed = bool(planned) and all(mixture == planned[0] for mixture in planned)
    drawn = planned[0] if fixed else body.get("drawn")
    if not drawn:
        raise DataError(f"{where}: neither trace nor drawn says which mixture was trained. Write the record again.")
    mixture = _mixture(drawn, where, asked, scaled=not fixed)
    return _run(body, where, asked, mixture, fixed)


def _given(body: Mapping[str, Any], where: str, asked: Asked) -> FullRun:
    """A run that another stack trained, on one mixture."""
    for key in body:
        if key not in KNOWN:
            raise DataError(f"{where}: unknown key {key!r}; {did_you_mean(key, KNOWN)}")
    mixture = _mixture(body["mixture"], where, asked) if body.get("mixture") else asked.plan.mixture
    fixed = bool(body.get("mixture")) or not asked.plan.schedule
    return _run(body, where, asked, mixture, fixed)


def _run(body: Mapping[str, Any], where: str, asked: Asked, mixture: Mixture, fixed: bool) -> FullRun:
    return FullRun(
        mixture,
        _count(body, "parameters", where),
        _count(body, "tokens", where),
        _metrics(body.get("metrics"), where, asked.plan.names),
        dict(asked.text),
        str(body.get("tokenizer") or asked.tokenizer),
        fixed,
        str(body.get("model") or ""),
        asked.job,
    )


def _metrics(body: Any, where: str, names: Sequence[str]) -> dict[str, float]:
    """BPB of every domain; what else was measured is left out."""
    if not isinstance(body, Mapping) or not body:
        raise DataError(f"{where}: needs metrics, an object of {BPB}<domain> for each domain (got {body!r}).")
    for metric in body:
        if metric.startswith(BPB) and metric.removeprefix(BPB) not in names:
            domain = metric.removeprefix(BPB)
            raise DataError(
                f"{where}: {metric} is of a domain that the search did not have; {did_you_mean(domain, names)}"
            )
    missing = [name for name in names if BPB + name not in body]
    if missing:
        nats = [name for name in missing if f"loss/{name}" in body]
        hint = (
            " Losses in nats per token depend on the tokenizer and compare with nothing else: divide a document set's nats "
            "by ln 2 and by its bytes."
        )
        raise DataError(
            f"{where}: no {BPB}{missing[0]}"
            + (f" and {len(missing) - 1} others" if len(missing) > 1 else "")
            + f". Every domain of the search needs its bits per byte.{hint if nats else ''}"
        )
    found = {BPB + name: body[BPB + name] for name in names}
    for metric, value in found.items():
        if not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
            raise DataError(f"{where}: {metric} must be a positive number of bits per byte (got {value!r}).")
    return {metric: float(value) for metric, value in found.items()}


def _mixture(body: Any, where: str, asked: Asked, *, scaled: bool = False) -> Mixture:
    """A mixture over exactly the search's domains; `scaled` from counts of tokens."""
    try:
        mixture = Mixture.normalised(body) if scaled else Mixture(body)
        mixture.array(asked.plan.names)
        return mixture
    except (DataError, TypeError, ValueError, AttributeError) as e:
        raise DataError(f"{where}: the mixture cannot be used ({e})") from e


def _count(body: Mapping[str, Any], key: str, where: str) -> int:
    value = body.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value < math.inf:
        raise DataError(f"{where}: needs {key}, a positive whole number (got {value!r}).")
    return round(value)


def _rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The runs of a file, each with the words that find it."""
    body = _parse(path)
    rows = [(str(path), body)] if isinstance(body, dict) else [(f"{path}, run {k}", row) for k, row in enumerate(body)]
    for where, row in rows:
        if not isinstance(row, dict):
            raise DataError(f"{where}: must be an object (got {row!r}).")
    return rows


def _parse(path: Path) -> Any:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise DataError(f"{path}: cannot be read as JSON ({e}).") from e
    if not isinstance(body, dict | list):
        raise DataError(f"{path}: must be an object or a list of objects (got {type(body).__name__}).")
    return body
