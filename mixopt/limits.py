"""What may be asked of mixtures beside bounds: sums of several domains, nearness to the prior, frozen proportions.

Shapes: D domains, V virtual domains and the domains outside of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mixopt.mixture import FloatArray


@dataclass(frozen=True)
class Group:
    """A set of domains whose proportions sum to between `lower` and `upper`."""

    domains: tuple[str, ...]
    lower: float = 0.0
    upper: float = 1.0


@dataclass(frozen=True)
class Trust:
    """How far a mixture may be from the prior: KL(mixture || prior) in nats, and the sum of absolute differences."""

    kl: float | None = None
    l1: float | None = None


@dataclass(frozen=True)
class Asked:
    """All that is asked of the mixtures of `names`; `frozen` maps virtual domains to relative proportions."""

    names: tuple[str, ...]
    lower_D: FloatArray
    upper_D: FloatArray
    prior_D: FloatArray
    groups: Mapping[str, Group]
    trust: Trust
    frozen: Mapping[str, Mapping[str, float]]

    def shares_DV(self) -> FloatArray:
        """The domains' shares of each virtual domain, then of the others, each of which is all of its own."""
        index = {name: j for j, name in enumerate(self.names)}
        bound = {name for shares in self.frozen.values() for name in shares}
        columns = [shares for _, shares in sorted(self.frozen.items())]
        columns += [{name: 1.0} for name in self.names if name not in bound]
        shares_DV = np.zeros((len(self.names), len(columns)))
        for v, shares in enumerate(columns):
            for name, share in shares.items():
                shares_DV[index[name], v] = share
        return shares_DV
