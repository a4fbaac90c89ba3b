"""A policy as a method: one run of the whole search budget, fed by the policy, whose answer is what it went through.

The policy itself is the better answer for a backend that can follow it; the mixture is for all others.

Source: ours; each policy names its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import RunFailed
from mixopt.mixture import Schedule
from mixopt.policies.limited import Limited
from mixopt.policy import OnlinePolicy, told
from mixopt.rehearsal import affordable
from mixopt.runs import RunRecord, RunSpec
from mixopt.space import MixtureSpace
from mixopt.study import Adapting, Recommendation, Study

AHEAD = 0.05  # of a run: enough for a probe of a scarce domain
TOLD = 4  # domains named in a sentence about a schedule


@dataclass(frozen=True)
class Online:
    """A policy that needs to know nothing beforehand."""

    follows: OnlinePolicy[Any]

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def policy(self, study: Study, rng: np.random.Generator) -> OnlinePolicy[Any]:
        """The policy, told the study's prior where it knows one and was given none."""
        if getattr(self.follows, "prior", ...) is None:
            prior = dict(study.space.prior_mixture)
            return replace(self.follows, prior=prior)  # type: ignore[type-var]
        return self.follows

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """One run."""
        return ask(self, study, rng)

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """What it went through. Raises RunFailed if it diverged."""
        return recommend(self, study, rng)


def ask(method: Adapting, study: Study, rng: np.random.Generator) -> list[RunSpec]:
    """What the policy must know first, then a run that follows it with what that leaves of the search budget.

    Raises JobError where the policy cannot feed such a run, RunFailed or SwarmError where it could not learn enough.
    """
    first = method.learn(study, rng)
    done = {record.spec.id for record in study.swarm.records}
    if any(spec.id not in done for spec in first):
        return first
    left = study.budget - sum(spec.proxy.tokens for spec in first)
    feed = limited(method.policy(study, rng), study.space)
    tokens = affordable(feed, study.space.names, left, study.proxy.batch * study.proxy.sequence)
    return [*first, RunSpec(feed, study.proxy.lasting(tokens), study.seed)]


def limited(policy: OnlinePolicy[Any], space: MixtureSpace) -> OnlinePolicy[Any]:
    """The policy within the epoch caps of the real run; itself where no cap can bind."""
    cap_D = space.max_epochs * space.tokens_D / space.target_tokens
    caps = {name: float(cap) for name, cap in zip(space.names, cap_D, strict=True) if cap < 1}
    ahead = AHEAD if policy.needs else 1.0  # what was planned is followed
    return Limited(policy, caps, space.max_epochs, ahead=ahead) if caps else policy


def recommend(method: Adapting, study: Study, rng: np.random.Generator) -> Recommendation:
    """The token-weighted mean of what the last run went through, or the nearest mixture that is allowed, and the policy.

    Raises RunFailed if it diverged.
    """
    run, space = study.swarm.records[-1], study.space
    if run.error:
        raise RunFailed(f"run {run.spec.id}: {run.why}. A lower proxies.learning_rate helps.")
    violations = space.violations(run.mixture)
    evidence: dict[str, Any] = {"how": "followed", "proposer_notes": tuple(_notes(run, violations))}
    if not violations:
        evidence["schedule"] = run.schedule.plain()
    mixture = space.nearest(run.mixture.array(space.names)) if violations else run.mixture
    return Recommendation(mixture, evidence=evidence, policy=run.spec.feed)


def _notes(run: RunRecord, violations: Sequence[str]) -> Iterator[str]:
    """What a reader must know about a mixture that a policy went through."""
    tokens = run.spec.proxy.tokens
    yield (
        f"No law predicts this mixture: it is the mean over {tokens:,} tokens of what the policy went through in one run. "
        "Validation trains it from the first token to the last, not the policy."
    )
    yield in_words(run.schedule)
    if violations:
        yield f"That mean is not allowed here, the nearest allowed mixture is given: {'; '.join(violations)}."
    said = told(run.spec.feed, run.state)
    if share := said.get("probe_share"):
        yield f"{100 * share:.0f} % of that run's tokens went to probes, whose mean is the uniform mixture."
    if cut := said.get("cut_rounds"):
        yield f"In {cut:.0f} rounds a scarce domain cut a probe short, and the mixture stayed as it was."


def in_words(schedule: Schedule) -> str:
    """A schedule in one sentence: the domains that it moves most."""
    (_, first), (_, last) = schedule.phases[0], schedule.phases[-1]
    moved = sorted(first, key=lambda name: (-abs(last[name] - first[name]), name))[:TOLD]
    paths = ", ".join(f"{name} from {100 * first[name]:.1f} to {100 * last[name]:.1f} %" for name in moved)
    if len(schedule.phases) == 1:
        return "The schedule has one phase: its mixture never changed."
    return f"The schedule has {len(schedule.phases)} phases: {paths}. The recommendation is their mean by tokens."
