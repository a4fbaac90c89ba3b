"""A method whose answer is moved by full runs: its swarm's law, carried to their size, has the last word.

    1. fit the effective-data law to the swarm
    2. move it with the full runs of one size, two mixtures or more (`scale_laws.transfer`)
    3. propose from the moved law, with the method's own pull to the prior, under the limits of the job

What is predicted, and the law's fit, stay those of the proxies' size, where the swarm was measured and where validation
trains. How sure the answer is, is asked at the size of the full runs: plausible laws of the swarm, each moved and then
drawn from what the full runs leave open.

Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt import plausible, uncertainty
from mixopt.errors import SwarmError
from mixopt.laws.base import Law
from mixopt.laws.effdata import EffData
from mixopt.mixture import FloatArray
from mixopt.proposers import propose
from mixopt.quality import own_domains
from mixopt.recommend import recommend
from mixopt.runs import Objective, RunSpec
from mixopt.scale_laws.transfer import Transfer
from mixopt.study import Method, Recommendation, Study
from mixopt.transfers import FullRun


@dataclass(frozen=True)
class Carried:
    """The effective-data law of a swarm [R, D], [R, M] and the same law at the size of full runs [F, D], [F, M]."""

    small: EffData
    law: Transfer
    swarm: tuple[FloatArray, FloatArray]
    full: tuple[FloatArray, FloatArray]

    @classmethod
    def of(
        cls, names: Sequence[str], objective: Objective, swarm: tuple[FloatArray, FloatArray], runs: Sequence[FullRun]
    ) -> Carried:
        """Fit both. Raises SwarmError for a swarm or full runs that the laws cannot learn from."""
        small = EffData(own_domains(names, objective.metrics)).fit(*swarm)
        full = (
            np.array([run.mixture.array(names) for run in runs]),
            np.array([[run.metrics[metric] for metric in objective.metrics] for run in runs]),
        )
        return cls(small, Transfer(small).fit(*full), swarm, full)

    def draws(self, rng: np.random.Generator) -> list[Law]:
        """Laws at the size of the full runs that swarm and full runs leave plausible."""
        others = plausible.plausible(self.small, *self.swarm, rng)
        moved = [Transfer(other).fit(*self.full) for other in others if isinstance(other, EffData)]
        return [law for each in moved for law in each.draw(rng, 1)]


@dataclass(frozen=True)
class Transferred:
    """A method with a law, and the full runs of one size that move its answer."""

    method: Method
    runs: tuple[FullRun, ...]

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """What the method asks."""
        return self.method.ask(study, rng)

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """Steps 1 to 3. Raises SwarmError for fewer good runs than the law can bear, as the method does."""
        names, objective = study.space.names, study.objective
        alone = self.method.recommend(replace(study, uncertainty=False), rng)
        carried = Carried.of(names, objective, study.table(), self.runs)
        kl = float(getattr(self.method, "kl", 0.0))
        found = propose(carried.law, objective, study.space, rng, kl)
        best = recommend(names, objective, *carried.swarm, carried.small, found)
        pair_2D = np.array([alone.mixture.array(names), found.p_D])
        there_2 = carried.law.predict(pair_2D) @ objective.weights_M
        moved = {
            "runs": [run.id for run in self.runs],
            "parameters": self.runs[0].parameters,
            "tokens": self.runs[0].tokens,
            "without": dict(alone.mixture),
            "predicted": {"without": float(there_2[0]), "recommended": float(there_2[1])},
            "best_run": float((carried.full[1] @ objective.weights_M).min()),
        }
        evidence = {
            **best.evidence,
            "transfer": moved,
            "proposer_notes": (said(self.runs, moved), *found.notes),
        }
        return replace(best, evidence=evidence | self._sure(study, carried, found.p_D, kl, rng))

    def _sure(
        self, study: Study, carried: Carried, p_D: FloatArray, kl: float, rng: np.random.Generator
    ) -> dict[str, Any]:
        """What plausible laws at the size of the full runs say, as `recommend.with_uncertainty` has it."""
        if not study.uncertainty:
            return {}
        objective = study.objective

        def optimum(other: Law) -> FloatArray:
            return propose(other, objective, study.space, rng, kl).p_D

        try:
            answer = uncertainty.Answer.of(study.space, objective, carried.law, p_D, carried.draws(rng), optimum)
        except SwarmError as e:
            return {"not_measured": str(e)}
        noise = plausible.noise(carried.small, *carried.swarm, objective.weights_M)
        metrics = dict(zip(objective.metrics, noise.metrics_M.tolist(), strict=True))
        alone = {"objective": noise.objective, "metrics": metrics, "source": noise.source, "runs": noise.runs}
        return {"uncertainty": {"source": "transfer", "noise": alone} | uncertainty.measure(answer, rng)}


def said(runs: Sequence[FullRun], moved: dict[str, Any]) -> str:
    """What moved the answer, in a sentence for the report."""
    gain = moved["predicted"]["without"] - moved["predicted"]["recommended"]
    size = f"{moved['parameters']:,} parameters and {moved['tokens']:,} tokens"
    return (
        f"{len(runs)} recorded full runs of {size} moved this answer (mixopt feedback): the effective-data law of the swarm, "
        f"carried to that size, expects {gain:.4f} bits per byte from the move and an objective of "
        f"{moved['predicted']['recommended']:.4f}; the best of these runs measured {moved['best_run']:.4f}. Predictions and fit "
        f"are of the proxies' size."
    )
