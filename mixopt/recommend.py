"""From a fitted law and a mixture to a recommendation: what it predicts, how sure it is, how well the law fits.

Shapes: R runs, D domains, M metrics in the order of `objective.metrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mixopt import plausible, quality, uncertainty
from mixopt.errors import SwarmError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import Proposal
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.study import Recommendation


def recommend(
    names: Sequence[str], objective: Objective, X_RD: FloatArray, Y_RM: FloatArray, law: Law, found: Proposal
) -> Recommendation:
    """Recommend the mixture that was found with this law, fitted to these runs.

    The evidence has the floors with their prices, the prices of caps and how the mixture was found. The interval and
    the fit come from predictions out of fold; without them where too few runs are left for that.
    """
    metrics = dict(zip(objective.metrics, law.predict(found.p_D[None])[0].tolist(), strict=True))
    value, half = objective.value(metrics), None
    evidence: dict[str, Any] = {"law": type(law).__name__.lower()} | found.to_json()
    if len(X_RD) > law.min_runs(len(names)):
        P_RM = quality.out_of_fold(law, X_RD, Y_RM)
        half = quality.interval(Y_RM, P_RM, objective)
        evidence["fit"] = {"law": evidence["law"], "runs": len(X_RD)} | quality.describe(Y_RM, P_RM, objective)
        evidence["fit"]["own_proportion"] = quality.own_proportion(X_RD, Y_RM, names, objective.metrics)
        evidence["fit"]["out_of_fold"] = points(Y_RM, P_RM, objective)
    return Recommendation(
        Mixture.from_array(names, found.p_D),
        predicted={"objective": value, **metrics},
        interval=(value - half, value + half) if half is not None else None,
        evidence=evidence,
    )


def with_uncertainty(
    best: Recommendation,
    space: MixtureSpace,
    objective: Objective,
    runs: tuple[FloatArray, FloatArray],
    law: Law,
    optimum: uncertainty.Optimum,
    rng: np.random.Generator,
) -> Recommendation:
    """The same answer with "uncertainty" in its evidence: what other laws say that its runs ([R, D], [R, M]) allow.

    `optimum` gives the answer that the method would have given from another law. Where the runs are too few for
    that, the evidence has "not_measured", the reason, instead.
    """
    (X_RD, Y_RM), p_D = runs, best.mixture.array(space.names)
    try:
        laws = plausible.plausible(law, X_RD, Y_RM, rng)
        answer = uncertainty.Answer.of(space, objective, law, p_D, laws, optimum)
    except SwarmError as e:
        return replace(best, evidence={**best.evidence, "not_measured": str(e)})
    noise = plausible.noise(law, X_RD, Y_RM, objective.weights_M)
    found = {
        "source": "posterior" if plausible.drawn(law) else "bootstrap",
        "noise": {
            "objective": noise.objective,
            "metrics": dict(zip(objective.metrics, noise.metrics_M.tolist(), strict=True)),
            "source": noise.source,
            "runs": noise.runs,
        },
    }
    return replace(best, evidence={**best.evidence, "uncertainty": found | uncertainty.measure(answer, rng)})


def points(Y_RM: FloatArray, P_RM: FloatArray, objective: Objective) -> dict[str, Any]:
    """Observed and predicted values for the report's pictures."""
    weights_M = objective.weights_M
    return {
        "observed": dict(zip(objective.metrics, Y_RM.T.tolist(), strict=True)),
        "predicted": dict(zip(objective.metrics, P_RM.T.tolist(), strict=True)),
        "objective_observed": (Y_RM @ weights_M).tolist(),
        "objective_predicted": (P_RM @ weights_M).tolist(),
    }
