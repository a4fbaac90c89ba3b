"""Any policy, kept within what the data allow: no domain is drawn more often than its text may be repeated.

    left_j = cap_j T - drawn_j                          T tokens of the run, drawn so far
    w_j = min(p_j, left_j / n)                          for a segment of n tokens that wants p; what is cut goes to the
                                                        others in proportion to theirs, until none exceeds its own
    left_j <= cap_j (seen + n + ahead T) - drawn_j      so that a policy does not use up in the beginning what little
                                                        there is of a domain, and forget it by the end

The policy is told what was trained, and its state is its own: a proportion that it lowers is free again.

Shapes: D domains.

Source: ours; the waterfilling is that of UniMax (Chung et al. 2023, arXiv:2304.09151), segment by segment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from mixopt.errors import JobError, RunFailed
from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policy import Feedback, OnlinePolicy, Signal, plain, tuples

Dry = Literal["cap", "error"]
"""What happens to a domain that would run dry: less of it is drawn, or the run ends."""

SLACK = 1e-9


def filled(p_D: FloatArray, most_D: FloatArray) -> FloatArray:
    """Proportions [D] lowered to `most_D`, the excess shared by the others in proportion; sums to less if all are full."""
    full_D = np.zeros(len(p_D), dtype=bool)
    w_D = p_D
    while (over_D := ~full_D & (w_D > most_D + SLACK)).any():
        full_D |= over_D
        rest = p_D[~full_D].sum()
        left = 1 - most_D[full_D].sum()
        w_D = np.where(full_D, most_D, p_D * (left / rest if rest > 0 else 1.0))
    return w_D


@dataclass(frozen=True)
class State:
    """`inner` is the policy's own state, `drawn` tokens by domain."""

    names: tuple[str, ...]
    inner: Any
    drawn: tuple[float, ...]
    seen: int
    total: int
    step: int


@dataclass(frozen=True)
class Limited:
    """A policy whose run draws no more of a domain than `caps` times the run's tokens.

    `caps` are what MixtureSpace calls epoch caps, max_epochs * available / run tokens: parts of the run, so that the same
    policy feeds runs of any length whose text grows with them. A domain without a cap has none.
    `ahead` is how far the draws may run ahead of an even pace, as a part of the run: 1 leaves the pace to the policy, as
    a planned schedule wants it.
    """

    policy: OnlinePolicy[Any]
    caps: Mapping[str, float]
    max_epochs: float
    dry: Dry = "cap"
    ahead: float = 1.0

    def __post_init__(self) -> None:
        """Check the caps."""
        if any(not cap >= 0 for cap in self.caps.values()) or not self.max_epochs > 0:
            raise JobError(
                f"limited: caps must be >= 0 and max_epochs above 0 (got {dict(self.caps)}, {self.max_epochs})."
            )

    @property
    def needs(self) -> frozenset[Signal]:
        """What the policy needs."""
        return self.policy.needs

    @property
    def asks(self) -> Callable[[State], frozenset[Signal]]:
        """The policy's own, if it has one."""
        inner = self.policy.asks  # type: ignore[attr-defined]
        return lambda state: inner(state.inner)

    @property
    def matrix(self) -> Callable[[State], FloatArray | None]:
        """The policy's own, if it has one."""
        inner = self.policy.matrix  # type: ignore[attr-defined]
        return lambda state: inner(state.inner)

    @property
    def answer(self) -> Callable[[State], Mixture]:
        """The policy's own, if it has one."""
        inner = self.policy.answer  # type: ignore[attr-defined]
        return lambda state: inner(state.inner)

    @property
    def evidence(self) -> Callable[[State], Mapping[str, float]]:
        """The policy's own, if it has one."""
        inner = self.policy.evidence  # type: ignore[attr-defined]
        return lambda state: inner(state.inner)

    def init(self, names: Sequence[str], start: Feedback) -> State:
        """Nothing drawn yet. Raises RunFailed if all domains together may not be repeated often enough for the run."""
        allowed = float(self._caps(names).sum())
        if allowed < 1 - SLACK:
            raise RunFailed(
                f"the run has {start.total:,} tokens, but {self.max_epochs:g} epochs of all its domains are only "
                f"{allowed * start.total:,.0f}. Raise max_epochs, add text or train for less."
            )
        inner = self.policy.init(names, start)
        return State(tuple(names), inner, (0.0,) * len(names), start.seen, start.total, start.step)

    def segment(self, state: State) -> Segment:
        """What the policy wants, within the caps. Raises RunFailed where it would not fit, if it is to be an error."""
        wanted = self.policy.segment(state.inner)
        steps = max(1, round(wanted.tokens / state.step))  # which is what a trainer makes of it
        tokens = min(steps * state.step, max(1, state.total - state.seen))
        p_D = wanted.mixture.array(state.names)
        most_D = np.maximum(self._caps(state.names) * state.total - np.array(state.drawn), 0) / tokens
        if self.dry == "error" and (p_D > most_D + SLACK).any():
            raise RunFailed(self._said(state, p_D * tokens, int(np.argmax(p_D - most_D))))
        paced_D = self._caps(state.names) * (state.seen + tokens + self.ahead * state.total) - np.array(state.drawn)
        w_D = filled(p_D, np.clip(paced_D / tokens, 0, most_D))
        if w_D.sum() < 1 - SLACK * len(w_D):  # the policy wants nothing else
            w_D = filled(p_D, most_D)
        if w_D.sum() < 1 - SLACK * len(w_D):
            drawn = ", ".join(name for name, p in zip(state.names, p_D, strict=True) if p > 0)
            raise RunFailed(
                f"after {state.seen:,} of {state.total:,} tokens the policy draws {drawn} alone, and these have reached "
                f"{self.max_epochs:g} epochs. Raise max_epochs, or give the policy more domains."
            )
        if np.array_equal(w_D, p_D):
            return wanted
        return Segment(Mixture.from_array(state.names, w_D / w_D.sum()), wanted.tokens)

    def update(self, state: State, feedback: Feedback) -> State:
        """Count what was drawn; the policy hears what it would have heard, and what was trained where that was cut."""
        trained = self.segment(state).mixture
        drawn_D = np.array(state.drawn) + trained.array(state.names) * (feedback.seen - state.seen)
        cut = trained != self.policy.segment(state.inner).mixture
        inner = self.policy.update(state.inner, replace(feedback, trained=trained) if cut else feedback)
        return replace(state, inner=inner, drawn=tuple(drawn_D.tolist()), seen=feedback.seen)

    def load(self, body: Any) -> State:
        """The state that `plain` made this of."""
        return State(**tuples(body) | {"inner": self.policy.load(body["inner"])})

    def to_json(self) -> dict[str, Any]:
        """`{"policy": "limited", "inner": {...}, ...}`."""
        knobs = {"caps": plain(self.caps), "max_epochs": self.max_epochs, "dry": self.dry, "ahead": self.ahead}
        return {"policy": "limited", "inner": self.policy.to_json(), **knobs}

    def _caps(self, names: Sequence[str]) -> FloatArray:
        return np.array([self.caps.get(name, np.inf) for name in names])

    def _said(self, state: State, wanted_D: FloatArray, j: int) -> str:
        name, total = state.names[j], state.drawn[j] + wanted_D[j]
        cap = self.caps[name] * state.total
        epochs = self.max_epochs * total / cap if cap else np.inf
        return (
            f"domain {name!r} would run dry: {total:,.0f} tokens of it by the end of the next segment are {epochs:.3g} "
            f"epochs, max_epochs is {self.max_epochs:g} ({cap:,.0f} tokens). Raise max_epochs, add text, or let the cap hold."
        )
