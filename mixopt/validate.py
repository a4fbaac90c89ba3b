"""Is the recommendation better than what one would have done anyway? Trained against each other with paired seeds.

Validation is one more method: it asks for every arm at every seed. Runs of one seed share initialisation and order
of data, so their difference is due to the mixture and much less noisy than either run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from mixopt.errors import RunFailed
from mixopt.mixture import Mixture
from mixopt.policy import Fixed
from mixopt.runs import RunRecord, RunSpec
from mixopt.study import Recommendation, Study

LEVEL = 0.95
RECOMMENDED, PRIOR, UNIFORM, BEST = "recommended", "prior", "uniform", "best swarm point"


@dataclass(frozen=True)
class Interval:
    """A mean difference and its confidence interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def paired(cls, differences: Sequence[float], level: float = LEVEL) -> Interval:
        """Student's t interval of at least two paired differences."""
        mean, n = float(np.mean(differences)), len(differences)
        half = float(stdtrit(n - 1, (1 + level) / 2) * np.std(differences, ddof=1) / math.sqrt(n))
        return cls(mean, mean - half, mean + half)

    @property
    def clear(self) -> bool:
        """Whether zero lies outside."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Validate:
    """A method whose answer is the evidence: `arms` at seeds `first_seed`, `first_seed` + 1, ..."""

    arms: Mapping[str, Mixture]
    seeds: int
    first_seed: int

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Seed by seed, so that an interrupted validation has whole pairs."""
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        return [study.spec(Fixed(mixture), seed) for seed in seeds for mixture in self.arms.values()]

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The recommended arm itself."""
        return Recommendation(self.arms[RECOMMENDED])

    def paired(self, study: Study) -> dict[str, list[RunRecord]]:
        """Records of each arm, one per seed, over the seeds at which every arm gave a good run.

        Raises RunFailed if there are fewer than two such seeds.
        """
        by_key = {(r.mixture, r.spec.seed): r for r in study.swarm.good.records}
        seeds = range(self.first_seed, self.first_seed + self.seeds)
        whole = [seed for seed in seeds if all((mixture, seed) in by_key for mixture in self.arms.values())]
        if len(whole) < 2:
            raise RunFailed(f"validation: only at {len(whole)} seeds did every arm end well; lower the learning rate.")
        return {arm: [by_key[mixture, seed] for seed in whole] for arm, mixture in self.arms.items()}


def arms(study: Study, recommended: Mixture) -> dict[str, Mixture]:
    """What the recommendation is compared with: prior, uniform, and the best run of the swarm."""
    names = study.space.names
    found = {
        RECOMMENDED: recommended,
        PRIOR: study.space.prior_mixture,
        UNIFORM: Mixture.normalised({name: 1.0 for name in names}),
    }
    good = study.swarm.good.records
    if good:
        found[BEST] = min(good, key=lambda record: study.objective.value(record.metrics)).mixture
    return found


def verdict(gain: Interval, best: Interval | None) -> str:
    """One sentence on the gain over the prior, in bits per byte (positive: the recommendation is better)."""
    span = f"{LEVEL:.0%} interval {gain.low:+.4f} to {gain.high:+.4f}".replace("%", " %")
    if not gain.clear:
        return (
            f"The gain is inside the noise: {gain.mean:+.4f} bits per byte saved against the prior ({span}). "
            "Nothing here says that this mixture beats the prior."
        )
    if gain.mean < 0:
        return f"Do not use this mixture: it costs {-gain.mean:.4f} bits per byte against the prior ({span} saved)."
    tail = ""
    if best is not None and not best.clear:
        tail = " The best mixture of the swarm does as well, within the noise."
    elif best is not None and best.mean < 0:
        tail = " The best mixture of the swarm does better still: the law is not to be trusted at its optimum."
    return f"Use this mixture: it saves {gain.mean:.4f} bits per byte against the prior ({span}).{tail}"
