"""What one would do without a search: the prior, the uniform mixture, and UniMax. They train no proxies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixopt.errors import InfeasibleSpace
from mixopt.mixture import Mixture
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


@dataclass(frozen=True)
class Prior:
    """Proportional to the available tokens, or the prior given."""

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The prior. Raises InfeasibleSpace if it breaks a bound."""
        return _allowed(study, study.space.prior_mixture, "the prior")


@dataclass(frozen=True)
class Uniform:
    """The same proportion for every domain (stratified sampling)."""

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """1 / D each. Raises InfeasibleSpace if that breaks a bound."""
        return _allowed(study, Mixture.normalised(dict.fromkeys(study.space.names, 1.0)), "the uniform mixture")


@dataclass(frozen=True)
class UniMax:
    """As uniform as the epoch caps allow: every domain gets the same proportion or, if less, its cap.

    Source: Chung et al. 2023, UniMax (arXiv:2304.09151); all other constraints count as caps do.
    """

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """min(level, cap) for the level at which proportions sum to one; the nearest to uniform under other constraints."""
        space = study.space
        return Recommendation(space.nearest(np.full(len(space.names), 1 / len(space.names))))


def _allowed(study: Study, mixture: Mixture, what: str) -> Recommendation:
    violations = study.space.violations(mixture)
    if violations:
        raise InfeasibleSpace(f"{what} is not allowed here: {'; '.join(violations)}. Use unimax or change the bounds.")
    return Recommendation(mixture)
