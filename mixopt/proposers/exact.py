"""The exact optimum of a convex law under all constraints, with prices.

    min_p  sum_m w_m f_m(p) + kl * KL(p || prior)   over the space,  f_c(p) <= limit_c for each floor

Shapes: D domains, C metrics with a floor.

Source: the objective is Olmix's (arXiv:2602.12237), which hands it to a general solver; floors and prices are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mixopt.barrier import ACCURACY
from mixopt.constraints import Prices, Region, below, divergence, total
from mixopt.errors import InfeasibleSpace
from mixopt.laws.base import ConvexLaw, Curve, Law, SometimesConvexLaw
from mixopt.mixture import FloatArray
from mixopt.proposers.proposal import TOLERANCE, Guard, Proposal, caps
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

STRICT = 1e-7
QUICK = 1e-4
NAMED = 1e-4


def minimise(curve: Curve, space: MixtureSpace, kl: float = 0.0) -> FloatArray:
    """The mixture [D] of the space with the smallest curve(p) + kl * KL(p || prior), for a convex curve.

    What is left to gain is at most 1e-9 of the gradient's spread at the start. Domains whose bounds leave no choice
    keep them; a prior of zero counts as 1e-12. Raises SwarmError for a curve that is not convex or not finite.
    """
    return space.region.minimise(_pulled(curve, space, kl))[0]


def curves(law: Law, objective: Objective) -> tuple[Curve, list[Curve]] | None:
    """The objective and its floors as convex curves, or None if the law or these metrics have none."""
    if isinstance(law, ConvexLaw):
        read: Callable[[FloatArray], Curve | None] = law.curve
    elif isinstance(law, SometimesConvexLaw):
        read = law.exact
    else:
        return None
    unit_MM = np.eye(len(objective.metrics))
    found = [read(unit_MM[objective.metrics.index(metric)]) for metric in sorted(objective.floors)]
    whole = read(objective.weights_M)
    guarded = [curve for curve in found if curve is not None]
    return (whole, guarded) if whole is not None and len(guarded) == len(found) else None


def exact(
    law: Law, objective: Objective, convex: tuple[Curve, list[Curve]], space: MixtureSpace, kl: float = 0.0
) -> Proposal:
    """The optimum for the curves of a law.

    Raises InfeasibleSpace, naming floors that exclude each other and by how much they miss, and SwarmError as
    `minimise` does.
    """
    guard, region = Guard.of(law, objective, space), space.region
    curve, guarded = convex
    limited, pulled = within(guarded, guard), _pulled(curve, space, kl)
    used: list[int] = []
    for accuracy in (QUICK, ACCURACY):  # floors that do not bind are left out: most of the time goes into floors
        while True:
            some, sizes_C = [limited[i] for i in used], guard.sizes_C[used]
            start_F = inside(region, some, sizes_C)
            if start_F is None:
                raise InfeasibleSpace(_excluded(law, guard, limited, space))
            p_D, prices = region.minimise(pulled, some, start_F, accuracy)
            P_M = law.predict(p_D[None])[0]
            excess_C = guard.excess_NC(P_M[None])[0]
            broken = [i for i in np.flatnonzero(excess_C > TOLERANCE / 2).tolist() if i not in used]
            if not broken:
                break
            used = sorted(used + broken)
    prices_C = np.zeros(len(limited))
    prices_C[used] = prices.curves_C
    return Proposal(
        p_D,
        float(objective.weights_M @ P_M),
        "exact",
        guard.said(P_M, prices_C.tolist()),
        caps(space, p_D, prices),
    )


def within(guarded: Sequence[Curve], guard: Guard) -> list[Curve]:
    """The floors as curves that must be below zero, loosened by half of their tolerance so that there is room."""
    loosened_C = guard.limits_C + TOLERANCE / 2 * guard.sizes_C
    return [below(curve, float(limit)) for curve, limit in zip(guarded, loosened_C, strict=True)]


def inside(region: Region, limited: Sequence[Curve], sizes_C: FloatArray) -> FloatArray | None:
    """Unknowns [F] of a point strictly inside of the region and of these curves; None if there is none."""
    start_D = region.base_D + region.expand_DF @ region.start_F
    if all(curve(start_D)[0] < -STRICT * size for curve, size in zip(limited, sizes_C, strict=True)):
        return region.start_F
    return region.feasible(limited, sizes_C)[0]


def _pulled(curve: Curve, space: MixtureSpace, kl: float) -> Curve:
    return total(curve, divergence(space.prior_D, kl)) if kl else curve


def _excluded(law: Law, guard: Guard, limited: Sequence[Curve], space: MixtureSpace) -> str:
    """Which floors exclude each other, where the largest relative miss is smallest, and what holds them there."""
    _, p_D, _, prices = space.region.feasible(limited, guard.sizes_C)
    P_M = law.predict(p_D[None])[0]
    named = np.flatnonzero(prices.curves_C * guard.sizes_C > NAMED).tolist()
    holding = [cap.name for cap in caps(space, p_D, _relevant(prices))]
    held = f" while {', '.join(holding)} cannot go further" if holding else ""
    said = "this floor cannot" if len(named) == 1 else "these floors cannot all"
    return (
        f"no allowed mixture keeps the floors: {said} be kept{held}: {guard.misses(P_M, named)}. "
        "Allow a larger fraction in objective.floors, or loosen what holds them."
    )


def _relevant(prices: Prices) -> Prices:
    """Prices without those that only the barrier put there."""
    low_D, high_D = (np.where(p_D > NAMED, p_D, 0.0) for p_D in (prices.lower_D, prices.upper_D))
    rows = {label: price for label, price in prices.rows.items() if price > NAMED}
    return replace(prices, lower_D=low_D, upper_D=high_D, rows=rows)
