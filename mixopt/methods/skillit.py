"""Skill-It: runs on single domains say who teaches whom; a policy follows that graph and the losses of its own run.

Source: Chen et al. 2023, arXiv:2307.14430, its reference code, and the graph of Aioli's (arXiv:2411.05735);
docs/differences.md says how we differ.

    1. train one run on each domain j alone; L_i(0) and L_i(j) are the held-out losses of domain i before and after it
    2. G_ji = max(0, (L_i(0) - L_i(j)) / L_i(0));
       with edges "pairs" runs on all pairs too: G_jj = 1, and G_ij = 1/2 where L_j({i, j}) < L_j(j), else 0
    3. train what is left of the budget by the policy of mixopt/policies/skillit.py

The authors expect nothing from a graph that is nearly empty or nearly complete: the evidence says when it is.

Shapes: D domains; G_DD [trained j, evaluated i].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, Literal

import numpy as np

from mixopt.errors import JobError, RunFailed
from mixopt.methods.online import ask, recommend
from mixopt.mixture import FloatArray, Mixture
from mixopt.policies import skillit
from mixopt.policies.watched import Watched
from mixopt.runs import RunSpec
from mixopt.study import Recommendation, Study

EMPTY, COMPLETE = 0.1, 0.9  # densities beyond which a graph hardly tells domains apart: conventions
PAIRED = 0.5  # weight of an edge that a pair of domains showed
LITTLE = 1e-12


@dataclass(frozen=True)
class SkillIt:
    """A graph of which domain teaches which, from runs on each alone, then proportions that follow it and the losses.

    `graph_share` is the part of the search budget that the graph takes, divided equally among its runs.
    """

    eta: float = 0.2
    window: int = 3
    rounds: int = 10
    graph_share: float = 0.5
    edges: Literal["drops", "pairs"] = "drops"
    part: float = 1.0

    def __post_init__(self) -> None:
        """Check the knobs."""
        skillit.check(self.eta, self.window, self.rounds, self.part)
        if not 0 < self.graph_share < 1:
            raise JobError(f"method.graph_share: must be above 0 and below 1 (got {self.graph_share:g}).")

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Step 1: whole training steps for each run. Raises JobError for a budget that has none."""
        names = study.space.names
        feeds = [Watched(_evenly(some, names), self.part) for some in self._trained(names)]
        step = study.proxy.batch * study.proxy.sequence
        steps = int(self.graph_share * study.budget / len(feeds) / step + 1e-9)
        left = study.budget - len(feeds) * steps * step
        if steps < 1 or left < self.rounds * step:
            raise JobError(
                f"method.graph_share: {self.graph_share:g} of {study.budget:,} tokens leaves {steps} steps of {step:,} "
                f"tokens to each of {len(feeds)} runs and {left // step} to {self.rounds} rounds, which need one each. "
                "A larger proxies.count or fewer rounds help."
            )
        return [RunSpec(feed, study.proxy.lasting(steps * step), study.seed) for feed in feeds]

    def policy(self, study: Study, rng: np.random.Generator) -> skillit.SkillIt:
        """Step 2. Raises RunFailed where a run that the graph needs is missing."""
        G_DD, names = self.graph(study, rng), study.space.names
        return skillit.SkillIt(_named(G_DD, names), self.eta, self.window, self.rounds, self.part)

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Step 1, then step 3."""
        return ask(self, study, rng)

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """What step 3 went through, with the graph as evidence. Raises RunFailed if a run diverged."""
        G_DD = self.graph(study, rng)
        best = recommend(self, study, rng)
        notes = (*best.evidence["proposer_notes"], *said(G_DD, PAIRED if self.edges == "pairs" else None))
        return replace(
            best, evidence={**best.evidence, "graph": _named(G_DD, study.space.names), "proposer_notes": notes}
        )

    def graph(self, study: Study, rng: np.random.Generator) -> FloatArray:
        """G [D, D] of the runs of `learn`. Raises RunFailed where one is missing."""
        names, specs = study.space.names, self.learn(study, rng)
        good = {record.spec.id: record for record in study.swarm.good.records}
        after: dict[tuple[str, ...], FloatArray] = {}
        for some, spec in zip(self._trained(names), specs, strict=True):
            if spec.id not in good:
                raise RunFailed(
                    f"run {spec.id}: on {' and '.join(some)} alone it diverged, and the graph needs it. "
                    "A lower proxies.learning_rate helps."
                )
            state = Watched(_evenly(some, names), self.part).load(good[spec.id].state)
            before_D, after[some] = (
                np.array([dict(zip(state.names, losses, strict=True))[name] for name in names])
                for losses in (state.before, state.now)
            )
        alone_DD = np.stack([after[name,] for name in names])
        return drops(before_D, alone_DD) if self.edges == "drops" else pairs(names, alone_DD, after)

    def _trained(self, names: tuple[str, ...]) -> list[tuple[str, ...]]:
        """The sets of domains to train on."""
        more = combinations(names, 2) if self.edges == "pairs" else ()
        return [*((name,) for name in names), *more]


def drops(before_D: FloatArray, alone_DD: FloatArray) -> FloatArray:
    """G [D, D] from the losses [D] before, and those [trained, evaluated] after training on each domain alone."""
    return np.maximum(0.0, (before_D - alone_DD) / before_D)


def pairs(names: tuple[str, ...], alone_DD: FloatArray, after: Mapping[tuple[str, ...], FloatArray]) -> FloatArray:
    """G [D, D] with an edge from i to j where training on both left a lower loss of j than on j alone."""
    G_DD = np.eye(len(names))
    for (i, one), (j, other) in combinations(enumerate(names), 2):
        together_D = after[one, other]
        G_DD[i, j] = PAIRED * (together_D[j] < alone_DD[j, j])
        G_DD[j, i] = PAIRED * (together_D[i] < alone_DD[i, i])
    return G_DD


def density(G_DD: FloatArray, most: float | None = None) -> float:
    """How much other domains teach, as a part of `most`, or of what a domain teaches itself: 0 nothing, 1 as much."""
    own_D = np.full(len(G_DD), most) if most is not None else np.maximum(G_DD.diagonal(), LITTLE)
    part_DD = np.clip(G_DD / own_D, 0, 1)
    return float(part_DD[~np.eye(len(G_DD), dtype=bool)].mean()) if len(G_DD) > 1 else 0.0


def said(G_DD: FloatArray, most: float | None = None) -> tuple[str, ...]:
    """A sentence where the graph hardly tells domains apart."""
    found = density(G_DD, most)
    if EMPTY <= found <= COMPLETE:
        return ()
    kind = "empty" if found < EMPTY else "complete"
    of = "of all edges are there" if most is not None else "of what a domain teaches itself, others teach it on average"
    return (f"The graph is nearly {kind}: {100 * found:.0f} % {of}. Expect nothing from Skill-It here.",)


def _evenly(some: tuple[str, ...], names: tuple[str, ...]) -> Mixture:
    return Mixture({name: (name in some) / len(some) for name in names})


def _named(G_DD: FloatArray, names: tuple[str, ...]) -> dict[str, Any]:
    return {j: dict(zip(names, row, strict=True)) for j, row in zip(names, G_DD.tolist(), strict=True)}
