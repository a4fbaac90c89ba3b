"""RegMix-D online: at each switch, the mixture from which the losses that were just measured fall the most by the end.

With L_m the held-out loss m, q the mean of what a run was trained on, and h_m the effective data of `mixopt.laws.effdata`:

    u_m = ((L_m - c_m) / d_m)^(-1 / k_m)                     what was learnt for m
    u_mi(q) = b_mi + a_mi h_m(q)                             what is expected of it after interval i
    h_m(q) = sum_j w_mj (q_j + eps_j)^g_mj                   0 < g < 1: a domain teaches less the more of it was seen
    x_m = u_m - u_mi(q)                                      what the loss just measured says beyond that
    L_m(p) = c_m + d_m (u_mI(q') + 0.6 x_m)^-k_m             at the end, if p is trained in every interval that is left
    p_i = mean of the best candidates p by sum_m w_m L_m(p)

q' is the mean with p in all that is left. In these means a token at the part t of the run counts as t^recent. That the mean
counts, that later tokens count more, and how much of a surprise lasts, is what runs that switch showed (docs/log.md):
runs on static mixtures cannot tell.

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
RECENT = 1.0  # `Transition.recent`
LASTS = 0.6  # of what a loss says beyond what is expected, by the end
LEAST = 1e-3  # of (L - c) / d and of u: beyond what was seen


@dataclass(frozen=True)
class Transition:
    """What a swarm's checkpoints teach: from what a run was trained on, and its losses at a switch, to those at its end.

    `ends` are the intervals' ends as parts of a run; for each of `metrics`, `floor` is c, `size` d, `power` k, `worth` w [D],
    `bend` g [D], `grown` a [I] and `rest` b [I]; `least` is eps [D], `recent` the power by which later tokens count more.
    """

    names: tuple[str, ...]
    metrics: tuple[str, ...]
    ends: tuple[float, ...]
    recent: float
    floor: tuple[float, ...]
    size: tuple[float, ...]
    power: tuple[float, ...]
    worth: tuple[tuple[float, ...], ...]
    bend: tuple[tuple[float, ...], ...]
    least: tuple[float, ...]
    grown: tuple[tuple[float, ...], ...]
    rest: tuple[tuple[float, ...], ...]

    def counts(self, start: float, end: float) -> float:
        """How much of a whole run the tokens from one part of it to another count."""
        return float(end ** (self.recent + 1) - start ** (self.recent + 1))

    def effective(self, q_ND: FloatArray) -> FloatArray:
        """The effective data h [N, M] of mixtures [N, D]."""
        log_ND = np.log(q_ND + np.array(self.least))
        return np.stack([np.exp(log_ND * g_D) @ w_D for g_D, w_D in zip(*self._each_MD, strict=True)], axis=1)

    def learnt(self, i: int, q_ND: FloatArray) -> FloatArray:
        """What is expected to be learnt [N, M] after interval i of runs whose means these are."""
        return np.asarray(self._rest_MI[:, i] + self._grown_MI[:, i] * self.effective(q_ND))

    def losses(self, u_NM: FloatArray) -> FloatArray:
        """Losses [N, M] of u [N, M]."""
        return np.asarray(self.floor + np.array(self.size) * np.maximum(u_NM, LEAST) ** (-np.array(self.power)))

    def beyond(self, i: int, fed_D: FloatArray, L_M: FloatArray) -> FloatArray:
        """What losses [M] after interval i say was learnt beyond what these tokens by domain let expect: x [M]."""
        above_M = np.maximum((L_M - self.floor) / np.array(self.size), LEAST)
        return np.asarray(above_M ** (-1 / np.array(self.power)) - self.learnt(i, fed_D[None] / fed_D.sum())[0])

    def end(self, fed_D: FloatArray, p_ND: FloatArray, x_M: FloatArray | float = 0.0) -> FloatArray:
        """Losses [N, M] at the end if p is trained from here on; `fed_D` counts what was before."""
        return self.losses(self.learnt(-1, fed_D + (1 - fed_D.sum()) * p_ND) + LASTS * x_M)

    @cached_property
    def _each_MD(self) -> tuple[FloatArray, FloatArray]:
        return np.array(self.bend), np.array(self.worth)

    @cached_property
    def _grown_MI(self) -> FloatArray:
        return np.array(self.grown)

    @cached_property
    def _rest_MI(self) -> FloatArray:
        return np.array(self.rest)


def candidates(space: MixtureSpace, seed: int, round: int, count: int) -> FloatArray:
    """Mixtures [N, D] within the bounds, around the prior: decided by the seed, the round and the domains' names."""
    streams = [np.random.default_rng([seed, round, zlib.crc32(name.encode())]) for name in space.names]
    shape_D = np.maximum(CONCENTRATION * len(space.names) * space.prior_D, 0.05)
    gamma_ND = np.stack([rng.standard_gamma(k, count) for rng, k in zip(streams, shape_D, strict=True)], axis=1)
    return space.project(gamma_ND / np.maximum(gamma_ND.sum(axis=1, keepdims=True), 1e-300))


@dataclass(frozen=True)
class State:
    """`round` counts the intervals that are over, `fed` what counts of the tokens, in the order of the transition's domains."""

    names: tuple[str, ...]
    now: Mixture
    round: int
    fed: tuple[float, ...]
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
        return State(tuple(names), Mixture(self.first), 0, (0.0,) * len(names), start.seen, start.total)

    def segment(self, state: State) -> Segment:
        """To the next switch."""
        return Segment(state.now, max(1, round(self.transition.ends[state.round] * state.total) - state.seen))

    def update(self, state: State, feedback: Feedback) -> State:
        """Where this was the end of an interval, search for the next: less than half a training step of it is left."""
        law, i = self.transition, state.round
        counts = law.counts(state.seen / state.total, feedback.seen / state.total)
        fed_D = np.array(state.fed) + counts * (feedback.trained or state.now).array(law.names)
        after = replace(state, fed=tuple(fed_D.tolist()), seen=feedback.seen)
        if i + 1 == len(law.ends) or 2 * (round(law.ends[i] * state.total) - feedback.seen) >= feedback.step:
            return after
        measured = dict(zip(state.names, feedback.signals["valid"], strict=True))
        x_M = law.beyond(i, fed_D, np.array([measured[name] for name in law.metrics]))
        w_M = np.array([self.weights[name] for name in law.metrics])
        drawn_ND = candidates(self._space, self.seed, i + 1, self.candidates)
        order_N = np.argsort(law.end(fed_D, drawn_ND, x_M) @ w_M, kind="stable")[: self.keep]
        p_D = drawn_ND[order_N].mean(axis=0)
        return replace(after, now=Mixture.from_array(law.names, p_D / p_D.sum()), round=i + 1)

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
