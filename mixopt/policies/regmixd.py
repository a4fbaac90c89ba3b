"""RegMix-D online: at each switch, the mixture from which the losses that were just measured fall the most by the end.

With L_m the held-out loss m, interval i of the run, which trains the mixture p, takes it from L_m to L'_m:

    u_m = ((L_m - c_m) / d_m)^-k_m                       what was learnt for m; 0 before training
    u'_m = u_m + b_mi + A_mi . p
    p_i = mean of the best candidates p by sum_m w_m L_m at the end, if p is trained in every interval that is left

A swarm of static runs shows each loss only together with the mixture that led to it, so a free regression on both could
not say which of the two counts. Here the loss alone says what was learnt before, and the mixture what is added: that
is what makes "and if we switched now" a question that the swarm answers. Intervals differ by what they add, since the learning
rate does.

Shapes: N candidates, D domains in sorted order, M of them with a weight, I intervals.

Source: RegMix-D (arXiv:2606.18663), which has trees in place of this transition; docs/differences.md says how we differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from mixopt.domains import Domain
from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policy import Feedback, Signal, Valid, knobs, plain, tuples
from mixopt.space import MixtureSpace

CANDIDATES, KEEP = 20_000, 32
CONCENTRATION = 1.0  # mean of a domain's, in drawing candidates
LEAST = 1e-3  # of L - c and of u, as parts of their sizes: beyond what was seen


@dataclass(frozen=True)
class Transition:
    """What a swarm's checkpoints teach: from the losses at one switch, and a mixture, to those at the next.

    `ends` are the intervals' ends as parts of a run; for each of `metrics`, `floor` is c, `size` d, `power` k,
    `ridge` the strength of the ridge that learned them, and `steps` (b, A) of every interval.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    ends: tuple[float, ...]
    floor: tuple[float, ...]
    size: tuple[float, ...]
    power: tuple[float, ...]
    ridge: tuple[float, ...]
    steps: tuple[tuple[tuple[float, ...], ...], ...]

    def learnt(self, L_M: FloatArray) -> FloatArray:
        """What losses [M] say was learnt: u [M]."""
        return np.asarray(np.maximum((L_M - self.floor) / self.size, LEAST) ** -np.array(self.power))

    def losses(self, u_NM: FloatArray) -> FloatArray:
        """Losses [N, M] of u [N, M]."""
        return np.asarray(self.floor + np.array(self.size) * np.maximum(u_NM, LEAST) ** (-1 / np.array(self.power)))

    def next(self, i: int, p_ND: FloatArray, u_NM: FloatArray) -> FloatArray:
        """What was learnt [N, M] after interval i on p, from that before it."""
        step_MC = self._steps_MIC[:, i]
        return np.asarray(u_NM + step_MC[:, 0] + p_ND @ step_MC[:, 1:].T)

    def end(self, i: int, p_ND: FloatArray, u_NM: FloatArray) -> FloatArray:
        """Losses [N, M] at the end if p is trained from interval i on."""
        for k in range(i, len(self.ends)):
            u_NM = self.next(k, p_ND, u_NM)
        return self.losses(u_NM)

    @cached_property
    def _steps_MIC(self) -> FloatArray:
        return np.array(self.steps)


def candidates(space: MixtureSpace, seed: int, round: int, count: int) -> FloatArray:
    """Mixtures [N, D] within the bounds, around the prior: decided by the seed, the round and the domains' names."""
    streams = [np.random.default_rng([seed, round, zlib.crc32(name.encode())]) for name in space.names]
    shape_D = np.maximum(CONCENTRATION * len(space.names) * space.prior_D, 0.05)
    gamma_ND = np.stack([rng.standard_gamma(k, count) for rng, k in zip(streams, shape_D, strict=True)], axis=1)
    return space.project(gamma_ND / np.maximum(gamma_ND.sum(axis=1, keepdims=True), 1e-300))


@dataclass(frozen=True)
class State:
    """`round` counts the intervals that are over."""

    names: tuple[str, ...]
    now: Mixture
    round: int
    seen: int
    total: int


@dataclass(frozen=True)
class RegMixD:
    """Search again at each switch, from the losses that were measured.

    `first` is the mixture until the first switch, `weights` those of the metrics in units of their held-out losses,
    `prior`, `lower` and `upper` say where candidates lie, `candidates` how many are drawn at each switch, and `keep` of how
    many of them the mean is taken.
    """

    transition: Transition
    first: Mapping[str, float]
    weights: Mapping[str, float]
    prior: Mapping[str, float]
    lower: Mapping[str, float]
    upper: Mapping[str, float]
    seed: int = 0
    candidates: int = CANDIDATES
    keep: int = KEEP

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses."""
        return frozenset({Valid()})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """The first mixture. Raises JobError for a run of other domains than the swarm's."""
        if set(names) != set(self.transition.names):
            raise JobError(
                f"regmixd: learned from runs of {', '.join(self.transition.names)}; this run has {', '.join(names)}."
            )
        return State(tuple(names), Mixture(self.first), 0, start.seen, start.total)

    def segment(self, state: State) -> Segment:
        """To the next switch."""
        return Segment(state.now, max(1, round(self.transition.ends[state.round] * state.total) - state.seen))

    def update(self, state: State, feedback: Feedback) -> State:
        """Where this was the end of an interval, search for the next: less than half a training step of it is left."""
        law, i = self.transition, state.round + 1
        left = round(law.ends[state.round] * state.total) - feedback.seen
        if i == len(law.ends) or 2 * left >= feedback.step:
            return replace(state, seen=feedback.seen)
        measured = dict(zip(state.names, feedback.signals["valid"], strict=True))
        u_M = law.learnt(np.array([measured[name] for name in law.metrics]))
        w_M = np.array([self.weights[name] for name in law.metrics])
        drawn_ND = candidates(self._space, self.seed, i, self.candidates)
        order_N = np.argsort(law.end(i, drawn_ND, u_M[None]) @ w_M, kind="stable")[: self.keep]
        p_D = drawn_ND[order_N].mean(axis=0)
        return replace(state, now=Mixture.from_array(law.names, p_D / p_D.sum()), round=i, seen=feedback.seen)

    @cached_property
    def _space(self) -> MixtureSpace:
        domains = tuple(Domain(name, 1) for name in self.transition.names)
        return MixtureSpace(domains, 1, 1.0, Mixture(self.prior), self.lower, self.upper)

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"now": Mixture(body["now"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "regmixd", "transition": {...}, ...}`."""
        return {"policy": "regmixd", **knobs(self), "transition": plain(self.transition)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> RegMixD:
        """The policy that `to_json` described."""
        return cls(**tuples(body) | {"transition": Transition(**tuples(body["transition"]))})
