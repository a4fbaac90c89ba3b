"""A schedule planned by hand as a method: it trains no proxies, and its mixture is the schedule's mean.

Source: ours; `mixopt.policies.schedules` makes annealing, DMT's two stages and replay floors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixopt.errors import DataError, InfeasibleSpace, JobError
from mixopt.methods.online import in_words
from mixopt.mixture import Mixture, Schedule
from mixopt.policy import Scheduled
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study


@dataclass(frozen=True)
class Planned:
    """Phases planned by hand: [[0.0, {web: 0.8, code: 0.2}], [0.9, {web: 0.2, code: 0.8}]], starts as parts of the run."""

    phases: tuple[tuple[float, Mapping[str, float]], ...] = ()

    def __post_init__(self) -> None:
        """Check every phase. Raises JobError with all that is wrong."""
        problems = []
        for k, (_, proportions) in enumerate(self.phases):
            try:
                Mixture(proportions)
            except DataError as e:
                problems.append(f"method.phases[{k}]: {e}")
        starts = [start for start, _ in self.phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or not starts[-1] < 1:
            problems.append(f"method.phases: must start at 0 and increase below 1 (got starts {starts}).")
        if any(set(proportions) != set(self.phases[0][1]) for _, proportions in self.phases):
            problems.append("method.phases: every phase needs the same domains; 0 is allowed.")
        if problems:
            raise JobError("\n".join(problems))

    @property
    def schedule(self) -> Schedule:
        """The plan."""
        return Schedule.of(self.phases)

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def policy(self, study: Study, rng: np.random.Generator) -> Scheduled:
        """The plan, phase by phase."""
        for _, mixture in self.schedule.phases:
            mixture.array(study.space.names)
        return Scheduled(self.schedule)

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Nothing."""
        return []

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The schedule and its mean. Raises InfeasibleSpace if the mean breaks a bound: what counts is the whole run."""
        policy, mixture = self.policy(study, rng), self.schedule.mean
        violations = study.space.violations(mixture)
        if violations:
            raise InfeasibleSpace(
                f"the schedule is not allowed here: over the whole run {'; '.join(violations)}. Change its phases or the bounds."
            )
        evidence = {"how": "given", "schedule": self.schedule.plain(), "proposer_notes": [in_words(self.schedule)]}
        return Recommendation(mixture, evidence=evidence, policy=policy)
