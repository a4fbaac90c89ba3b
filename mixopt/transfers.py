"""What full runs measured, kept beside the proxies' records: what later searches know of the way up in size.

    store/transfers/3fa9c1....json        a full run: mixture, parameters, tokens, BPB of every domain

One file for each, named by the hash of its content and renamed into place: recorded twice is recorded once, and jobs share
them as they share runs. Bits per byte compare between tokenizers, so runs of any training stack may stand side by side.

Runs say something of one another where they measured the same text at one scale: parameters and tokens within 5 %.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from mixopt.errors import DataError
from mixopt.files import write_atomically
from mixopt.mixture import Mixture

SCHEMA = "mixopt.transfer/v1"
SAME_SCALE = 1.05  # factor of parameters and of tokens
SAME_MIXTURE = 0.01  # Euclidean distance under which two mixtures teach the same
LEAST_MIXTURES = 2


@dataclass(frozen=True)
class Scale:
    """How large a run is. `parameters` None: nobody said."""

    parameters: float | None
    tokens: float

    def far(self, other: Scale) -> float:
        """How far apart two scales are, in factors of e; parameters count where both are known."""
        apart = abs(math.log(self.tokens / other.tokens))
        if self.parameters and other.parameters:
            apart += abs(math.log(self.parameters / other.parameters))
        return apart

    def same(self, other: Scale) -> bool:
        """Whether results at both may be compared as if at one."""
        pairs = [(self.tokens, other.tokens), (self.parameters or 1.0, other.parameters or 1.0)]
        return all(abs(math.log(a / b)) <= math.log(SAME_SCALE) for a, b in pairs)


@dataclass(frozen=True)
class FullRun:
    """A training at full scale, and what it measured.

    `mixture` is the mean of what it read; `fixed` says that it never changed on the way. `metrics` are "bpb/<domain>".
    `text` are the fingerprints of the domains that were measured, by name; `tokenizer` is what the run read with.
    """

    mixture: Mixture
    parameters: int
    tokens: int
    metrics: Mapping[str, float]
    text: Mapping[str, str]
    tokenizer: str
    fixed: bool = True
    model: str = ""
    job: str = ""

    @property
    def id(self) -> str:
        """Hash of all but the labels for people, 20 hexadecimal digits."""
        about = {key: value for key, value in self.to_json().items() if key not in ("model", "job")}
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def scale(self) -> Scale:
        """Its parameters and tokens."""
        return Scale(self.parameters, self.tokens)

    def to_json(self) -> dict[str, Any]:
        """Plain data, enough to make it again; floats survive to the last bit."""
        body = {field.name: getattr(self, field.name) for field in fields(self)}
        return body | {key: dict(body[key]) for key in ("mixture", "metrics", "text")}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> FullRun:
        """The run that `to_json` described."""
        given = {field.name: body[field.name] for field in fields(cls)}
        return cls(**given | {"mixture": Mixture(body["mixture"])})


@dataclass(frozen=True)
class Transfers:
    """The full runs that a store remembers."""

    root: Path

    def add(self, run: FullRun) -> bool:
        """Keep a run; False where it was there already."""
        path = self.root / "transfers" / f"{run.id}.json"
        known = path.exists()
        body = {"schema": SCHEMA, "id": run.id, **run.to_json()}
        write_atomically(path, json.dumps(body, indent=1, allow_nan=False) + "\n")
        return not known

    def about(self, text: Mapping[str, str]) -> tuple[FullRun, ...]:
        """The runs that measured this text, by their ids. Raises DataError for a file that is not what `add` wrote."""
        runs = [_read(path) for path in sorted((self.root / "transfers").glob("*.json"))]
        return tuple(run for run in runs if dict(run.text) == dict(text))


def comparable(runs: Sequence[FullRun], run: FullRun) -> list[FullRun]:
    """Those at the scale of `run` that kept one mixture throughout, `run` itself where it did."""
    return [other for other in runs if other.fixed and other.scale.same(run.scale)]


def mixtures(runs: Sequence[FullRun]) -> list[Mixture]:
    """The mixtures that differ among these runs."""
    found: list[Mixture] = []
    for run in runs:
        if all(apart(run.mixture, other) >= SAME_MIXTURE for other in found):
            found.append(run.mixture)
    return found


def apart(one: Mixture, other: Mixture) -> float:
    """Euclidean distance of two mixtures of the same domains."""
    return math.dist([one[name] for name in one], [other[name] for name in one])


def telling(runs: Sequence[FullRun], proxies: Scale, target: Scale) -> tuple[FullRun, ...]:
    """The runs that say which mixtures are better at the target's scale than the proxies can: none, or those of one scale.

    They must have kept their mixtures, be of two mixtures at least and nearer to the target than the proxies are; of
    several scales the nearest counts.
    """
    groups = [tuple(comparable(runs, run)) for run in runs if run.fixed]
    enough = [g for g in groups if len(mixtures(g)) >= LEAST_MIXTURES and _distance(g, target) < proxies.far(target)]
    return min(enough, key=lambda group: _distance(group, target), default=())


def _distance(group: Sequence[FullRun], target: Scale) -> float:
    return min(run.scale.far(target) for run in group)


def _read(path: Path) -> FullRun:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        if body["schema"] != SCHEMA:
            raise ValueError(f"schema {body['schema']!r}")
        run = FullRun.from_json(body)
        if run.id != body["id"] or path.stem != run.id:
            raise ValueError(f"its content is that of {run.id}")
        return run
    except (OSError, ValueError, KeyError, TypeError, DataError) as e:
        raise DataError(f"full runs: {path} cannot be used ({e}). Delete it and run mixopt feedback again.") from e
