"""What a proposer answers: a mixture, what its law says of it, and what the constraints that it meets cost.

Shapes: D domains, M metrics in the order of `objective.metrics`, C metrics with a floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from mixopt.constraints import Prices
from mixopt.laws.base import Law
from mixopt.mixture import FloatArray
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

How = Literal["exact", "descent", "simulation", "given"]

TOLERANCE = 1e-6
"""A floor is kept if the metric is above its limit by no more than this part of it."""
NEAR, CHEAP = 1e-5, 1e-6


@dataclass(frozen=True)
class Floor:
    """A metric that must not get worse than `limit`.

    `price` is what the objective, with its pull to the prior, would fall by if the limit were raised by one unit; None
    where it is not known.
    """

    metric: str
    limit: float
    predicted: float
    price: float | None


@dataclass(frozen=True)
class Cap:
    """A bound, group or trust region that the mixture meets.

    `kind` is "max_epochs", "upper", "lower", "groups" or "trust", `name` the domain or the constraint. `price` is what
    the objective, with its pull, would fall by if the limit were loosened by one unit (of proportion, of L1, of nats), `per_epoch` if
    the domain might be repeated once more.
    """

    name: str
    kind: str
    limit: float
    price: float
    per_epoch: float | None = None


@dataclass(frozen=True)
class Proposal:
    """A mixture [D], the objective that the law predicts there, and how it was found."""

    p_D: FloatArray
    value: float
    how: How
    floors: tuple[Floor, ...] = ()
    caps: tuple[Cap, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Evidence for the report, without the mixture itself."""
        return {
            "how": self.how,
            "floors": [asdict(floor) for floor in self.floors],
            "cap_prices": [asdict(cap) for cap in self.caps],
            "proposer_notes": list(self.notes),
        }


@dataclass(frozen=True)
class Guard:
    """The floors of an objective with their limits [C], and their places [C] among the metrics."""

    metrics: tuple[str, ...]
    limits_C: FloatArray
    places: tuple[int, ...]

    @classmethod
    def of(cls, law: Law, objective: Objective, space: MixtureSpace) -> Guard:
        """Limits are (1 + fraction) times what the law predicts at the prior, or at the allowed mixture nearest to it."""
        if not objective.floors:
            return cls((), np.zeros(0), ())
        metrics = tuple(sorted(objective.floors))
        places = tuple(objective.metrics.index(metric) for metric in metrics)
        allowed_D = space.nearest(space.prior_D).array(space.names)
        at_prior_C = law.predict(allowed_D[None])[0][list(places)]
        return cls(metrics, at_prior_C + np.abs(at_prior_C) * [objective.floors[m] for m in metrics], places)

    @property
    def sizes_C(self) -> FloatArray:
        """What excesses are measured in: the limits' sizes."""
        return np.maximum(np.abs(self.limits_C), 1e-12)

    def excess_NC(self, P_NM: FloatArray) -> FloatArray:
        """How far [N, C] above their limits predicted metrics [N, M] are, as parts of these."""
        return (P_NM[:, list(self.places)] - self.limits_C) / self.sizes_C

    def kept(self, P_NM: FloatArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which predictions keep all floors."""
        return np.asarray((self.excess_NC(P_NM) <= TOLERANCE).all(axis=1))

    def said(self, P_M: FloatArray, prices_C: Sequence[float] | None) -> tuple[Floor, ...]:
        """The floors at predicted metrics [M]."""
        prices = [None] * len(self.metrics) if prices_C is None else [float(p) if p > CHEAP else 0.0 for p in prices_C]
        return tuple(
            Floor(metric, float(limit), float(P_M[place]), price)
            for metric, limit, place, price in zip(self.metrics, self.limits_C, self.places, prices, strict=True)
        )

    def misses(self, P_M: FloatArray, which: Sequence[int]) -> str:
        """Some floors, and how far predicted metrics [M] are above them."""
        excess_C = self.excess_NC(P_M[None])[0]
        return ", ".join(
            f"{self.metrics[i]} (limit {self.limits_C[i]:.5g}, reached {P_M[self.places[i]]:.5g}, misses by "
            f"{100 * excess_C[i]:.3g} %)"
            for i in which
        )


def caps(space: MixtureSpace, p_D: FloatArray, prices: Prices) -> tuple[Cap, ...]:
    """The constraints that this mixture meets and that cost something, the dearest first."""
    found = []
    epoch_D = space.tokens_D / space.target_tokens
    for j, name in enumerate(space.names):
        high, low = float(prices.upper_D[j]), float(prices.lower_D[j])
        if high > CHEAP and space.upper_D[j] < 1 and space.upper_D[j] - p_D[j] < NEAR:
            kind = "max_epochs" if space.max_epochs * epoch_D[j] <= space.bound_D[j] else "upper"
            per_epoch = high * float(epoch_D[j]) if kind == "max_epochs" else None
            found.append(Cap(name, kind, float(space.upper_D[j]), high, per_epoch))
        if low > CHEAP and space.lower_D[j] > 0 and p_D[j] - space.lower_D[j] < NEAR:
            found.append(Cap(name, "lower", float(space.lower_D[j]), low))
    for label, price in prices.rows.items():
        kind, _, name = label.partition(".")
        name, _, side = name.rpartition(".") if kind == "groups" else (name, "", "")
        limit = getattr(space.groups[name], side) if kind == "groups" else getattr(space.trust, name)
        if price > CHEAP:
            found.append(Cap(name, kind, float(limit), price))
    return tuple(sorted(found, key=lambda cap: -cap.price))
