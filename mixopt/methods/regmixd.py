"""RegMix-D: learn from the swarm's checkpoints how losses change from one to the next, and plan a mixture for each interval.

Source: RegMix-D (arXiv:2606.18663); docs/differences.md says how we differ.

    1. train one proxy on each of n static mixtures, as RegMix does, and keep its losses at every checkpoint
    2. fit the transition of `mixopt.policies.regmixd`
    3. for each interval, search the mixture with the lowest predicted objective at the end if it is trained from here on;
       go on with what was fed so far (offline), and with the losses that the run measures (online); offline a mixture that
       is predicted to save less than a thousandth of the objective is no reason to switch

What the swarm cannot tell is assumed: that what a run was trained on decides what it has learnt, and its order only by how
much more the later tokens count. Every run of the swarm trained one mixture from its start.

Shapes: R runs, D domains, M metrics, I intervals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from mixopt import quality
from mixopt.designs import mixtures
from mixopt.errors import JobError
from mixopt.laws.transition import at_the_end, fit, refuse_too_few
from mixopt.limits import Trust
from mixopt.methods import online as following
from mixopt.mixture import FloatArray, Mixture, Schedule
from mixopt.policies.regmixd import CANDIDATES, KEEP, RECENT, RegMixD, Transition
from mixopt.policy import Fixed, OnlinePolicy, Scheduled
from mixopt.proposers import simulate
from mixopt.recommend import points
from mixopt.runs import RunSpec, Swarm
from mixopt.study import Recommendation, Study

KINDS = ("bpb", "loss")
SAVES = 1e-3  # of the objective, predicted: below that a plan does not switch
WEAK = 0.5  # of the variance over runs that is predicted of runs left out
UNSURE = (
    "How sure the proportions of each phase are was not measured: regmixd has one transition and no others to compare."
)


@dataclass(frozen=True)
class RegMixDynamic:
    """Plan when to switch between checkpoints, and to what, from the losses of a swarm of static runs.

    `online` leaves one proxy of the budget to a run that measures its losses at each switch and searches again;
    without it the plan is made beforehand. A token at the part t of a run counts as t^recent, 0 for all alike. `candidates`
    and `keep` as in RegMix, for each search.
    """

    online: bool = False
    recent: float = RECENT
    candidates: int = CANDIDATES
    keep: int = KEEP

    def __post_init__(self) -> None:
        """Check the knobs."""
        if not 1 <= self.keep <= self.candidates:
            raise JobError(f"method.keep: must be between 1 and candidates, {self.candidates} (got {self.keep}).")
        if not 0 <= self.recent < np.inf:
            raise JobError(f"method.recent: must be 0 or more (got {self.recent}).")

    def learn(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """Step 1, with as many proxies as the budget leaves. Raises JobError for what this method cannot do."""
        _refuse(study, self.online)
        return study.specs(mixtures(replace(study, count=study.count - self.online), rng))

    def ask(self, study: Study, rng: np.random.Generator) -> list[RunSpec]:
        """The swarm; then, online, the run that follows the policy."""
        return following.ask(self, study, rng) if self.online else self.learn(study, rng)

    def policy(self, study: Study, rng: np.random.Generator) -> OnlinePolicy[Any]:
        """Online, the transition with the first mixture; else the plan."""
        seen = Seen.of(study, self.recent)
        plan, _ = self._plan(study, seen, rng)
        if not self.online:
            return Scheduled(plan)
        space = study.space
        lower, upper, prior = (
            dict(zip(space.names, w_D.tolist(), strict=True))
            for w_D in (space.lower_D, np.minimum(space.upper_D, 1.0), space.prior_D)
        )
        first, weights = dict(plan.phases[0][1]), dict(zip(seen.law.metrics, seen.weights_M.tolist(), strict=True))
        return RegMixD(seen.law, first, weights, prior, lower, upper, study.seed, self.candidates, self.keep)

    def recommend(self, study: Study, rng: np.random.Generator) -> Recommendation:
        """The plan and its mean; online, what the last run went through. Raises SwarmError for too few good runs."""
        if self.online:
            return following.recommend(self, study, rng)
        seen, objective = Seen.of(study, self.recent), study.objective
        plan, L_M = self._plan(study, seen, rng)
        Y_RM = seen.L_RIM[:, -1] * seen.units_M
        P_RM = quality.out_of_fold(at_the_end(seen.law.names, seen.law.metrics), seen.X_RD, Y_RM)
        metrics = dict(zip(objective.metrics, (L_M * seen.units_M).tolist(), strict=True))
        value, half = objective.value(metrics), quality.interval(Y_RM, P_RM, objective)
        fit = {"law": "transition", "runs": len(Y_RM)} | quality.describe(Y_RM, P_RM, objective)
        fit["own_proportion"] = quality.own_proportion(seen.X_RD, Y_RM, study.space.names, objective.metrics)
        fit["out_of_fold"] = points(Y_RM, P_RM, objective)
        evidence = {
            "how": "simulation",
            "law": "transition",
            "fit": fit,
            "schedule": plan.plain(),
            "not_measured": UNSURE,
        }
        return Recommendation(
            plan.mean,
            predicted={"objective": value, **metrics},
            interval=(value - half, value + half) if half is not None else None,
            evidence=evidence | {"proposer_notes": [following.in_words(plan), *_weak(Y_RM, P_RM, objective.metrics)]},
            policy=Scheduled(plan),
        )

    def _plan(self, study: Study, seen: Seen, rng: np.random.Generator) -> tuple[Schedule, FloatArray]:
        """Step 3 offline: the phases, a new one where it saves enough, and the losses [M] predicted at their end."""
        law, names = seen.law, study.space.names
        phases: list[tuple[float, Mixture]] = []
        fed_D, now_D = np.zeros((2, len(names)))
        for start, end in pairwise((0.0, *law.ends)):
            found_D = simulate(partial(seen.score, fed_D), study.space, rng, self.candidates, self.keep)
            switched, stayed = seen.score(fed_D, np.stack([found_D, now_D]))
            if not phases or switched < (1 - SAVES) * stayed:
                now_D = found_D / found_D.sum()
                phases.append((start, Mixture.from_array(names, now_D)))
            fed_D = fed_D + law.counts(start, end) * now_D
        return Schedule(tuple(phases)), law.end(fed_D, now_D[None])[0]


@dataclass(frozen=True)
class Seen:
    """What the good runs of a study's swarm show: mixtures [R, D], losses [R, I, M], and the law.

    Losses are those that a policy hears, in nats per token; `units_M` are the objective's metrics in units of them,
    `weights_M` its weights times that. A record without such losses has one unit for all.
    """

    law: Transition
    X_RD: FloatArray
    L_RIM: FloatArray
    units_M: FloatArray
    weights_M: FloatArray

    @classmethod
    def of(cls, study: Study, recent: float) -> Seen:
        """Read the swarm, fit the transition. Raises SwarmError for runs it cannot use."""
        names, metrics, swarm = study.space.names, study.objective.metrics, study.swarm.good.records
        static = [r for r in swarm if isinstance(r.spec.feed, Fixed) and r.spec.proxy == study.proxy]
        most = max((len(r.trajectory) for r in static), default=0)
        good = [r for r in static if len(r.trajectory) == most]
        refuse_too_few(len(good), len(names))
        Swarm(tuple(good)).metrics_RM(metrics)  # raises SwarmError for a metric that is not there
        domains = [metric.partition("/")[2] for metric in metrics]
        keys = [f"loss/{name}" if f"loss/{name}" in good[0].metrics else f"bpb/{name}" for name in domains]
        units_M = np.array([good[0].metrics[m] / good[0].metrics[key] for m, key in zip(metrics, keys, strict=True)])
        L_RIM = np.array([[[measured[key] for key in keys] for _, measured in r.trajectory] for r in good])
        ends = [tokens / study.proxy.tokens for tokens, _ in good[0].trajectory]
        X_RD = Swarm(tuple(good)).mixtures_RD(names)
        law = fit(names, domains, [*ends[:-1], 1.0], X_RD, L_RIM, recent)
        return cls(law, X_RD, L_RIM, units_M, study.objective.weights_M * units_M)

    def score(self, fed_D: FloatArray, p_ND: FloatArray) -> FloatArray:
        """The objective [N] at the end if p is trained from here on, where `fed_D` counts what was before."""
        return np.asarray(self.law.end(fed_D, p_ND) @ self.weights_M)


def _weak(Y_RM: FloatArray, P_RM: FloatArray, metrics: Sequence[str]) -> Iterator[str]:
    """What a reader must know about metrics that the transition does not predict."""
    fits = [(name, quality.r2(y_R, p_R)) for name, y_R, p_R in zip(metrics, Y_RM.T, P_RM.T, strict=True)]
    if weak := [name for name, r2 in fits if r2 is not None and r2 < WEAK]:
        yield (
            f"Out of fold the transition explains less than half of how {', '.join(weak)} vary over the runs: what the plan "
            "gives these domains is hardly more than a guess. More runs (proxies.count) help."
        )


def _refuse(study: Study, online: bool) -> None:
    """Raise JobError for a study that this method has no answer for."""
    problems, space = [], study.space
    if study.proxy.checkpoints < 2:
        problems.append(
            f"proxies.checkpoints: regmixd switches at checkpoints and needs 2 (got {study.proxy.checkpoints})."
        )
    foreign = [
        m for m in study.objective.metrics if m.partition("/")[::2] not in {(k, n) for k in KINDS for n in space.names}
    ]
    if foreign:
        problems.append(f"objective: regmixd follows held-out losses of the domains, not {', '.join(foreign)}.")
    if study.objective.floors:
        problems.append("objective.floors: regmixd keeps none. Use regmix or olmix.")
    if online and (space.groups or space.trust != Trust() or space.frozen):
        problems.append("method.online: knows bounds and epoch caps, no groups or trust region. Use online: false.")
    if problems:
        raise JobError("\n".join(problems))
