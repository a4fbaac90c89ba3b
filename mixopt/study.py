"""What a method sees, what it answers, and the seams through which the outside is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mixopt.mixture import FloatArray, Mixture
from mixopt.policy import Fixed, OnlinePolicy
from mixopt.runs import Objective, Proxy, RunRecord, RunSpec, Swarm
from mixopt.space import MixtureSpace


@dataclass(frozen=True)
class Study:
    """One question: which mixture of this space minimises this objective, judged by these proxies.

    `swarm` holds the records of the runs that the method has asked for so far. All proxies of a swarm share `seed`,
    hence their initialisation and their order of data, so that differences are due to mixtures. `design` names the
    function of `mixopt.designs` that says which mixtures these are. With `uncertainty` answers say how sure they are,
    which takes most of the time of a conclusion.
    """

    space: MixtureSpace
    objective: Objective
    proxy: Proxy
    count: int
    seed: int = 0
    swarm: Swarm = field(default_factory=Swarm)
    design: str = "dirichlet"
    uncertainty: bool = True

    @property
    def budget(self) -> int:
        """Tokens that a method may train for its answer: `count` proxies, or fewer runs that last longer."""
        return self.count * self.proxy.tokens

    @property
    def longest(self) -> Proxy:
        """The proxy of its longest run: `proxy` unless a method trained fewer runs that last longer."""
        return max((record.spec.proxy for record in self.swarm.records), key=lambda p: p.tokens, default=self.proxy)

    def spec(self, feed: OnlinePolicy[Any], seed: int | None = None) -> RunSpec:
        """A run of this study's proxy."""
        return RunSpec(feed, self.proxy, self.seed if seed is None else seed)

    def specs(self, w_ND: FloatArray) -> list[RunSpec]:
        """One run for each mixture of [N, D]."""
        return [self.spec(Fixed(Mixture.from_array(self.space.names, w_D / w_D.sum()))) for w_D in w_ND]

    @property
    def points(self) -> Swarm:
        """The good runs that compare with each other: each on one mixture, all of this study's own proxy."""
        good = self.swarm.good.records
        return Swarm(tuple(r for r in good if isinstance(r.spec.feed, Fixed) and r.spec.proxy == self.proxy))

    def table(self) -> tuple[FloatArray, FloatArray]:
        """Mixtures [R, D] and the objective's metrics [R, M] of the good runs."""
        good = self.swarm.good
        return good.mixtures_RD(self.space.names), good.metrics_RM(self.objective.metrics)


@dataclass(frozen=True)
class Recommendation:
    """A method's answer.

    `predicted` maps "objective" and each metric to the law's value at the answer (empty for baselines, which predict
    nothing); `interval` is the 90 % interval of the objective; `evidence` is plain data for the report. A method that
    adapts proportions during training names the `policy` that is to feed the real run; `mixture` is then the
    token-weighted mean of what the policy went through.
    """

    mixture: Mixture
    predicted: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    policy: OnlinePolicy[Any] | None = None

    @property
    def feed(self) -> OnlinePolicy[Any]:
        """What the real run is to be fed with."""
        return self.policy or Fixed(self.mixture)


class Method(Protocol):
    """A paper: which runs it wants, and what it concludes from them."""

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """ALL runs wanted so far, given the swarm: deterministic, and a larger count only adds to the end."""

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The answer, once every run asked for exists."""


@runtime_checkable
class Adapting(Protocol):
    """A method whose real answer is a policy: what the runs asked for first teach it, and the policy itself."""

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Runs that must exist before there is a policy: none for most."""

    def policy(self, study: Study, rng: np.random.Generator) -> OnlinePolicy[Any]:
        """The policy, once the swarm holds those runs."""


class Executor(Protocol):
    """Where runs are made."""

    def run(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Train each spec, in any order; a failed run is a record. Raises RunFailed if workers keep dying."""


class Tracker(Protocol):
    """A write-only mirror for people to look at; nothing is ever read back from it. Never blocks long, never raises."""

    def log(self, record: RunRecord) -> None:
        """Mirror one finished run; one that is there already is left alone."""

    def conclude(self, results: Mapping[str, Any]) -> None:
        """Mirror what the search found."""

    def close(self) -> None:
        """Let the mirror finish, for a bounded time."""


class Untracked:
    """The tracker that shows nothing to anybody."""

    def log(self, record: RunRecord) -> None:
        """Nothing."""

    def conclude(self, results: Mapping[str, Any]) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


Train = Callable[[Sequence[RunSpec]], Iterator[RunRecord]]
"""Trains a stack of specs of one shape together; each record comes as its run ends."""
