"""Points inside of boxes, rows and equalities, which of them leave no room, and which exclude each other.

    lower <= x <= upper,   rows x <= limits,   equal x = constants

Shapes: F unknowns, L rows, E equalities.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr
from scipy.optimize import linprog

from mixopt.errors import SwarmError
from mixopt.mixture import FloatArray

ROOM = 1e-6
BINDING = 1e-6
FLAT = 1e-9


@dataclass(frozen=True)
class Polytope:
    """All x with lower <= x <= upper, rows x <= limits, equal x = constants; the bounds are finite."""

    lower_F: FloatArray
    upper_F: FloatArray
    rows_LF: FloatArray
    limits_L: FloatArray
    equal_EF: FloatArray
    constants_E: FloatArray


@dataclass(frozen=True)
class Inside:
    """A point that is inside of everything that leaves room; `held` says which unknowns and rows leave none."""

    x_F: FloatArray
    held_F: NDArray[np.bool_]
    held_L: NDArray[np.bool_]


def inside(space: Polytope) -> Inside | None:
    """A point as far as can be, in parts of their widths, from all bounds and rows; None if the polytope is empty."""
    held_F, width_F, width_L = space.upper_F - space.lower_F <= FLAT, space.upper_F - space.lower_F, _widths(space)
    if (width_L < -FLAT).any():
        return None
    held_L = width_L <= FLAT
    x_F = _deepest(space, np.where(held_F, 0, width_F), np.where(held_L, 0, width_L))
    if x_F is None:
        return None
    low_F, high_F, row_L = _room(space, x_F)
    if (np.minimum(low_F, high_F)[~held_F] > ROOM).all() and (row_L[~held_L] > ROOM).all():
        return Inside(x_F, held_F, held_L)
    return _roomiest(space, x_F)


def conflict(space: Polytope, elastic_L: NDArray[np.bool_]) -> tuple[float, NDArray[np.intp]]:
    """By how much the elastic rows must be loosened for a point to exist, and those which that depends on."""
    loosened_L1 = -elastic_L.astype(float)[:, None]
    found = _solve(
        np.append(np.zeros(len(space.lower_F)), 1.0),
        np.hstack([space.rows_LF, loosened_L1]),
        space.limits_L,
        np.column_stack([space.equal_EF, np.zeros(len(space.equal_EF))]),
        space.constants_E,
        [*zip(space.lower_F, space.upper_F, strict=True), (0, None)],
    )
    if found is None:
        return np.inf, np.flatnonzero(elastic_L)
    x_F, price_L = found
    return float(x_F[-1]), np.flatnonzero(elastic_L & (price_L > BINDING))


def independent(rows_EF: FloatArray) -> FloatArray:
    """As many of the rows as are linearly independent."""
    if not rows_EF.size:
        return rows_EF[:0]
    _, triangle, order = qr(rows_EF.T, mode="economic", pivoting=True)
    size = np.abs(np.diag(triangle))
    return rows_EF[np.sort(order[: int((size > FLAT * max(size[0], FLAT)).sum())])]


def _deepest(space: Polytope, margin_F: FloatArray, margin_L: FloatArray) -> FloatArray | None:
    """The point that keeps the largest common share, up to a half, of these margins [F], [L]."""
    unit_FF = np.eye(len(margin_F))
    rows = np.vstack([unit_FF, -unit_FF, space.rows_LF])
    limits = np.concatenate([space.upper_F, -space.lower_F, space.limits_L])
    found = _solve(
        np.append(np.zeros(len(margin_F)), -1.0),
        np.column_stack([rows, np.concatenate([margin_F, margin_F, margin_L])]),
        limits,
        np.column_stack([space.equal_EF, np.zeros(len(space.equal_EF))]),
        space.constants_E,
        [*zip(space.lower_F, space.upper_F, strict=True), (0, 0.5)],
    )
    return np.clip(found[0][:-1], space.lower_F, space.upper_F) if found is not None else None


def _roomiest(space: Polytope, x_F: FloatArray) -> Inside:
    """For polytopes without an interior: the mean of the points that go farthest from each bound and row in turn."""
    points, signs = [x_F], np.vstack([np.eye(len(x_F)), -np.eye(len(x_F)), -space.rows_LF])
    for i, away_F in enumerate(signs):
        if np.concatenate(_room(space, np.mean(points, axis=0)))[i] <= ROOM:
            farthest = _solve(
                -away_F,
                space.rows_LF,
                space.limits_L,
                space.equal_EF,
                space.constants_E,
                [*zip(space.lower_F, space.upper_F, strict=True)],
            )
            points += [farthest[0]] if farthest is not None else []
    x_F = np.clip(np.mean(points, axis=0), space.lower_F, space.upper_F)
    low_F, high_F, row_L = _room(space, x_F)
    least = ROOM / len(points)
    return Inside(x_F, np.minimum(low_F, high_F) <= least, row_L <= least)


def _room(space: Polytope, x_F: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Distances to lower and upper bounds [F] and rows [L], as parts of their widths."""
    width_F, width_L = np.maximum(space.upper_F - space.lower_F, FLAT), np.maximum(_widths(space), FLAT)
    below_L = space.limits_L - space.rows_LF @ x_F
    return (x_F - space.lower_F) / width_F, (space.upper_F - x_F) / width_F, below_L / width_L


def _widths(space: Polytope) -> FloatArray:
    """How far [L] below its limit a row can be within the bounds, at most 1."""
    least_L = np.where(space.rows_LF > 0, space.rows_LF * space.lower_F, space.rows_LF * space.upper_F).sum(axis=1)
    return np.minimum(space.limits_L - least_L, 1.0)


def _solve(
    cost_F: FloatArray,
    rows_LF: FloatArray,
    limits_L: FloatArray,
    equal_EF: FloatArray,
    constants_E: FloatArray,
    bounds: list[tuple[float, float | None]],
) -> tuple[FloatArray, FloatArray] | None:
    """A linear program's optimum [F] and the prices [L] of its rows; None if nothing is feasible."""
    found = linprog(
        cost_F, rows_LF, limits_L, equal_EF, constants_E, bounds, options={"primal_feasibility_tolerance": 1e-10}
    )
    if found.status == 2:
        return None
    if found.status != 0:
        raise SwarmError(f"no inner point of the allowed mixtures was found ({found.message}). Scale bounds evenly.")
    return np.asarray(found.x), -np.asarray(found.ineqlin.marginals)
