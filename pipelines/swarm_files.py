"""`fit`, `propose` and `predict`: laws on runs that were made anywhere, from two CSV files.

Shapes: R runs, D domains, M metrics.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mixopt import compositional, quality
from mixopt.errors import DataError, JobError, did_you_mean
from mixopt.handoff import load_mixture
from mixopt.laws import make
from mixopt.limits import Trust
from mixopt.mixture import FloatArray
from mixopt.proposers import Proposal, best_runs, propose_near
from mixopt.proposers import propose as propose_mixture
from mixopt.recommend import recommend, with_uncertainty
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.tables import Table, metric_name, read_domains, read_swarm

EACH = ("all", "mean")
UNEVEN = 100.0


@dataclass(frozen=True)
class Request:
    """Two files, what to look at in them, and the law."""

    ratios: Path
    metrics: Path
    target: str
    law: str


@dataclass(frozen=True)
class Target:
    """The real run that `propose` optimises for; `floors` are given as "metric=fraction"."""

    domains: Path
    tokens: int
    max_epochs: float
    kl: float
    seed: int
    floors: Sequence[str] = ()
    trust: Trust = field(default_factory=Trust)


def fit(request: Request, test_ratios: Path | None, test_metrics: Path | None) -> dict[str, Any]:
    """How well the law predicts the metrics: on the test files if given, else out of fold."""
    if (test_ratios is None) != (test_metrics is None):
        raise JobError("--test-ratios and --test-metrics belong together; give both or neither.")
    table, objective, Y_RM = read(request)
    began = time.perf_counter()
    law = make(request.law, quality.own_domains(table.names, objective.metrics)).fit(table.X_RD, Y_RM)
    seconds = time.perf_counter() - began
    notes = [*table.notes, *unexplored(table)]
    P_RM = quality.out_of_fold(law, table.X_RD, Y_RM)
    if test_ratios is not None and test_metrics is not None:
        test = read_swarm(test_ratios, test_metrics)
        notes += test.notes
        X_RD, observed_RM = _columns(test.X_RD, test.names, table.names, "domain"), _metrics(test, objective)
        described = quality.describe(
            observed_RM, law.predict(X_RD), objective, quality.half_widths(Y_RM, P_RM, objective)
        )
        own = quality.own_proportion(X_RD, observed_RM, table.names, objective.metrics)
    else:
        described = quality.describe(Y_RM, P_RM, objective)
        own = quality.own_proportion(table.X_RD, Y_RM, table.names, objective.metrics)
    if request.target == "mean":
        described["targets"] = {"mean": described["mean_loss"]}
    return {
        "law": request.law,
        "runs": len(table.runs),
        **described,
        "own_proportion": own,
        "fit_seconds": seconds,
        "measured": "on the test files" if test_ratios is not None else "out of fold",
        "notes": notes,
    }


def propose(request: Request, target: Target) -> dict[str, Any]:
    """The best mixture by the law under the real run's constraints: exactly where the law is convex."""
    table, objective, Y_RM = read(request, target.floors)
    domains, prior, lower, upper = read_domains(target.domains)
    space = MixtureSpace(domains, target.tokens, target.max_epochs, prior, lower, upper, trust=target.trust)
    X_RD = _columns(table.X_RD, table.names, space.names, "domain")
    law = make(request.law, quality.own_domains(space.names, objective.metrics)).fit(X_RD, Y_RM)
    rng, best_ND = np.random.default_rng(target.seed), best_runs(X_RD, Y_RM @ objective.weights_M)
    found = propose_mixture(law, objective, space, rng, target.kl, best_ND)
    again = rng.spawn(1)[0]
    best = with_uncertainty(
        recommend(space.names, objective, X_RD, Y_RM, law, found),
        space,
        objective,
        (X_RD, Y_RM),
        law,
        lambda other: propose_near(found.p_D, other, objective, space, again, target.kl),
        rng,
    )
    missing = best.evidence.get("not_measured")
    return {
        "mixture": dict(best.mixture),
        "predicted": {
            "objective": best.predicted["objective"],
            "interval": list(best.interval) if best.interval else None,
            "prior": float(objective.weights_M @ law.predict(space.prior_D[None])[0]),
            "metrics": {metric: best.predicted[metric] for metric in objective.metrics},
        },
        "effective_domains": best.mixture.effective_domains,
        "epochs": space.epochs(best.mixture),
        "kl_to_prior": finite(best.mixture.kl(space.prior_mixture)),
        "distance_to_nearest_run": float(np.abs(X_RD - found.p_D).sum(1).min()),
        **{key: best.evidence[key] for key in ("how", "floors", "cap_prices")},
        "uncertainty": best.evidence.get("uncertainty"),
        "notes": [
            *table.notes,
            *found.notes,
            *beyond(best.predicted, objective, Y_RM),
            *([missing] if missing else []),
        ],
    }


