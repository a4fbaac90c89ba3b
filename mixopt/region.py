"""The mixtures that are as good as the answer as far as anyone can tell: a search outwards from it.

    { p : value(p) <= value(p*) + margin }

From p* rays go to the optima of plausible laws, to the prior, towards more and less of each domain, and to mixtures
drawn around p*; each is followed, beyond its end up to the nearest bound, as far as it stays inside (bisection). From
the points reached that are nearest to the prior the same is done towards it: that is where the smallest change lies
which is as good. For a convex value the rays end on the region's border. All that is reported is reached by a member;
the true ranges are wider.

Shapes: D domains, B optima, N rays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mixopt.mixture import FloatArray, divergences
from mixopt.space import MixtureSpace

AT_BOUND = 0.01  # a proportion within 1 % of its bound counts as stopped by it
AROUND = 32
CONCENTRATIONS = (10.0, 100.0, 1000.0)
HALVINGS = 8
NEAREST = 32
SMALLEST = 1e-12
SHORTEST = 1e-6  # a move of a proportion that is not followed further: it would be all rounding
EQUAL = 1e-12  # relative difference of values that are the same

Value = Callable[[FloatArray], FloatArray]
"""The objective [N] of mixtures [N, D], lower is better."""


@dataclass(frozen=True)
class Region:
    """Ranges of the proportions [D], of the effective number of domains, and the member nearest to the prior [D]."""

    margin: float
    low_D: FloatArray
    high_D: FloatArray
    effective: tuple[float, float]
    simplest_D: FloatArray
    kl_simplest: float
    kl_answer: float


def search(
    space: MixtureSpace,
    value: Value,
    p_D: FloatArray,
    prior_D: FloatArray,
    optima_BD: FloatArray,
    margin: float,
    rng: np.random.Generator,
) -> Region:
    """Members of the region of `p_D`, and what they span."""
    level = float(value(p_D[None])[0])
    bound = level + margin + EQUAL * abs(level) if np.isfinite(level) else -np.inf  # then nothing but p* is reported
    ends_ND = np.vstack([prior_D[None], optima_BD, _towards(space, p_D), _around(space, p_D, rng)])
    inside_ND = ends_ND[value(ends_ND) <= bound]
    rays_ND = _follow(space, value, bound, np.broadcast_to(p_D, ends_ND.shape), ends_ND)
    reached_ND = np.vstack([p_D[None], inside_ND, rays_ND])
    near_ND = reached_ND[np.argsort(divergences(reached_ND, prior_D), kind="stable")[:NEAREST]]
    nearer_ND = _follow(space, value, bound, near_ND, np.broadcast_to(prior_D, near_ND.shape), beyond=False)
    member_ND = np.vstack([reached_ND, nearer_ND])
    kl_N, effective_N = divergences(member_ND, prior_D), np.exp(-divergences(member_ND, np.ones(member_ND.shape[1])))
    return Region(
        margin=margin,
        low_D=member_ND.min(axis=0),
        high_D=member_ND.max(axis=0),
        effective=(float(effective_N.min()), float(effective_N.max())),
        simplest_D=member_ND[kl_N.argmin()],
        kl_simplest=float(kl_N.min()),
        kl_answer=float(kl_N[0]),
    )


def _towards(space: MixtureSpace, p_D: FloatArray) -> FloatArray:
    """As much and as little of each domain as the space allows, the others in proportion [2 D, D]."""
    more_DD = np.where(np.eye(len(p_D), dtype=bool), 1e9, np.maximum(p_D, SMALLEST))
    less_DD = np.where(np.eye(len(p_D), dtype=bool), 0.0, np.maximum(p_D, SMALLEST))
    return space.project(np.vstack([more_DD, less_DD]))


def _around(space: MixtureSpace, p_D: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Mixtures drawn around this one, near and far."""
    base_D = (p_D + 0.1 / len(p_D)) / 1.1
    drawn = [rng.dirichlet(strength * base_D, AROUND) for strength in CONCENTRATIONS]
    return space.project(np.vstack(drawn))


def _follow(
    space: MixtureSpace, value: Value, bound: float, start_ND: FloatArray, end_ND: FloatArray, beyond: bool = True
) -> FloatArray:
    """The last points [N, D] inside on the way from each start, which is inside, to its end or the bound beyond it."""
    way_ND = end_ND - start_ND
    low_N, high_N = np.zeros(len(way_ND)), np.ones(len(way_ND))
    if beyond:
        room_ND = np.where(way_ND > 0, space.upper_D - start_ND, start_ND - space.lower_D)
        far_ND = np.divide(room_ND, np.abs(way_ND), out=np.full_like(way_ND, np.inf), where=np.abs(way_ND) > SHORTEST)
        far_N = far_ND.min(axis=1)
        high_N = np.where(np.isfinite(far_N), np.maximum(far_N, 1.0), 1.0)
    whole_N = value(start_ND + high_N[:, None] * way_ND) <= bound
    low_N = np.where(whole_N, high_N, low_N)
    for _ in range(HALVINGS):
        middle_N = (low_N + high_N) / 2
        inside_N = value(start_ND + middle_N[:, None] * way_ND) <= bound
        low_N, high_N = np.where(inside_N, middle_N, low_N), np.where(inside_N, high_N, middle_N)
    return np.clip(start_ND + low_N[:, None] * way_ND, space.lower_D, space.upper_D)
