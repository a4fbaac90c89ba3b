"""A point on the simplex over the domains, and plans made of such points.

Shapes: D domains, in the order of the names that the caller passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import DataError, did_you_mean

FloatArray = NDArray[np.float64]
SMALLEST = 1e-12
SUM_TOLERANCE = 1e-6
PHASES = 8  # of a plan that a run's trace is condensed to


@dataclass(frozen=True)
class Mixture(Mapping[str, float]):
    """Proportions of training tokens by domain: each >= 0, sum 1 within 1e-6. Never renormalised silently."""

    proportions: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check the simplex and freeze the mapping in sorted order."""
        values = {str(k): float(v) for k, v in sorted(self.proportions.items())}
        bad = {k: v for k, v in values.items() if not math.isfinite(v) or v < 0}
        if bad:
            raise DataError(f"mixture: proportions must be finite and >= 0 (got {bad}).")
        total = math.fsum(values.values())
        if abs(total - 1) > SUM_TOLERANCE:
            raise DataError(
                f"mixture: proportions sum to {total:.7g} (allowed 1 within {SUM_TOLERANCE:g}). Divide them by their sum."
            )
        object.__setattr__(self, "proportions", values)

    @classmethod
    def normalised(cls, weights: Mapping[str, float]) -> Mixture:
        """Scale non-negative weights to sum 1: the one visible place where this is done."""
        total = math.fsum(weights.values())
        if not total > 0 or not math.isfinite(total):
            raise DataError(f"mixture: weights must have a positive, finite sum (got {total}).")
        return cls({k: v / total for k, v in weights.items()})

    @classmethod
    def from_array(cls, names: Sequence[str], w_D: FloatArray) -> Mixture:
        """From proportions [D] in the order of `names`."""
        return cls(dict(zip(names, (float(w) for w in w_D), strict=True)))

    def array(self, names: Sequence[str]) -> FloatArray:
        """Proportions [D] in the order of `names`, which must be exactly this mixture's domains."""
        for name in self.proportions:
            if name not in names:
                raise DataError(f"mixture: unknown domain {name!r}; {did_you_mean(name, names)}")
        missing = [name for name in names if name not in self.proportions]
        if missing:
            raise DataError(f"mixture: no proportion for {', '.join(missing)}. Give every domain one; 0 is allowed.")
        return np.array([self.proportions[name] for name in names], dtype=float)

    def __getitem__(self, name: str) -> float:
        """The proportion of one domain."""
        return self.proportions[name]

    def __iter__(self) -> Iterator[str]:
        """Domain names, sorted."""
        return iter(self.proportions)

    def __len__(self) -> int:
        """Number of domains."""
        return len(self.proportions)

    def __hash__(self) -> int:
        """Equal mixtures hash equal."""
        return hash(tuple(self.proportions.items()))

    @property
    def effective_domains(self) -> float:
        """Exponential of the entropy: how many equally used domains this mixture is worth."""
        return math.exp(-math.fsum(p * math.log(p) for p in self.proportions.values() if p > 0))

    def kl(self, prior: Mixture) -> float:
        """KL(self || prior) in nats; infinite where the prior is zero and this mixture is not."""
        terms = []
        for name, p in self.proportions.items():
            if p > 0:
                q = prior[name]
                if q == 0:
                    return math.inf
                terms.append(p * math.log(p / q))
        return math.fsum(terms)


@dataclass(frozen=True)
class Segment:
    """An instruction to the trainer: draw from this mixture for this many tokens."""

    mixture: Mixture
    tokens: int


@dataclass(frozen=True)
class Schedule:
    """A plan: (start as a fraction of training, mixture) pairs, the first at 0."""

    phases: tuple[tuple[float, Mixture], ...]

    def __post_init__(self) -> None:
        """Check that phases start at 0 and are in order."""
        starts = [start for start, _ in self.phases]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1:
            raise DataError(f"schedule: phases must start at 0 and increase below 1 (got {starts}).")

    def plain(self) -> list[list[Any]]:
        """Plain data, as job files and results have it: [[start, {domain: proportion}], ...]."""
        return [[start, dict(mixture)] for start, mixture in self.phases]

    @classmethod
    def of(cls, body: Sequence[Sequence[Any]]) -> Schedule:
        """The plan that `plain` described."""
        return cls(tuple((float(start), Mixture(mixture)) for start, mixture in body))

    @property
    def mean(self) -> Mixture:
        """The token-weighted mean mixture over the whole plan."""
        ends = [start for start, _ in self.phases[1:]] + [1.0]
        shares = [end - start for (start, _), end in zip(self.phases, ends, strict=True)]
        return mean([(share, mixture) for share, (_, mixture) in zip(shares, self.phases, strict=True)])


def mean(parts: Sequence[tuple[float, Mixture]]) -> Mixture:
    """The weighted mean of mixtures of the same domains; of one, itself to the last bit."""
    if len(parts) == 1:
        return parts[0][1]
    return Mixture.normalised({name: math.fsum(w * m[name] for w, m in parts) for name in parts[0][1]})


def condensed(trace: Sequence[Segment], phases: int = PHASES) -> Schedule:
    """A run's trace as a plan of at most so many phases, with the trace's mean.

    Equal neighbours become one phase, then those two whose merger moves the fewest tokens from one domain to another.
    """
    parts: list[tuple[float, Mixture]] = []
    for segment in trace:
        if parts and parts[-1][1] == segment.mixture:
            parts[-1] = (parts[-1][0] + segment.tokens, segment.mixture)
        elif segment.tokens:
            parts.append((segment.tokens, segment.mixture))
    while len(parts) > max(1, phases):
        moved = [_moved(one, other) for one, other in pairwise(parts)]
        k = moved.index(min(moved))
        pair = parts[k : k + 2]
        parts[k : k + 2] = [(pair[0][0] + pair[1][0], mean(pair))]
    starts = [0.0, *accumulate(tokens for tokens, _ in parts)]
    return Schedule(tuple((start / starts[-1], m) for start, (_, m) in zip(starts, parts, strict=False)))


def _moved(one: tuple[float, Mixture], other: tuple[float, Mixture]) -> float:
    """Tokens that change their domain when two neighbours become their mean."""
    (n, p), (m, q) = one, other
    return n * m / (n + m) * math.fsum(abs(p[name] - q[name]) for name in p)


def divergences(w_ND: FloatArray, q_D: FloatArray) -> FloatArray:
    """KL divergences [N] of proportions [N, D] from q [D], in nats; a q of zero counts as 1e-12."""
    w_ND = np.maximum(w_ND, 1e-300)
    return np.asarray((w_ND * np.log(w_ND / np.where(q_D > 0, q_D, SMALLEST))).sum(axis=1))
