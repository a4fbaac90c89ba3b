"""A policy as a method: one run of the whole search budget, fed by the policy, whose answer is what it went through.

The policy itself is the better answer for a backend that can follow it; the mixture is for all others.
Source: ours; the papers are in mixopt/policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt.errors import RunFailed
from mixopt.policy import OnlinePolicy
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
    """The token-weighted mean of what the last run went through, or the nearest mixture that is allowed, and the policy.

    Raises RunFailed if it diverged.
    """
    run = study.swarm.records[-1]
    if run.error:
        raise RunFailed(
            f"run {run.spec.id}: {run.error.strip().splitlines()[-1]}. A lower proxies.learning_rate helps."
        )
    policy, space = method.policy(study, rng), study.space
    mixture = space.nearest(run.mixture.array(space.names))
    evidence = {"how": "followed", "proposer_notes": tuple(_notes(policy, run, space.violations(run.mixture)))}
    return Recommendation(mixture, evidence=evidence, policy=policy)


def _notes(policy: OnlinePolicy[Any], run: RunRecord, violations: Sequence[str]) -> Iterator[str]:
    """What a reader must know about a mixture that a policy went through."""
    tokens = run.spec.proxy.tokens
    yield (
        f"No law predicts this mixture: it is the mean over {tokens:,} tokens of what the policy went through in one run. "
        "Validation trains it from the first token to the last, not the policy."
    )
    if violations:
        yield f"That mean is not allowed here, the nearest allowed mixture is given: {'; '.join(violations)}."
    if hasattr(policy, "probe_tokens"):
        part = policy.probe_tokens(policy.load(run.state)) / tokens
        yield f"{100 * part:.0f} % of that run's tokens went to probes, whose mean is the uniform mixture."
