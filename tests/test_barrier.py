"""The convex solver by itself: closed forms, prices, and points inside or the constraints that exclude each other."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.barrier import Program, minimise, phase_one
from mixopt.errors import SwarmError
from mixopt.mixture import FloatArray
from mixopt.polytope import Polytope, conflict, independent, inside


def bowl(centre_F: FloatArray) -> object:
    return lambda x_F: (float((x_F - centre_F) @ (x_F - centre_F)) / 2, x_F - centre_F, np.eye(len(x_F)))


def ball(radius: float) -> object:
    return lambda x_F: (float(x_F @ x_F) - radius**2, 2 * x_F, 2 * np.eye(len(x_F)))


def free(unknowns: int, *curves: object, rows: FloatArray | None = None, limits: FloatArray | None = None) -> Program:
    wide = np.full(unknowns, np.inf)
    rows = np.zeros((0, unknowns)) if rows is None else rows
    limits = np.zeros(0) if limits is None else limits
    return Program(-wide, wide, rows, limits, np.zeros((0, unknowns)), curves)  # type: ignore[arg-type]


def test_projection_on_a_ball_and_its_price() -> None:
    """min |x - c|^2 / 2 with |x|^2 <= 1 is c / |c|; d optimum / d radius^2 = -(|c| - 1) / 2."""
    centre_F = np.array([3.0, 4.0])
    found = minimise(bowl(centre_F), free(2, ball(1.0)), np.zeros(2))
    np.testing.assert_allclose(found.x_F, [0.6, 0.8], atol=1e-7)
    assert found.curves_C[0] == pytest.approx(2.0, rel=1e-4)


def test_rows_equalities_and_bounds_with_their_prices() -> None:
    """x + y + z = 1, x <= .5 binds, x - y <= .4 does not: the rest is shared."""
    program = Program(
        np.zeros(3), np.array([0.5, 1, 1]), np.array([[1.0, -1, 0]]), np.array([0.4]), np.ones((1, 3)), ()
    )
    found = minimise(bowl(np.array([2.0, 0, 0])), program, np.full(3, 1 / 3))
    np.testing.assert_allclose(found.x_F, [0.5, 0.25, 0.25], atol=1e-7)
    assert found.upper_F[0] == pytest.approx(1.75, rel=1e-4)
    assert found.rows_L[0] < 1e-6


def test_phase_one_finds_a_point_inside_or_prices_that_sum_to_one() -> None:
    def off(place: float) -> object:
        return lambda x_F: (
            abs(place) + (float(x_F[0]) if place < 0 else -float(x_F[0])),
            np.array([-np.sign(place)]),
            np.zeros((1, 1)),
        )

    program = Program(np.array([-5.0]), np.array([5.0]), np.zeros((0, 1)), np.zeros(0), np.zeros((0, 1)))
    two, one = (off(1.0), off(-1.0)), (off(1.0), ball(2.0))
    impossible = phase_one(program, two, np.ones(2), np.zeros(1))  # type: ignore[arg-type]
    assert impossible.value == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(impossible.curves_C, [0.5, 0.5], atol=1e-3)
    possible = phase_one(program, one, np.ones(2), np.zeros(1))  # type: ignore[arg-type]
    assert 1 < possible.x_F[0] < 2
    assert possible.value < 0


def test_a_start_that_is_not_inside_and_a_hill_are_refused() -> None:
    with pytest.raises(SwarmError, match="no optimum"):
        minimise(bowl(np.zeros(2)), free(2, ball(1.0)), np.array([2.0, 0]))
    with pytest.raises(SwarmError, match="not convex"):
        minimise(lambda x_F: (-float(x_F @ x_F), -2 * x_F, -2 * np.eye(2)), free(2, ball(1.0)), np.zeros(2))


def polytope(rows: list[list[float]], limits: list[float], upper: float = 1.0) -> Polytope:
    count = len(rows[0])
    return Polytope(
        np.zeros(count), np.full(count, upper), np.array(rows), np.array(limits), np.ones((1, count)), np.ones(1)
    )


def test_rows_that_leave_no_room_are_held() -> None:
    """x + y <= .3 and z <= .7 with a sum of 1: both hold with equality, x may still move against y."""
    found = inside(polytope([[1, 1, 0], [0, 0, 1.0]], [0.3, 0.7]))
    assert found is not None
    assert found.held_L.tolist() == [True, True]
    assert found.x_F[2] == pytest.approx(0.7, abs=1e-6)
    assert 0.01 < found.x_F[0] < 0.29


def test_an_empty_polytope_and_the_rows_to_blame() -> None:
    empty = polytope([[1, 1, 0], [0, 0, 1.0], [1, 0, 0]], [0.3, 0.5, 0.9])
    assert inside(empty) is None
    missing, named_L = conflict(empty, np.ones(3, dtype=bool))
    assert missing == pytest.approx(0.1)
    assert named_L.tolist() == [0, 1]


def test_dependent_equalities_are_dropped() -> None:
    rows = np.array([[1.0, 1, 0], [2, 2, 0], [0, 0, 1], [1, 1, 1]])
    assert np.linalg.matrix_rank(independent(rows)) == len(independent(rows)) == 2
    assert len(independent(np.zeros((0, 3)))) == 0
