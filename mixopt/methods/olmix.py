"""Olmix: one log-linear law per metric, and the exact optimum of their mean under caps and a pull to the prior.

Source: OlmixBase, arXiv:2602.12237; docs/differences.md says how we differ.

    1. draw K >= 3 (m + 1) mixtures around the prior, train one proxy on each
    2. fit f_i(p) = exp(c_i) + exp(A_i . p) to the BPB of each metric i
    3. min_p  sum_i w_i f_i(p) + kl * KL(p || prior)   with lower <= p <= upper and epochs(p) <= max_epochs,
       and under the groups, the trust region and the floors of the job
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixopt import laws
from mixopt.designs import mixtures
from mixopt.errors import JobError
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray
from mixopt.proposers import best_runs, propose, propose_near
from mixopt.quality import own_domains
from mixopt.recommend import recommend, with_uncertainty
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


@dataclass(frozen=True)
class Olmix:
    """One log-linear law per metric, and the exact optimum of their mean under caps and a pull to the prior.

    Other laws take its place by name; what is not convex is searched by descent or simulation. `kl` is the strength of
    the pull to the prior, in units of the objective per nat.
    """

    law: laws.LawName = "loglinear"
    kl: float = 0.05

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.kl < 0:
            raise JobError(f"method.kl: must be at least 0 (got {self.kl}); a negative pull has no optimum.")

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Step 1."""
        return study.specs(mixtures(study, rng, self.law))

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """Steps 2 and 3. Raises SwarmError for fewer good runs than the law can bear."""
        X_RD, Y_RM = study.table()
        own = own_domains(study.space.names, study.objective.metrics)
        law = laws.make(self.law, own).fit(X_RD, Y_RM)
        best_ND = best_runs(X_RD, Y_RM @ study.objective.weights_M)
        found = propose(law, study.objective, study.space, rng, self.kl, best_ND)
        again = rng.spawn(1)[0]

        def optimum(other: Law) -> FloatArray:
            return propose_near(found.p_D, other, study.objective, study.space, again, self.kl)

        best = recommend(study.space.names, study.objective, X_RD, Y_RM, law, found)
        if not study.uncertainty:
            return best
        return with_uncertainty(best, study.space, study.objective, (X_RD, Y_RM), law, optimum, rng)
