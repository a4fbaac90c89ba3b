"""Aioli: short probes of the run itself measure how much each domain lowers each loss, and the mixture follows.

Source: Chen et al. 2024, arXiv:2411.05735, and its reference code; docs/differences.md says how we differ.

    for each of `rounds` rounds, with m domains:
        1. LearnParams: in each of k = `sweeps` sweeps, for each domain j in random order, train an interval on p^(j):
           h = `one_hot` on j and (1 - h) / (m - 1) on each other domain
           beta_ij += L_i(before) - L_i(after); at the end beta <- beta / k
        2. solve W a_i = beta_i for each row i of A, with p^(j) in row j of W
        3. Abar = A - min(A, 0), divided by the sum of its entries
        4. p_j <- p_j exp(eta sum_i Abar_ij), normalised
           with `ema`, memoryless: p_j ~ exp(eta sum_i E_ij) where E <- (1 - ema) Abar + ema E, at first Abar
        5. train the rest of the round on p

Probes train the run: they take `probe_share` of its tokens, and these average to the uniform mixture.

Shapes: D domains; of matrices [D, D], domain i that is evaluated in rows, domain j that is trained in columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.rounds import given
from mixopt.policy import Feedback, Signal, Valid, beginning, knobs, tuples

FARTHEST = 500.0  # nats that two proportions may part in a run: beyond, the smaller one would be zero for good


@dataclass(frozen=True)
class State:
    """`interval` counts the probes of this round that are done, `valid` is L when the present one began.

    `beta` sums over the sweeps so far; `A` is the last Abar, or E; `probed` the tokens of all probes.
    """

    names: tuple[str, ...]
    total: int
    step: int
    p: tuple[float, ...]
    valid: tuple[float, ...]
    beta: tuple[tuple[float, ...], ...]
    A: tuple[tuple[float, ...], ...] | None = None
    round: int = 0
    interval: int = 0
    seen: int = 0
    probed: int = 0


@dataclass(frozen=True)
class Aioli:
    """Probes in the run itself say how much each domain lowers each loss; the mixture follows, round by round.

    `start` is the first mixture, such as another method's answer; `part` that of the held-out text which probes are
    measured on; `seed` decides their order.
    """

    eta: float = 0.5
    rounds: int = 20
    sweeps: int = 4
    probe_share: float = 0.3
    one_hot: float = 0.75
    ema: float | None = None
    start: Mapping[str, float] | None = None
    part: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the knobs."""
        if min(self.rounds, self.sweeps) < 1:
            raise JobError(f"method.rounds, method.sweeps: must be at least 1 (got {self.rounds}, {self.sweeps}).")
        for name, share in (("probe_share", self.probe_share), ("one_hot", self.one_hot), ("part", self.part)):
            if not 0 < share <= 1:
                raise JobError(f"method.{name}: must be above 0 and at most 1 (got {share:g}).")
        if not 0 < self.eta * self.rounds <= FARTHEST:
            most = f"{FARTHEST / self.rounds:g} in {self.rounds} rounds, so that no proportion ends at zero"
            raise JobError(f"method.eta: must be above 0 and at most {most} (got {self.eta:g}).")
        if not 0 <= (self.ema or 0) < 1:
            raise JobError(f"method.ema: must be at least 0 and below 1 (got {self.ema:g}).")
        if self.ema is not None and self.start is not None:
            raise JobError("method.start: is forgotten at once with ema, which begins at uniform. Leave one out.")
        given("start", self.start)

    @property
    def needs(self) -> frozenset[Signal]:
        """Held-out losses."""
        return frozenset({Valid(self.part)})

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Before the first round. Raises JobError for an interval below one step, or a W that cannot be solved."""
        m = len(names)
        if m < 2 or self.one_hot <= 1 / m:
            least = f"above 1/{m}, where every probe is the same mixture" if m > 1 else "for at least two domains"
            raise JobError(f"method.one_hot: must be {least} (got {self.one_hot:g} for {m} domains).")
        p = beginning(given("start", self.start), names).array(names)
        valid, nothing = tuples(start.signals["valid"].tolist()), tuples(np.zeros((m, m)).tolist())
        state = State(tuple(names), start.total, start.step, tuples(p.tolist()), valid, nothing)
        if self._interval(state) < start.step:
            a_round, n = start.total // self.rounds, m * self.sweeps
            raise JobError(
                f"method.probe_share: {self.probe_share:g} of a round of {a_round:,} tokens in {n} intervals "
                f"({self.sweeps} sweeps of {m} domains) is {self.probe_share * a_round / n:,.0f} tokens each, less than a "
                f"step ({start.step:,}). Fewer rounds or sweeps, a larger probe_share or a longer run help."
            )
        return state

    def segment(self, state: State) -> Segment:
        """The next probe, or the rest of the round on p."""
        if state.interval < self._probes(state):
            j = self._domain(state)
            others = (1 - self.one_hot) / (len(state.names) - 1)
            p = {name: self.one_hot if i == j else others for i, name in enumerate(state.names)}
            return Segment(Mixture(p), self._interval(state))
        return Segment(Mixture.from_array(state.names, np.array(state.p)), self._end(state) - state.seen)

    def update(self, state: State, feedback: Feedback) -> State:
        """After a probe add to beta, after the last one move p; after the rest begin the next round."""
        L_D = feedback.signals["valid"]
        if state.interval < self._probes(state):
            beta_DD, probed = np.array(state.beta), state.probed + feedback.seen - state.seen
            beta_DD[:, self._domain(state)] += state.valid - L_D
            state = replace(state, beta=tuples(beta_DD.tolist()), interval=state.interval + 1, probed=probed)
            if state.interval == self._probes(state):
                state = self._moved(state, normalise(learn(beta_DD / self.sweeps, self.one_hot)))
        state = replace(state, seen=feedback.seen, valid=tuples(L_D.tolist()))
        if state.interval == self._probes(state) and state.seen >= self._end(state):
            state = replace(state, round=state.round + 1, interval=0, beta=tuples(np.zeros((len(L_D),) * 2).tolist()))
        return state

    def load(self, body: Any) -> State:
        """The state of which `plain` made this."""
        return State(**tuples(body))

    def to_json(self) -> dict[str, Any]:
        """The policy's name and its knobs."""
        return {"policy": "aioli", **knobs(self)}

    def matrix(self, state: State) -> FloatArray | None:
        """The last round's Abar [D, D], or E; None before the first LearnParams has ended."""
        return None if state.A is None else np.array(state.A)

    def evidence(self, state: State) -> dict[str, float]:
        """The part of its tokens that the run spent on probes so far."""
        return {"probe_share": state.probed / max(1, state.seen)}

    def _moved(self, state: State, A_DD: FloatArray) -> State:
        """Step 4."""
        p_D = np.array(state.p) if self.ema is None else np.ones(len(state.p))
        if self.ema is not None and state.A is not None:
            A_DD = (1 - self.ema) * A_DD + self.ema * np.array(state.A)
        return replace(state, A=tuples(A_DD.tolist()), p=tuples(step(p_D, A_DD, self.eta).tolist()))

    def _probes(self, state: State) -> int:
        return self.sweeps * len(state.names)

    def _domain(self, state: State) -> int:
        """Which domain the present probe is of: each sweep shuffles the domains by their names."""
        sweep, at = divmod(state.interval, len(state.names))
        keys = [hashlib.sha256(f"{self.seed} {state.round} {sweep} {name}".encode()).digest() for name in state.names]
        return keys.index(sorted(keys)[at])

    def _interval(self, state: State) -> int:
        """Tokens of a probe: whole steps, the same in all rounds."""
        steps = self.probe_share * (state.total // state.step // self.rounds) / self._probes(state)
        return int(steps + 1e-9) * state.step

    def _end(self, state: State) -> int:
        """The token at which the present round ends; the last one ends with the run."""
        steps = -(-state.total // state.step)
        return min(state.total, (state.round + 1) * steps // self.rounds * state.step)


def learn(beta_DD: FloatArray, h: float) -> FloatArray:
    """A [D, D] with W a_i = beta_i, from drops of the losses in probes with weight h on one domain."""
    others = (1 - h) / (len(beta_DD) - 1)
    W_DD = others + (h - others) * np.eye(len(beta_DD))
    return np.asarray(np.linalg.solve(W_DD, beta_DD.T).T, dtype=float)


def normalise(A_DD: FloatArray) -> FloatArray:
    """Abar [D, D], not negative, with sum 1. Entries that are all alike and not positive say nothing: all 1 / m^2."""
    A_DD = A_DD - min(A_DD.min(), 0.0)
    total = A_DD.sum()
    return A_DD / total if total > 0 else np.full_like(A_DD, 1 / A_DD.size)


def step(p_D: FloatArray, A_DD: FloatArray, eta: float) -> FloatArray:
    """p_j exp(eta sum_i A_ij), normalised."""
    p_D = p_D * np.exp(eta * A_DD.sum(axis=0))
    return p_D / p_D.sum()
