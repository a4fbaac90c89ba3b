"""A policy as a method: one run of the whole search budget, fed by the policy, whose answer is what it went through.

The policy itself is the better answer for a backend that can follow it; the mixture is for all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.errors import RunFailed
from mixopt.policy import OnlinePolicy
from mixopt.runs import RunSpec
from mixopt.study import Adapting, Recommendation, Study


@dataclass(frozen=True)
class Online:
    """A policy that needs to know nothing beforehand."""

    follows: OnlinePolicy[Any]

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def policy(self, study: Study, rng: np.random.Generator) -> OnlinePolicy[Any]:
        """The policy."""
        return self.follows

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """One run."""
        return ask(self, study, rng)

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """What it went through. Raises RunFailed if it diverged."""
        return recommend(self, study, rng)


def ask(method: Adapting, study: Study, rng: np.random.Generator) -> list[RunSpec]:
    """What the policy must know first, then a run that follows it with what that leaves of the search budget."""
    first = method.learn(study, rng)
    done = {record.spec.id for record in study.swarm.good.records}
    if any(spec.id not in done for spec in first):
        return first
    left = study.budget - sum(spec.proxy.tokens for spec in first)
    return [*first, RunSpec(method.policy(study, rng), study.proxy.lasting(max(study.proxy.tokens, left)), study.seed)]


def recommend(method: Adapting, study: Study, rng: np.random.Generator) -> Recommendation:
    """The token-weighted mean of what the last run went through, and the policy. Raises RunFailed if it diverged."""
    run = study.swarm.records[-1]
    if run.error:
        raise RunFailed(
            f"run {run.spec.id}: {run.error.strip().splitlines()[-1]}. A lower proxies.learning_rate helps."
        )
    return Recommendation(run.mixture, evidence={"how": "followed"}, policy=method.policy(study, rng))
