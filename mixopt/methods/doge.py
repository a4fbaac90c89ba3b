"""DoGE: the mean of the proportions that a run goes through whose domains get more the better their gradients agree.

    1. train one proxy with the whole search budget, alpha following the gradients (mixopt/policies/doge.py)
    2. recommend the mean of alpha over the updates, or the allowed mixture nearest to it

Source: Fan et al. 2024, arXiv:2310.15393; docs/differences.md says how we differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixopt.methods import averaged
from mixopt.policies.doge import Alignment, Variant
from mixopt.policies.gradients import Target
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


@dataclass(frozen=True)
class DoGE:
    """The mean of the proportions of a run whose domains get more the better their gradients agree.

    `eta` is the paper's learning rate over mu, `target` what each domain weighs: all alike unless given.
    """

    rounds: int = 50
    eta: float = 0.5
    rows: int = 4
    variant: Variant = "code"
    target: Target | None = None

    def __post_init__(self) -> None:
        """Check the knobs."""
        self._policy()

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Step 1."""
        return [averaged.fed(study, self._policy(), study.budget)]

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """Step 2. Raises RunFailed if the run diverged."""
        return averaged.recommend(study)

    def _policy(self) -> Alignment:
        return Alignment(self.rounds, self.eta, self.rows, self.variant, self.target)
