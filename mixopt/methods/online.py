"""A policy as a method: one run of the whole search budget, fed by the policy, whose answer is what it went through.

The policy itself is the better answer for a backend that can follow it; the mixture is for all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import RunFailed
from mixopt.mixture import Mixture
from mixopt.policy import Feedback, OnlinePolicy
from mixopt.runs import RunRecord, RunSpec
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
    """What the last run went through in the mean, and the policy. Raises RunFailed if it diverged."""
    answer = nearest(study, last_run(study).mixture, "followed")
    return replace(answer, policy=method.policy(study, rng))


def fed(study: Study, policy: OnlinePolicy[Any], tokens: int, keep: bool = False) -> RunSpec:
    """A run of so many tokens. Raises JobError, before anything is trained, where the policy cannot work with that.

    For policies that begin without having measured anything.
    """
    step = study.proxy.batch * study.proxy.sequence
    policy.init(study.space.names, Feedback(0, tokens, {}, step))
    return RunSpec(policy, study.proxy.lasting(tokens), study.seed, keep)


def last_run(study: Study) -> RunRecord:
    """The record of the run that was asked for last. Raises RunFailed if it diverged."""
    run = study.swarm.records[-1]
    if run.error:
        raise RunFailed(
            f"run {run.spec.id}: {run.error.strip().splitlines()[-1]}. A lower proxies.learning_rate helps."
        )
    return run


def averaged(study: Study, run: RunRecord) -> Recommendation:
    """The answer in which the run of an `Averaged` policy ended."""
    policy: Any = run.spec.feed
    return nearest(study, policy.answer(policy.load(run.state)), "averaged")


def nearest(study: Study, mixture: Mixture, how: str) -> Recommendation:
    """The mixture that a method came to or, where that breaks a constraint, the nearest allowed one and a note of it."""
    broken = study.space.violations(mixture)
    note = (
        f"The method's own answer is not allowed ({'; '.join(broken)}): recommended is the allowed mixture with the "
        "smallest KL divergence from it."
    )
    found = study.space.nearest(mixture.array(study.space.names))
    return Recommendation(found, evidence={"how": how, "proposer_notes": [note] if broken else []})
