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

Probes train the run: they take `probe_share` of its tokens, and these average to the uniform mixture. A round in which a
limit made another mixture of a probe has no W to solve with: it moves nothing, and the evidence counts it.

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
from mixopt.policies.rounds import Round, exponentiated, given
from mixopt.policy import Feedback, Signal, Valid, beginning, knobs, tuples

FARTHEST = 500.0  # nats that steps of a run may add up to: many times those that two proportions can be apart


@dataclass(frozen=True)
class State:
    """`interval` counts the probes of this round that are done, `valid` is L when the present one began.

    `beta` sums over the sweeps so far, `cut` says whether one of their probes was cut, `cut_rounds` in how many rounds
    that was so; `A` is the last Abar, or E; `probed` the tokens of all probes.
    """

    names: tuple[str, ...]
    round: Round
    step: int
    p: Mixture
    valid: tuple[float, ...]
    beta: tuple[tuple[float, ...], ...]
    A: tuple[tuple[float, ...], ...] | None = None
    interval: int = 0
    probed: int = 0
    cut: bool = False
    cut_rounds: int = 0


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
            most = f"{FARTHEST / self.rounds:g} in {self.rounds} rounds"
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
        p, valid = beginning(given("start", self.start), names), tuples(start.signals["valid"].tolist())
        state = State(tuple(names), Round(self.rounds, start.total), start.step, p, valid, ((0.0,) * m,) * m)
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
        return Segment(state.p, state.round.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """After a probe add to beta, after the last one move p; after the rest begin the next round."""
        if state.interval < self._probes(state):
            state = self._probed(state, feedback)
        valid, here = tuples(feedback.signals["valid"].tolist()), replace(state.round, seen=feedback.seen)
        state = replace(state, valid=valid, round=here)
        if state.interval == self._probes(state) and 2 * here.tokens < state.step:
            beta = ((0.0,) * len(valid),) * len(valid)
            state = replace(state, round=here.after(feedback), interval=0, beta=beta, cut=False)
        return state

    def load(self, body: Any) -> State:
        """The state of which `plain` made this."""
        return State(**tuples(body) | {"round": Round(**body["round"]), "p": Mixture(body["p"])})

    def to_json(self) -> dict[str, Any]:
        """The policy's name and its knobs."""
        return {"policy": "aioli", **knobs(self)}

    def matrix(self, state: State) -> FloatArray | None:
        """The last round's Abar [D, D], or E; None before the first LearnParams has ended."""
        return None if state.A is None else np.array(state.A)

    def evidence(self, state: State) -> dict[str, float]:
        """The part of its tokens that the run spent on probes so far; the rounds with a cut probe, if there are any."""
        cut = {"cut_rounds": float(state.cut_rounds)} if state.cut_rounds else {}
        return {"probe_share": state.probed / max(1, state.round.seen), **cut}

    def _probed(self, state: State, feedback: Feedback) -> State:
        """Step 1 for one probe; after the last one steps 2 to 4."""
        beta_DD, probed = np.array(state.beta), state.probed + feedback.seen - state.round.seen
        beta_DD[:, self._domain(state)] += state.valid - feedback.signals["valid"]
        cut, interval = state.cut or feedback.trained is not None, state.interval + 1
        state = replace(state, beta=tuples(beta_DD.tolist()), interval=interval, probed=probed, cut=cut)
        if interval == self._probes(state) and not cut:
            return self._moved(state, normalise(learn(beta_DD / self.sweeps, self.one_hot)))
        return replace(state, cut_rounds=state.cut_rounds + (interval == self._probes(state)))

    def _moved(self, state: State, A_DD: FloatArray) -> State:
        """Step 4."""
        p = state.p if self.ema is None else beginning(None, state.names)
        if self.ema is not None and state.A is not None:
            A_DD = (1 - self.ema) * A_DD + self.ema * np.array(state.A)
        moved = exponentiated(p, state.names, self.eta * A_DD.sum(axis=0))
        return replace(state, A=tuples(A_DD.tolist()), p=moved)

    def _probes(self, state: State) -> int:
        return self.sweeps * len(state.names)

    def _domain(self, state: State) -> int:
        """Which domain the present probe is of: each sweep shuffles the domains by their names."""
        sweep, at = divmod(state.interval, len(state.names))
        turn = f"{self.seed} {state.round.done} {sweep}"
        keys = [hashlib.sha256(f"{turn} {name}".encode()).digest() for name in state.names]
        return keys.index(sorted(keys)[at])

    def _interval(self, state: State) -> int:
        """Tokens of a probe: whole steps, the same in all rounds."""
        steps = self.probe_share * (state.round.total // state.step // self.rounds) / self._probes(state)
        return int(steps + 1e-9) * state.step


def learn(beta_DD: FloatArray, h: float) -> FloatArray:
    """A [D, D] with W a_i = beta_i, from drops of the losses in probes with weight h on one domain.

    W is s I plus b everywhere, s = (h D - 1) / (D - 1) and b = (1 - h) / (D - 1): a_i = (beta_i - b sum_j beta_ij) / s.
    """
    m = len(beta_DD)
    own, other = (h * m - 1) / (m - 1), (1 - h) / (m - 1)
    return np.asarray((beta_DD - other * beta_DD.sum(axis=1, keepdims=True)) / own)


def normalise(A_DD: FloatArray) -> FloatArray:
    """Abar [D, D], not negative, with sum 1. Entries that are all alike and not positive say nothing: all 1 / m^2."""
    A_DD = A_DD - min(A_DD.min(), 0.0)
    total = A_DD.sum()
    return A_DD / total if total > 0 else np.full_like(A_DD, 1 / A_DD.size)
