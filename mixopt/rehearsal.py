"""A run without training: what a policy will ask for, and whether it can feed the run at all.

The policy is told that losses fall evenly and that all domains are alike, which decides nothing that is counted here.

Shapes: D domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray
from mixopt.policy import Drops, Excess, Feedback, Gram, OnlinePolicy, Signal, Train, Valid, asked, probe_steps


def begin(policy: OnlinePolicy[Any], names: Sequence[str], total: int, step: int) -> Any:
    """A policy's first state in a run of `total` tokens. Raises JobError where it cannot feed that run."""
    start = {signal.name: _said(signal, len(names), 0.0) for signal in policy.needs if isinstance(signal, Valid)}
    return policy.init(names, Feedback(0, total, start, step))


def rehearsed(policy: OnlinePolicy[Any], names: Sequence[str], total: int, step: int) -> Iterator[frozenset[Signal]]:
    """What is measured when each segment of a run ends. Raises JobError as `begin` does."""
    state, seen = begin(policy, names, total, step), 0
    while seen < total:
        seen += min(max(step, policy.segment(state).tokens), total - seen)
        wanted = asked(policy, state, last=seen == total)
        yield wanted
        told = {signal.name: _said(signal, len(names), seen / total) for signal in wanted}
        state = policy.update(state, Feedback(seen, total, told, step))


def readings(policy: OnlinePolicy[Any], names: Sequence[str], total: int, step: int) -> float:
    """How often the held-out text is read for the policy of a run: the whole of it counts 1."""
    times = sum(signal.part for signal in policy.needs if isinstance(signal, Valid))
    for wanted in rehearsed(policy, names, total, step):
        times += sum(signal.part for signal in wanted if isinstance(signal, Valid))
        times += sum(signal.text * (1 + len(names)) for signal in wanted if isinstance(signal, Drops))
    return times


def beside(policy: OnlinePolicy[Any], names: Sequence[str], total: int, step: int) -> int:
    """Tokens that the probes of a run train beside it."""
    if not any(isinstance(signal, Drops) for signal in policy.needs):
        return 0
    steps = total // step
    probes = [s for wanted in rehearsed(policy, names, total, step) for s in wanted if isinstance(s, Drops)]
    return sum(len(names) * probe_steps(probe, steps) * step for probe in probes)


def affordable(policy: OnlinePolicy[Any], names: Sequence[str], budget: int, step: int) -> int:
    """Tokens of the longest run that costs no more than `budget` with its probes, about. Raises JobError if there is none."""
    tokens = budget
    while (extra := beside(policy, names, tokens, step)) + tokens > budget:
        shorter = min(tokens - step, budget * tokens // (tokens + extra))
        if shorter < step:
            raise JobError(
                f"method: its probes alone take {extra:,} tokens beside a run of {tokens:,}, and the search budget is "
                f"{budget:,}. Ask for fewer rounds, or for more proxies.count or proxies.tokens."
            )
        tokens = shorter
    return tokens


def _said(signal: Signal, count: int, done: float) -> FloatArray:
    """A signal of a run of which this part is done."""
    match signal:
        case Valid() | Train():
            return np.full(count, 2.0 - done)
        case Excess():
            return np.full(count, 0.1)
        case Gram():
            return np.eye(count)
        case Drops():
            return np.full((count, count), 0.001)
