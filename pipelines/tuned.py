"""Learning rates that were swept, kept in the store for later jobs of the same kind of proxy.

    store/tuned/<key>.json      what was swept, every rate with its losses, and the rate that was chosen

Written by `mixopt tune-proxy`, read by everything that derives a proxy's settings. Present means complete.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixopt.errors import DataError
from mixopt.files import write_atomically
from mixopt.job import Job
from mixopt.runs import Proxy
from pipelines.plan import Setting, setting
from proxies.sizes import Derived

SCHEMA = "mixopt.tuned/v1"
WITHIN = 2.0  # factor of tokens up to which a swept rate holds
FREE = {
    "tokens",
    "learning_rate",
    "checkpoints",
    "eval_tokens",
    "supply",
    "data",
    "precision",
    "horizons",
}  # need not be equal for a rate to hold
ABOUT = ("mixture", "objective", "proxy", "seeds")  # what the name of a file is made of


def save(store: Path, body: Mapping[str, Any]) -> Path:
    """Keep a sweep; the same question asked again has the same file."""
    about = json.dumps({key: body[key] for key in ABOUT}, sort_keys=True)
    path = store / "tuned" / f"{hashlib.sha256(about.encode()).hexdigest()[:20]}.json"
    write_atomically(path, json.dumps({"schema": SCHEMA, **body}, indent=1, allow_nan=False) + "\n")
    return path


def find(job: Job, store: Path, names: Sequence[str], vocabulary: int) -> Derived | None:
    """The swept learning rate for this job's proxies; None where there is none, or where the job gives its own.

    It must be of the same size, batch and optimiser, and of tokens within a factor of two. Of several that of the same
    domains and vocabulary comes first, then the nearest in tokens. Raises DataError for a file that cannot be read.
    """
    if job.proxies.learning_rate is not None:
        return None
    chosen = setting(job, len(names))
    found = []
    for path in sorted((store / "tuned").glob("*.json")):
        body = _read(path)
        distance = abs(math.log2(body["proxy"]["tokens"] / chosen.tokens))
        if _alike(body["proxy"], job, chosen) and distance <= math.log2(WITHIN):
            elsewhere = (body["domains"], body["vocabulary"]) != (sorted(names), vocabulary)
            found.append((elsewhere, distance, path.name, body))
    return derived(min(found, key=lambda item: item[:3])[3]) if found else None


def derived(body: Mapping[str, Any]) -> Derived:
    """The chosen rate of a sweep, with the sentence that says where it is from."""
    rate, proxy = body["learning_rate"], body["proxy"]
    what = f"{proxy['size']} proxies of {proxy['tokens']:,} tokens"
    return Derived(rate, f"learning rate {rate:.3g}: tuned for {what} (mixopt tune-proxy)")


def _alike(proxy: Mapping[str, Any], job: Job, chosen: Setting) -> bool:
    """Whether a swept proxy and the job's differ in nothing but FREE; what a job cannot choose has its default."""
    wanted = {field.name: field.default for field in fields(Proxy) if field.name not in FREE}
    wanted |= {"size": job.proxies.size, "sequence": chosen.shape.sequence, "batch": chosen.batch}
    wanted |= {"optimizer": job.proxies.optimizer}
    return all(proxy.get(key) == value for key, value in wanted.items())


def _read(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']!r}")
        if not body["proxy"]["tokens"] > 0 or not body["learning_rate"] > 0:
            raise ValueError("tokens and learning_rate must be positive")
        return {key: body[key] for key in (*ABOUT, "domains", "vocabulary", "learning_rate")}
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise DataError(f"tuned rates: {path} cannot be used ({e}). Delete it and run mixopt tune-proxy again.") from e
