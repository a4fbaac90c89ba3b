"""DoReMi: the mixture that Group DRO settles on against a reference run.

    1. train a reference on alpha_ref, and keep it
    2. train a proxy by Group DRO against it (mixopt/policies/doremi.py); alpha is the mean of its proportions
    3. stop, or set alpha_ref to alpha and begin again, until no proportion moves by more than 0.001
    4. recommend alpha, or the allowed mixture nearest to it

All runs share the search budget alike. The paper's alpha_ref is the prior (uniform in its second corpus).

Source: Xie et al. 2023, arXiv:2305.10429; docs/differences.md says how we differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from mixopt.errors import JobError
from mixopt.methods import averaged
from mixopt.policies.doremi import Clip, GroupDRO
from mixopt.policy import Fixed, beginning
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study

SETTLED = 1e-3  # largest change of a proportion between two iterations that count as one


@dataclass(frozen=True)
class DoReMi:
    """The mixture that Group DRO settles on against a reference run.

    `reference` is alpha_ref, `smoothing` c; `iterations` at most are made.
    """

    reference: Literal["prior", "uniform"] = "prior"
    iterations: int = 1
    rounds: int = 50
    eta: float = 1.0
    smoothing: float = 1e-3
    clip: Clip = "token"

    def __post_init__(self) -> None:
        """Check the knobs."""
        if self.iterations < 1:
            raise JobError(f"method.iterations: must be at least 1 (got {self.iterations}).")
        self._against("any run")

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """A reference, then the run against it once that is there, and so on."""
        return list(self._runs(study))

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The last run's mean. Raises RunFailed if a run diverged."""
        return averaged.recommend(study)

    def _runs(self, study: Study) -> Iterator[RunSpec]:
        """The runs in their order, as far as those before them allow."""
        records = {record.spec.id: record for record in study.swarm.good.records}
        start = study.space.prior_mixture if self.reference == "prior" else beginning(None, study.space.names)
        tokens = study.budget // (2 * self.iterations)
        for _ in range(self.iterations):
            reference = averaged.fed(study, Fixed(start), tokens, keep=True)
            yield reference
            run = averaged.fed(study, self._against(reference.id), tokens)
            if reference.id not in records:
                return
            yield run
            if run.id not in records:
                return
            policy: Any = run.feed
            answer = policy.answer(policy.load(records[run.id].state))
            if max(abs(answer[name] - start[name]) for name in answer) < SETTLED:
                return
            start = answer

    def _against(self, reference: str) -> GroupDRO:
        return GroupDRO(reference, self.rounds, self.eta, self.smoothing, self.clip)
