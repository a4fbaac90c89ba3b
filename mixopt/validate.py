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
    """What the recommendation is compared with: prior, uniform, and the best allowed run of the swarm.

    Prior and uniform are taken as near as the space allows them: an arm that the real run could not follow would be
    no alternative.
    """
    space = study.space
    uniform_D = np.full(len(space.names), 1 / len(space.names))
    found = {RECOMMENDED: recommended, PRIOR: space.nearest(space.prior_D), UNIFORM: space.nearest(uniform_D)}
    good = [record for record in study.points.records if not space.violations(record.mixture)]
    if good:
        found[BEST] = min(good, key=lambda record: study.objective.value(record.metrics)).mixture
    return found


def verdict(gain: Interval, others: Mapping[str, Interval]) -> str:
    """What to do, in bits per byte saved against the prior (positive: the recommendation is better).

    `others` are the gains over the other arms: a mixture that one of them beats is not to be used.
    """
    span = f"{LEVEL * 100:.0f} % interval {gain.low:+.4f} to {gain.high:+.4f}"
    if not gain.clear:
        return (
            f"The gain is inside the noise: {gain.mean:+.4f} bits per byte saved against the prior ({span}). "
            "Nothing here says that this mixture beats the prior."
        )
    if gain.mean < 0:
        return f"Do not use this mixture: it costs {-gain.mean:.4f} bits per byte against the prior ({span} saved)."
    said = f"it saves {gain.mean:.4f} bits per byte against the prior ({span})"
    better = [arm for arm, other in others.items() if other.clear and other.mean < 0]
    if better:
        return f"Do not use this mixture: {said}, but {' and '.join(better)} saves more."
    level = [arm for arm, other in others.items() if not other.clear]
    tail = f" It is not shown to beat {' or '.join(level)}." if level else ""
    return f"Use this mixture: {said}.{tail}"
