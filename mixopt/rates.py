"""A sweep of the learning rate: which rates to measure, and which is best.

Rates are powers of two apart, so that a later round's are never nearly an earlier one's. A rate at which a run
diverged has an infinite loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FURTHER = 4  # rates at most that a sweep adds beyond its edges


def wanted(centre: float, losses: Mapping[float, float]) -> list[float]:
    """All rates to measure so far, ascending, given the losses by rate.

    Those around `centre`, and, while the best of them all is at an edge, one more by a factor of two.
    """
    rates = [centre * factor for factor in FACTORS]
    while len(rates) < len(FACTORS) + FURTHER and all(rate in losses for rate in rates):
        best = lowest({rate: losses[rate] for rate in rates})
        if best == rates[0]:
            rates.insert(0, best / 2)
        elif best == rates[-1]:
            rates.append(best * 2)
        else:
            break
    return rates


def optimum(losses: Mapping[float, float]) -> float:
    """The lowest point of the parabola in log2(rate) through the best rate and its neighbours, a factor of two away.

    Between measured rates it is rounded to three digits, so that machines whose losses differ in the last bits agree.
    It is never more than a factor of 2 ** 0.5 from the best rate, and the best rate itself where that is the first or
    last one, or where a neighbour diverged.
    """
    rates, best = sorted(losses), lowest(losses)
    i = rates.index(best)
    if i in (0, len(rates) - 1):
        return best
    below, lowest_loss, above = (losses[rate] for rate in rates[i - 1 : i + 2])
    bend = below - 2 * lowest_loss + above
    if not 0 < bend < math.inf or below == above:
        return best
    return float(f"{best * 2 ** ((below - above) / (2 * bend)):.3g}")


def at_edge(losses: Mapping[float, float]) -> bool:
    """Whether the best rate is the lowest or the highest that was measured."""
    return lowest(losses) in (min(losses), max(losses))


def lowest(losses: Mapping[float, float]) -> float:
    """The rate with the lowest loss; of equal ones the lower rate."""
    return min(losses, key=lambda rate: (losses[rate], rate))
