"""Levenberg-Marquardt for many small problems that take their steps together.

    theta_b = argmin  sum_r huber((f(x_r; theta) - z_rb) / delta_b)  +  1/2 sum_p (theta_p - prior_bp)^2 / sd_bp^2
    huber(r) = r^2 / 2, linear beyond |r| = 1

Steps are those on the reweighted squares of Huber's loss; no parameter moves by more than LONGEST in one. With fewer runs
than parameters the system of a step is solved in the space of the runs (Woodbury's identity).

Shapes: R runs, N candidates, D domains, P parameters, B problems.

Source: More 1978, "The Levenberg-Marquardt algorithm"; Holland and Welsch 1977, "Robust regression using iteratively
reweighted least-squares".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mixopt.mixture import FloatArray

STEPS = 200
TOLERANCE = 1e-7
LARGEST_DAMPING = 1e8
LONGEST = 2.0

Terms = Callable[[FloatArray, FloatArray], FloatArray]
"""(theta [B, P], X [N, D]) -> a law's values [B, N], or their derivatives [B, N, P]."""


@dataclass(frozen=True)
class Problem:
    """Values z [B, R] to be met at mixtures, a prior for each, and where Huber's loss becomes linear [B]."""

    value: Terms
    slopes: Terms
    X_RD: FloatArray
    z_BR: FloatArray
    prior_BP: FloatArray
    sd_BP: FloatArray
    delta_B: FloatArray

    def some(self, which_L: NDArray[np.intp]) -> Problem:
        """Only these of the B."""
        return Problem(
            self.value,
            self.slopes,
            self.X_RD,
            self.z_BR[which_L],
            self.prior_BP[which_L],
            self.sd_BP[which_L],
            self.delta_B[which_L],
        )

    def loss(self, theta_BP: FloatArray) -> FloatArray:
        """Huber's loss and the prior [B]; infinite where a trial step overflows, which is then not taken."""
        with np.errstate(over="ignore", invalid="ignore"):
            size_BR = np.abs(self.value(theta_BP, self.X_RD) - self.z_BR) / self.delta_B[:, None]
            huber_B = np.where(size_BR < 1, size_BR**2 / 2, size_BR - 0.5).sum(axis=1)
        return huber_B + (((theta_BP - self.prior_BP) / self.sd_BP) ** 2).sum(axis=1) / 2

    def step(self, theta_BP: FloatArray, damping_B: FloatArray) -> FloatArray:
        """A damped Gauss-Newton step [B, P] with Huber's weights, min(1, 1 / |r|) for residuals r in units of delta."""
        r_BR = (self.value(theta_BP, self.X_RD) - self.z_BR) / self.delta_B[:, None]
        root_BR, precision_BP = np.sqrt(1 / np.maximum(np.abs(r_BR), 1)), self.sd_BP**-2.0
        A_BRP = self.slopes(theta_BP, self.X_RD) * (root_BR / self.delta_B[:, None])[:, :, None]
        g_BP = np.einsum("brp,br->bp", A_BRP, root_BR * r_BR) + precision_BP * (theta_BP - self.prior_BP)
        diagonal_BP = precision_BP + damping_B[:, None] * (precision_BP + np.einsum("brp,brp->bp", A_BRP, A_BRP))
        move_BP = _solve(A_BRP, diagonal_BP, g_BP)
        return -move_BP / np.maximum(np.abs(move_BP).max(axis=1, keepdims=True) / LONGEST, 1)


def descend(problem: Problem, start_BP: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The parameters [B, P] reached from each start, and their loss [B]."""
    theta_BP, loss_B = start_BP.copy(), problem.loss(start_BP)
    damping_B, live_B = np.full(len(start_BP), 1e-2), np.arange(len(start_BP))
    for _ in range(STEPS):
        left = problem.some(live_B)
        trial_LP = theta_BP[live_B] + left.step(theta_BP[live_B], damping_B[live_B])
        trial_L = left.loss(trial_LP)
        gain_L, damping_L = loss_B[live_B] - trial_L, damping_B[live_B]
        better_L = gain_L > 0
        done_L = np.where(better_L, gain_L <= TOLERANCE * (trial_L + TOLERANCE), damping_L > LARGEST_DAMPING)
        damping_B[live_B] = np.where(better_L, np.maximum(damping_L / 3, 1e-10), damping_L * 4)
        theta_BP[live_B[better_L]], loss_B[live_B[better_L]] = trial_LP[better_L], trial_L[better_L]
        live_B = live_B[~done_L]
        if not len(live_B):
            break
    return theta_BP, loss_B


def _solve(A_BRP: FloatArray, diagonal_BP: FloatArray, g_BP: FloatArray) -> FloatArray:
    """(A'A + diagonal)^-1 g [B, P], in the space of the runs where these are fewer than the parameters."""
    runs, parameters = A_BRP.shape[1:]
    if runs < parameters:
        scaled_BRP = A_BRP / diagonal_BP[:, None, :]
        inner_BRR = np.eye(runs) + scaled_BRP @ A_BRP.transpose(0, 2, 1)
        seen_BR1 = np.linalg.solve(inner_BRR, scaled_BRP @ g_BP[:, :, None])
        return np.asarray(g_BP / diagonal_BP - (scaled_BRP.transpose(0, 2, 1) @ seen_BR1)[:, :, 0])
    hessian_BPP = A_BRP.transpose(0, 2, 1) @ A_BRP
    hessian_BPP[:, range(parameters), range(parameters)] += diagonal_BP
    return np.asarray(np.linalg.solve(hessian_BPP, g_BP[:, :, None])[:, :, 0])
