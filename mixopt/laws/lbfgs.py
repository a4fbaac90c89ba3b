"""Many small smooth problems go down by themselves and in step: L-BFGS for each, one call of the cost for all.

Shapes: B problems, P parameters of one.

Source: Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.4.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mixopt.mixture import FloatArray

MEMORY, LONGEST, HALVINGS, SHORTEN, ARMIJO = 10, 3.0, 10, 0.4, 1e-4

Cost = Callable[[FloatArray, NDArray[np.intp]], tuple[FloatArray, FloatArray]]
"""(theta [B, P], which problems [B]) -> costs [B] and gradients [B, P]."""


def minimise(cost: Cost, x_BP: FloatArray, iterations: int) -> FloatArray:
    """The lowest points found [B, P]; no problem's answer depends on another's.

    A step that lowers its cost too little is shortened, a few times; no number moves by more than LONGEST at once.
    """
    everyone = np.arange(len(x_BP))
    value_B, g_BP = cost(x_BP, everyone)
    past: list[tuple[FloatArray, FloatArray, FloatArray]] = []
    for _ in range(iterations):
        d_BP = np.clip(_direction(g_BP, past), -LONGEST, LONGEST)
        slope_B, length_B, waiting = (g_BP * d_BP).sum(axis=1), np.ones(len(x_BP)), everyone
        new_x_BP, new_value_B, new_g_BP = x_BP.copy(), value_B.copy(), g_BP.copy()
        for _ in range(HALVINGS):
            trial_BP = x_BP[waiting] + length_B[waiting, None] * d_BP[waiting]
            trial_B, trial_g_BP = cost(trial_BP, waiting)
            good_B = trial_B <= value_B[waiting] + ARMIJO * length_B[waiting] * slope_B[waiting]
            kept = waiting[good_B]
            new_x_BP[kept], new_value_B[kept], new_g_BP[kept] = trial_BP[good_B], trial_B[good_B], trial_g_BP[good_B]
            waiting = waiting[~good_B]
            length_B[waiting] *= SHORTEN
            if not len(waiting):
                break
        move_BP, turn_BP = new_x_BP - x_BP, new_g_BP - g_BP
        curve_B = (move_BP * turn_BP).sum(axis=1)
        past = [*past, (move_BP, turn_BP, np.where(curve_B > 1e-10, 1 / np.maximum(curve_B, 1e-10), 0.0))][-MEMORY:]
        x_BP, value_B, g_BP = new_x_BP, new_value_B, new_g_BP
    return x_BP


def _direction(g_BP: FloatArray, past: list[tuple[FloatArray, FloatArray, FloatArray]]) -> FloatArray:
    """Two-loop recursion [B, P] over moves, turns and inverse curvatures; a pair with inverse 0 is passed over."""
    d_BP, shares = -g_BP, []
    if not past:
        return d_BP / np.maximum(1, np.sqrt(np.square(g_BP).sum(axis=1, keepdims=True)))
    for move_BP, turn_BP, inverse_B in reversed(past):
        shares.append((inverse_B * (move_BP * d_BP).sum(axis=1))[:, None])
        d_BP = d_BP - shares[-1] * turn_BP
    scale_B = np.ones(len(g_BP))
    for _, turn_BP, inverse_B in past:
        size_B = np.maximum(inverse_B * np.square(turn_BP).sum(axis=1), 1e-300)
        scale_B = np.where(inverse_B > 0, 1 / size_B, scale_B)
    d_BP = d_BP * scale_B[:, None]
    for (move_BP, turn_BP, inverse_B), share_B1 in zip(past, reversed(shares), strict=True):
        back_B1 = (inverse_B * (turn_BP * d_BP).sum(axis=1))[:, None]
        d_BP = d_BP + (share_B1 - back_B1) * move_BP
    return d_BP
