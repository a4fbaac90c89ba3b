"""One training of one proxy: its specification before, its record after, and the swarm of them all.

Shapes: R runs, D domains, M metrics.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mixopt.errors import JobError, SwarmError, did_you_mean
from mixopt.mixture import FloatArray, Mixture, Schedule, Segment, condensed, mean
from mixopt.policies import from_json
from mixopt.policy import OnlinePolicy


@dataclass(frozen=True)
class Proxy:
    """Everything but the mixture and the seed that decides the numbers of a run.

    `sequence` is tokens per row, `batch` rows per step, `warmup` and `cooldown` fractions of training with a rising
    and a falling learning rate, `checkpoints` how often the held-out loss is measured, `eval_tokens` the held-out
    tokens read per domain each time. `supply` is the number of unique tokens of each domain that a run may draw
    (proxies repeat a domain as often as the real run would); `data` is the manifest's fingerprint. `optimizer` is
    "adamw" or "muon", `precision` that of matrix products, "float32" or "bfloat16". `horizons` are parts of the run at
    which it is also measured as if it ended there, its learning rate fallen. `version` changes when the trainer's
    numbers do.
    """

    size: str
    tokens: int
    sequence: int
    batch: int
    learning_rate: float
    checkpoints: int
    eval_tokens: int
    supply: Mapping[str, int]
    data: str
    warmup: float = 0.05
    cooldown: float = 0.5
    weight_decay: float = 0.1
    optimizer: str = "adamw"
    precision: str = "float32"
    horizons: tuple[float, ...] = ()
    version: int = 3

    @property
    def shared(self) -> Proxy:
        """What runs that train together have in common: all but learning rate and weight decay."""
        return replace(self, learning_rate=0.0, weight_decay=0.0)

    def lasting(self, tokens: int) -> Proxy:
        """The same proxy trained on so many tokens: its supply grows with them, so that it repeats domains as often."""
        supply = {name: max(1, round(count * tokens / self.tokens)) for name, count in self.supply.items()}
        return replace(self, tokens=tokens, supply=supply)


@dataclass(frozen=True)
class RunSpec:
    """What to train. Two specs with the same `id` are the same run, which is never trained twice.

    `keep` asks for the final weights to be kept, for runs that refer to this one.
    """

    feed: OnlinePolicy[Any]
    proxy: Proxy
    seed: int
    keep: bool = False

    @cached_property
    def id(self) -> str:
        """Hash of the canonical JSON, 20 hexadecimal digits."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def to_json(self) -> dict[str, Any]:
        """Plain data, enough to make the spec again."""
        body = {"feed": self.feed.to_json(), "proxy": asdict(self.proxy), "seed": self.seed}
        return body | ({"keep": True} if self.keep else {})

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> RunSpec:
        """The spec that `to_json` described."""
        proxy = Proxy(**body["proxy"] | {"horizons": tuple(body["proxy"].get("horizons", ()))})
        return cls(from_json(body["feed"]), proxy, body["seed"], body.get("keep", False))


