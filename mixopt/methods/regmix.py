"""RegMix: regress proxy losses on mixtures, then search the regression.

Source: Liu et al. 2024, arXiv:2407.01492, and its reference code; docs/differences.md says how we differ.

    1. draw n mixtures p ~ Dirichlet(strength * prior^0.5) over a range of strengths
    2. train one proxy on each, read its losses y
    3. fit a regressor f: p -> y for each loss
    4. draw N >> n mixtures from Dirichlet(prior), rank them by the objective of f, average the best k
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np

from mixopt import laws
from mixopt.designs import mixtures
from mixopt.errors import JobError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray
from mixopt.proposers import COARSE, simulation
from mixopt.quality import own_domains
from mixopt.recommend import recommend, with_uncertainty
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


@dataclass(frozen=True)
class RegMix:
    """Regress proxy losses on mixtures, then search the regression.

    `law` is the regressor, `candidates` N, `keep` k.
    """

    law: laws.LawName = "lightgbm"
    candidates: int = 100_000
    keep: int = 128

    def __post_init__(self) -> None:
        """Check the knobs."""
        if not 1 <= self.keep <= self.candidates:
            raise JobError(f"method.keep: must be between 1 and candidates, {self.candidates} (got {self.keep}).")

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Steps 1 and 2."""
        return study.specs(mixtures(study, rng, self.law))

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """Steps 3 and 4. Raises SwarmError for fewer good runs than the law can bear."""
        X_RD, Y_RM = study.table()
        own = own_domains(study.space.names, study.objective.metrics)
        law = laws.make(self.law, own).fit(X_RD, Y_RM)
        objective, space, keep = study.objective, study.space, max(1, self.keep // COARSE)
        found = simulation(law, objective, space, rng, 0.0, self.candidates, self.keep)
        again, candidates = rng.spawn(1)[0], max(keep, self.candidates // COARSE)

        def optimum(other: Law) -> FloatArray:
            return simulation(other, objective, space, copy.deepcopy(again), 0.0, candidates, keep).p_D

        best = recommend(space.names, objective, X_RD, Y_RM, law, found)
        if not study.uncertainty:
            return best
        return with_uncertainty(best, space, objective, (X_RD, Y_RM), law, optimum, rng)