def predict(request: Request, mixture: Path) -> dict[str, Any]:
    """The law's values at one mixture."""
    table, objective, Y_RM = read(request)
    law = make(request.law, quality.own_domains(table.names, objective.metrics)).fit(table.X_RD, Y_RM)
    given = load_mixture(mixture)
    at = Proposal(given.array(table.names), 0.0, "given")
    found = recommend(table.names, objective, table.X_RD, Y_RM, law, at)
    return {
        "predicted": {
            "objective": found.predicted["objective"],
            "interval": list(found.interval) if found.interval else None,
            "metrics": {metric: found.predicted[metric] for metric in objective.metrics},
        },
        "distance_to_nearest_run": float(np.abs(table.X_RD - given.array(table.names)).sum(1).min()),
        "notes": [*table.notes, *beyond(found.predicted, objective, Y_RM)],
    }


def beyond(predicted: Mapping[str, float], objective: Objective, Y_RM: FloatArray) -> list[str]:
    """A sentence on metrics that are predicted below or above everything that was seen."""
    low_M, high_M = Y_RM.min(axis=0), Y_RM.max(axis=0)
    seen = zip(objective.metrics, low_M, high_M, strict=True)
    outside = [metric for metric, low, high in seen if not low <= predicted[metric] <= high]
    return [f"Predicted outside of what any run gave, do not rely on it: {', '.join(outside)}."] if outside else []


def unexplored(table: Table) -> list[str]:
    """A sentence where the runs do not tell some domains apart."""
    spread = compositional.condition(table.X_RD)
    if spread < UNEVEN:
        return []
    how = f"{spread:.0f} times less than in another" if math.isfinite(spread) else "not at all"
    said = f"In one direction the mixtures vary {how} (log-ratios, zeros replaced), so that a law knows little of it."
    return [f"{said} Merge domains that always move together, or add runs that move them apart."]


def read(request: Request, floors: Sequence[str] = ()) -> tuple[Table, Objective, FloatArray]:
    """The runs, the objective over the chosen metrics, and these metrics [R, M]."""
    table = read_swarm(request.ratios, request.metrics)
    chosen = metric_name(request.target)
    if request.target not in EACH and chosen not in table.metrics:
        raise JobError(f"--target: unknown metric {request.target!r}; {did_you_mean(chosen, [*table.metrics, *EACH])}")
    wanted = table.metrics if request.target in EACH else (chosen,)
    kept = [_floor(text, table.metrics) for text in floors]
    if twice := [metric for metric in dict(kept) if [name for name, _ in kept].count(metric) > 1]:
        raise JobError(f"--floor: {twice[0]} is given twice; give one fraction for each metric.")
    objective = Objective(dict.fromkeys(wanted, 1.0), dict(kept))
    return table, objective, _metrics(table, objective)


def _floor(text: str, metrics: Sequence[str]) -> tuple[str, float]:
    """A metric and the fraction by which it may be worse than at the prior, from "code=0.01"."""
    given, equals, fraction = text.rpartition("=")
    if not equals:
        raise JobError(f"--floor {text}: must look like {text}=0.01: a metric and the fraction it may get worse by.")
    chosen = next((name for name in (given, metric_name(given), f"bpb/{given}") if name in metrics), None)
    if chosen is None:
        raise JobError(f"--floor {text}: unknown metric {given!r}; {did_you_mean(given, metrics)}")
    try:
        return chosen, float(fraction)
    except ValueError:
        raise JobError(f"--floor {text}: must look like {given}=0.01, a fraction (got {fraction!r}).") from None


def _metrics(table: Table, objective: Objective) -> FloatArray:
    return _columns(table.Y_RM, table.metrics, objective.metrics, "metric")


def _columns(values: FloatArray, have: Sequence[str], wanted: Sequence[str], what: str) -> FloatArray:
    """Columns in another order. Raises DataError for one that is missing, or for a domain that nobody asked for."""
    for name in wanted:
        if name not in have:
            raise DataError(f"{what} {name!r} is missing in one of the files; {did_you_mean(name, have)}")
    left = [name for name in have if name not in wanted]
    if what == "domain" and left:
        raise DataError(
            f"domains {', '.join(left)} have a column in the ratios but no line in the domains; every domain needs both."
        )
    return values[:, [list(have).index(name) for name in wanted]]


def finite(value: float) -> float | None:
    """A number that JSON has, or None."""
    return value if math.isfinite(value) else None
