"""Stacks that mix in blocks: each block holds the same number of samples of every domain, in another order.

    counts = floor(weights * block), and what is missing goes to the largest

With the proportions as weights the largest domain would gain up to D / block. So the counts are apportioned here (to the
largest remainders) and written as weights counts / block. A block is a power of two: these weights are exact, and the
stack's rule gives the counts back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mixopt.backends.base import Settled, Tail, settle
from mixopt.errors import ExportError
from mixopt.handoff import Plan

UNIT = "half a sample of a block"


@dataclass(frozen=True)
class Blocked:
    """A plan in blocks: for each phase what was settled, its counts in a block and the sample that it starts at."""

    block: int
    settled: tuple[Settled, ...]
    counts: tuple[dict[str, int], ...]
    starts: tuple[int, ...]
    samples: int

    def weights(self, phase: int) -> dict[str, float]:
        """The weights of a phase that give its counts back."""
        return {name: count / self.block for name, count in self.counts[phase].items()}


@dataclass(frozen=True)
class Samples:
    """What the stack of this name draws: samples of `lengths` tokens, in blocks of one of the sizes `blocks`.

    A phase starts at a whole block that is also a whole batch.
    """

    stack: str
    lengths: Mapping[str, float]
    blocks: Sequence[int]
    batch: int = 1

    def choose(self, plan: Plan, tail: Tail) -> Blocked:
        """The block that leaves the fewest domains out; among those the closest to the plan, then the smallest.

        Raises ExportError where a phase is shorter than each block, or where none can say the plan: for the largest.
        """
        ends = self.ends(plan)
        fitting = [(block, starts) for block in self.blocks if (starts := self.starts(ends, block))]
        if not fitting:
            raise ExportError(
                f"{self.stack}: a phase is shorter than one block of {min(self.blocks)} samples"
                f"{f' or one batch of {self.batch}' * (self.batch > 1)}. The token budget is too small."
            )
        found: list[Blocked] = []
        for block, starts in fitting:
            try:
                found.append(self.blocked(plan, block, starts, tail))
            except ExportError as e:
                refused = e
        if not found:
            raise ExportError(f"{self.stack}: {refused}")
        return min(found, key=lambda made: (sum(len(s.tail) for s in made.settled), self.off(plan, made), made.block))

    def ends(self, plan: Plan) -> list[float]:
        """The sample that each phase ends at, before rounding."""
        drawn = [
            tokens * math.fsum(p / self.lengths[name] for name, p in mixture.items())
            for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
        ]
        return [math.fsum(drawn[: k + 1]) for k in range(len(drawn))]

    def starts(self, ends: Sequence[float], block: int) -> tuple[int, ...]:
        """The sample that each phase starts at; empty where a phase is shorter than what it must be whole numbers of."""
        whole = math.lcm(block, self.batch) if len(ends) > 1 else block
        starts = (0, *(round(end / whole) * whole for end in ends[:-1]))
        asked = min(b - a for a, b in pairwise([0.0, *ends]))
        rounded = min(b - a for a, b in pairwise([*starts, math.ceil(ends[-1])]))
        return starts if math.ceil(asked) >= whole and rounded >= block else ()

    def blocked(self, plan: Plan, block: int, starts: tuple[int, ...], tail: Tail) -> Blocked:
        """The plan in blocks of this size. Raises ExportError for a tail that is refused and for too many domains."""
        settled, counts = [], []
        for _, mixture in plan.phases:
            rate = math.fsum(p / self.lengths[name] for name, p in mixture.items())
            least = {name: 0.5 * rate * length / block for name, length in self.lengths.items()}
            settled.append(settle(mixture, least, tail, UNIT))
            drawn = {name: p / self.lengths[name] for name, p in settled[-1].mixture.items()}
            if len(drawn) > block:
                raise ExportError(f"{len(drawn)} domains do not fit into a block of {block} samples.")
            counts.append(apportion(drawn, block))
        return Blocked(block, tuple(settled), tuple(counts), starts, math.ceil(self.ends(plan)[-1]))

    def off(self, plan: Plan, made: Blocked) -> float:
        """The largest deviation of a phase: of a proportion in it, or of its start as a part of the run.

        The mean of the phases would not do: what is wrong in one phase may cancel in another.
        """
        found = [abs(a - b) / made.samples for a, b in zip(made.starts[1:], self.ends(plan), strict=False)]
        for (_, mixture), count in zip(plan.phases, made.counts, strict=True):
            share = shares([count], [0], made.block, self.lengths)
            found += [abs(share.get(name, 0.0) - p) for name, p in mixture.items()]
        return max(found)


def apportion(drawn: Mapping[str, float], block: int) -> dict[str, int]:
    """Whole counts that sum to the block: 1 for each that would have less, the others by largest remainder."""
    total = math.fsum(drawn.values())
    exact = {name: block * amount / total for name, amount in drawn.items()}
    counts = {name: math.floor(amount) for name, amount in exact.items()}
    small = dict.fromkeys((name for name, amount in exact.items() if amount < 1), 1)
    if small:
        counts |= small
        rest = {name: amount for name, amount in drawn.items() if name not in small}
        return counts | apportion(rest, block - len(small)) if rest else counts
    by_need = sorted(counts, key=lambda name: (counts[name] - exact[name], name))
    for name in by_need[: block - sum(counts.values())]:
        counts[name] += 1
    return counts


def shares(
    counts: Sequence[Mapping[str, int]], starts: Sequence[int], samples: int, lengths: Mapping[str, float]
) -> dict[str, float]:
    """Shares of the run's tokens, where each phase draws these counts in every block."""
    tokens: dict[str, float] = {}
    for count, (start, end) in zip(counts, pairwise([*starts, samples]), strict=True):
        for name, n in count.items():
            tokens[name] = tokens.get(name, 0.0) + (end - start) * n / sum(count.values()) * lengths[name]
    total = math.fsum(tokens.values())
    return {name: t / total for name, t in tokens.items()}
