"""`results.json`: all that a search found out, as plain data; the report and the tracker read nothing else.

Shapes: R runs, D domains, M metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mixopt import quality
from mixopt.domains import Manifest
from mixopt.mixture import Mixture
from mixopt.runs import RunRecord
from mixopt.study import Recommendation, Study
from mixopt.validate import LEVEL, PRIOR, RECOMMENDED, Interval, Validate, verdict

SCHEMA = "mixopt.results/v1"
TINY = 1e-12


@dataclass(frozen=True)
class Effort:
    """What this search took, and how many of its runs were found in the store."""

    trained: int
    reused: int
    seconds: float


def domain_rows(study: Study, manifest: Manifest, mixture: Mixture) -> list[dict[str, Any]]:
    """One row per domain: its tokens, bounds, prior and recommended proportion with their epochs."""
    space = study.space
    epochs, epochs_prior = space.epochs(mixture), space.epochs(space.prior_mixture)
    columns = zip(space.domains, space.prior_D, space.lower_D, space.upper_D, strict=True)
    return [
        {
            "name": domain.name,
            "tokens": domain.tokens,
            "prepared_tokens": manifest[domain.name].train.tokens,
            "prior": float(prior),
            "recommended": mixture[domain.name],
            "lower": float(lower),
            "upper": float(min(1.0, upper)),
            "epochs": epochs[domain.name],
            "epochs_prior": epochs_prior[domain.name],
            "supply": min(study.longest.supply[domain.name], manifest[domain.name].train.tokens),
        }
        for domain, prior, lower, upper in columns
    ]


def validation(study: Study, check: Validate) -> dict[str, Any]:
    """Every arm at every seed, and the differences to the recommendation (positive: it is better).

    Raises RunFailed if fewer than two seeds gave a good run of every arm.
    """
    paired = check.paired(study)
    metrics = study.objective.metrics
    ours = paired[RECOMMENDED]
    differences: dict[str, dict[str, Any]] = {}
    for arm, records in paired.items():
        if arm != RECOMMENDED:
            pairs = list(zip(records, ours, strict=True))
            differences[arm] = {
                "objective": _difference(study, pairs, None),
                "metrics": {metric: _difference(study, pairs, metric) for metric in metrics},
            }
    gain = Interval(**differences[PRIOR]["objective"])
    others = {arm: Interval(**rest["objective"]) for arm, rest in differences.items() if arm != PRIOR}
    return {
        "seeds": len(ours),
        "level": LEVEL,
        "size": study.proxy.size,
        "tokens": study.proxy.tokens,
        "arms": {arm: _arm(study, records) for arm, records in paired.items()},
        "differences": differences,
        "gain_over_prior": asdict(gain),
        "floors": [_floor(metric, allowed, paired) for metric, allowed in sorted(study.objective.floors.items())],
        "noise": float(np.std([study.objective.value(record.metrics) for record in ours], ddof=1)),
        "verdict": verdict(gain, others),
    }


def _floor(metric: str, allowed: float, paired: Mapping[str, Sequence[RunRecord]]) -> dict[str, Any]:
    """By what part of the prior's a metric got worse, over the seeds, against what was allowed."""
    pairs = zip(paired[RECOMMENDED], paired[PRIOR], strict=True)
    values = [(ours.metrics[metric], prior.metrics[metric]) for ours, prior in pairs]
    worse = Interval.paired([(ours - prior) / max(abs(prior), TINY) for ours, prior in values])
    span = f"{100 * LEVEL:g} % interval {100 * worse.low:+.2f} to {100 * worse.high:+.2f} %"
    kept = "yes" if worse.high <= allowed else "no" if worse.low > allowed else "not shown"
    words = {"yes": "kept", "no": "broken", "not shown": "neither shown to be kept nor to be broken"}[kept]
    says = (
        f"The floor on {metric}, {100 * allowed:+g} %, is {words}: measured against the prior it changes by "
        f"{100 * worse.mean:+.2f} % ({span})."
    )
    return {"metric": metric, "allowed": allowed, **asdict(worse), "kept": kept, "says": says}


def trajectories(study: Study, check: Validate) -> list[dict[str, Any]]:
    """The objective at each checkpoint, averaged over seeds, for each validated arm."""
    curves = []
    for arm, records in check.paired(study).items():
        points = [
            [tokens, float(np.mean([study.objective.value(record.trajectory[i][1]) for record in records]))]
            for i, (tokens, _) in enumerate(records[0].trajectory)
        ]
        curves.append({"label": arm, "points": points})
    return curves


def swarm(study: Study) -> dict[str, Any]:
    """The objective of every good run that compares with the others, and what failed."""
    values = [study.objective.value(record.metrics) for record in study.points.records]
    failed = [{"id": r.spec.id, "error": r.why} for r in study.swarm.records if r.error]
    return {"objective": values, "best": min(values, default=None), "failed": failed}


def policies(method: str, runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """The runs that a policy adapted by what it was told: `mixopt audit` trains them again and watches."""
    return [{"method": method, "run": r.spec.id, "seed": r.spec.seed} for r in runs if r.spec.feed.needs]


def cost(runs: Sequence[RunRecord], effort: Effort, target_flops: float | None) -> dict[str, Any]:
    """What the answer rests on (tokens, FLOPs of every run, reused ones too) and what this search spent."""
    flops = sum(record.cost.flops for record in runs)
    return {
        "proxies_trained": effort.trained,
        "proxies_reused": effort.reused,
        "tokens": sum(record.cost.tokens for record in runs),
        "flops": flops,
        "seconds": effort.seconds,
        "worker_seconds": sum(record.cost.seconds for record in runs),
        "share_of_target": flops / target_flops if target_flops else None,
    }


def predicted(recommendation: Recommendation) -> dict[str, Any]:
    """The law's prediction at the recommendation; nulls for methods that predict nothing."""
    values = dict(recommendation.predicted)
    return {
        "objective": values.pop("objective", None),
        "interval": list(recommendation.interval) if recommendation.interval else None,
        "level": quality.LEVEL,
        "metrics": values,
    }


def _difference(study: Study, pairs: Sequence[tuple[RunRecord, RunRecord]], metric: str | None) -> dict[str, float]:
    """Paired interval of (other - recommended) in one metric, or in the objective."""

    def value(metrics: Mapping[str, float]) -> float:
        return study.objective.value(metrics) if metric is None else metrics[metric]

    return asdict(Interval.paired([value(other.metrics) - value(our.metrics) for other, our in pairs]))


def _arm(study: Study, records: Sequence[RunRecord]) -> dict[str, Any]:
    return {
        "mixture": dict(records[0].mixture),
        "objective": [study.objective.value(record.metrics) for record in records],
        "metrics": {m: [record.metrics[m] for record in records] for m in study.objective.metrics},
    }
