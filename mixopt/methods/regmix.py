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
from typing import Literal

import numpy as np

from mixopt import laws
from mixopt.designs import mixtures
from mixopt.errors import JobError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray
from mixopt.proposers import simulate
from mixopt.quality import own_domains
from mixopt.recommend import recommend, with_uncertainty
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study

COARSE = 40


@dataclass(frozen=True)
class RegMix:
    """Regress proxy losses on mixtures, then search the regression.

    `law` is the regressor, `candidates` N, `keep` k.
    """

    law: Literal["lightgbm", "effdata", "loglinear", "linear"] = "lightgbm"
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
        p_D = self._search(study, law, rng, 1)
        best = recommend(study.space.names, study.objective, X_RD, Y_RM, law, p_D)
        again = rng.spawn(1)[0]  # the same candidates for every plausible law
        return with_uncertainty(
            best,
            study.space,
            study.objective,
            (X_RD, Y_RM),
            law,
            lambda other: self._search(study, other, copy.deepcopy(again), COARSE),
            rng,
        )

    def _search(self, study: Study, law: Law, rng: np.random.Generator, part: int) -> FloatArray:
        """Step 4 with one in `part` of the candidates, of which the same fraction is kept."""
        weights_M, keep = study.objective.weights_M, max(1, self.keep // part)
        candidates = max(keep, self.candidates // part)
        return simulate(lambda X_ND: law.predict(X_ND) @ weights_M, study.space, rng, candidates, keep)