@dataclass(frozen=True)
class Cost:
    """What a run took: training tokens, FLOPs (training and evaluation), seconds of one worker."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass(frozen=True)
class RunRecord:
    """What a run gave.

    `metrics` are the final values, keyed "bpb/code" (bits per byte of raw text) and "loss/code" (nats per token);
    `trajectory` holds (tokens seen, metrics) at each checkpoint; `horizons` the same at each of the proxy's horizons,
    where the learning rate had fallen; `trace` the segments the run went through, `state` what `policy.plain` makes of its
    policy's last state; `drawn` and `unique` the realised training tokens by domain. `error` is empty for a good run. A run that `diverged` has
    reached its end, badly; any other error may be gone the next time it is tried.
    """

    spec: RunSpec
    metrics: Mapping[str, float] = field(default_factory=dict)
    trajectory: tuple[tuple[int, Mapping[str, float]], ...] = ()
    horizons: tuple[tuple[int, Mapping[str, float]], ...] = ()
    trace: tuple[Segment, ...] = ()
    state: Any = None
    drawn: Mapping[str, int] = field(default_factory=dict)
    unique: Mapping[str, int] = field(default_factory=dict)
    cost: Cost = Cost()
    error: str = ""
    diverged: bool = False
    machine: Mapping[str, str] = field(default_factory=dict)

    @property
    def mixture(self) -> Mixture:
        """The token-weighted mean of the trace: for a static feed, its mixture to the last bit."""
        return mean([(segment.tokens, segment.mixture) for segment in self.trace])

    @property
    def why(self) -> str:
        """What went wrong, in one line: the end of `error`, of our own errors the sentence alone."""
        line = (self.error.strip().splitlines() or [""])[-1]
        return line.partition(": ")[2] if line.startswith("mixopt.errors.") else line

    @property
    def schedule(self) -> Schedule:
        """The trace as a plan of a few phases with the same mean."""
        return condensed(self.trace)

    def to_json(self) -> dict[str, Any]:
        """Plain data, enough to make the record again; floats survive to the last bit."""
        return {
            "schema": "mixopt.run/v1",
            "id": self.spec.id,
            "spec": self.spec.to_json(),
            "metrics": dict(self.metrics),
            "trajectory": [[tokens, dict(metrics)] for tokens, metrics in self.trajectory],
            "horizons": [[tokens, dict(metrics)] for tokens, metrics in self.horizons],
            "trace": [[dict(segment.mixture), segment.tokens] for segment in self.trace],
            "state": self.state,
            "drawn": dict(self.drawn),
            "unique": dict(self.unique),
            "cost": asdict(self.cost),
            "error": self.error,
            "diverged": self.diverged,
            "machine": dict(self.machine),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> RunRecord:
        """The record that `to_json` described."""
        return cls(
            spec=RunSpec.from_json(body["spec"]),
            metrics=body["metrics"],
            trajectory=tuple((tokens, metrics) for tokens, metrics in body["trajectory"]),
            horizons=tuple((tokens, metrics) for tokens, metrics in body.get("horizons", ())),
            trace=tuple(Segment(Mixture(mixture), tokens) for mixture, tokens in body["trace"]),
            state=body.get("state"),
            drawn=body["drawn"],
            unique=body["unique"],
            cost=Cost(**body["cost"]),
            error=body["error"],
            diverged=body["diverged"],
            machine=body["machine"],
        )


@dataclass(frozen=True)
class Swarm:
    """All runs of a study, in the order they were asked for: never in the order they finished."""

    records: tuple[RunRecord, ...] = ()

    @cached_property
    def good(self) -> Swarm:
        """Only the runs without an error."""
        return Swarm(tuple(record for record in self.records if not record.error))

    def mixtures_RD(self, names: Sequence[str]) -> FloatArray:
        """Mixtures [R, D] in the order of `names`."""
        return np.array([record.mixture.array(names) for record in self.records]).reshape(-1, len(names))

    def metrics_RM(self, metrics: Sequence[str]) -> FloatArray:
        """Final metrics [R, M] in the order of `metrics`. Raises SwarmError where a run lacks one or has no number."""
        for metric in metrics:
            lacking = [r for r in self.records if not math.isfinite(r.metrics.get(metric, math.nan))]
            if lacking:
                first = lacking[0].metrics
                why = f"got {first[metric]}." if metric in first else did_you_mean(metric, first)
                raise SwarmError(
                    f"{len(lacking)} of {len(self.records)} runs have no finite metric {metric!r}, first run "
                    f"{lacking[0].spec.id}: {why} Take it out of the objective, or leave those runs out."
                )
        return np.array([[r.metrics[m] for m in metrics] for r in self.records], dtype=float).reshape(-1, len(metrics))


@dataclass(frozen=True)
class Objective:
    """Weighted mean of metrics; lower is better. Weights are as given, the mean divides by their sum.

    `floors` maps a metric to the fraction by which it may get worse than at the prior (0.01: one percent; negative: it
    must get better). A metric that is only guarded needs no weight.
    """

    weights: Mapping[str, float]
    floors: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that weights and floors are usable."""
        if not self.weights or any(not w >= 0 for w in self.weights.values()) or sum(self.weights.values()) <= 0:
            raise JobError(f"objective.weights: must be >= 0 and not all zero (got {dict(self.weights)}).")
        if any(not (math.isfinite(fraction) and fraction > -1) for fraction in self.floors.values()):
            raise JobError(f"objective.floors: must be finite and above -1 (got {dict(self.floors)}).")

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics with a positive weight or a floor, sorted."""
        weighted = {metric for metric, weight in self.weights.items() if weight > 0}
        return tuple(sorted(weighted | set(self.floors)))

    @property
    def weights_M(self) -> FloatArray:
        """Weights [M] in the order of `metrics`, summing to 1; 0 for a metric that is only guarded."""
        w_M = np.array([self.weights.get(metric, 0.0) for metric in self.metrics], dtype=float)
        return w_M / w_M.sum()

    def value(self, metrics: Mapping[str, float]) -> float:
        """The objective of one run."""
        return math.fsum(w * metrics[m] for m, w in zip(self.metrics, self.weights_M, strict=True))
