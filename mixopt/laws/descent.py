"""Fitting laws whose parameters cannot be solved for: many small problems that take their steps together.

    theta_b = argmin  sum_r huber((f(x_r; theta) - z_rb) / delta)  +  1/2 sum_p (theta_p - prior_p)^2 / sd_p^2
    z = (y - mean) / scale,  scale = standard deviation of the metric,  huber(r) = r^2 / 2, linear beyond |r| = 1

Metrics are measured in their own standard deviations, so that priors are free of units and a metric that does not
vary is predicted as constant. The priors decide where the runs do not: fewer runs than parameters, proportions that
are never or always zero, domains that always move together.

Levenberg-Marquardt steps on the reweighted squares of Huber's loss, for all metrics and starts in one stack; no
parameter moves by more than LONGEST in one step. With fewer runs than parameters the system of a step is solved in
the space of the runs (Woodbury's identity).

That weighs the priors as if a run's noise were DELTA. `rounds` descends again, from there, with the priors weighed against
the noise that the residuals show, where it is less: for laws whose metrics vary by much more than they are uncertain. If
only a `part` of the rows are independent, these weights and the standard deviations count so many.

The standard deviation of a new run is the delta method on the covariance (J'J / noise + 1 / sd^2)^-1, `base.Laplace`.

Shapes: R runs, N candidates, D domains, M metrics, P parameters, B = starts x metrics.

Source: More 1978, "The Levenberg-Marquardt algorithm"; Holland and Welsch 1977, "Robust regression using iteratively
reweighted least-squares". The priors and the units are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mixopt.laws.base import Laplace, answer
from mixopt.mixture import FloatArray

STEPS = 200
TOLERANCE = 1e-7
LARGEST_DAMPING = 1e8
LONGEST = 2.0
FLAT = 1e-9
DELTA = 0.15
LEAST_NOISE = 1e-4

Terms = Callable[[FloatArray, FloatArray], FloatArray]
"""(theta [B, P], X [N, D]) -> a law's values [B, N], or their derivatives [B, N, P]."""


@dataclass(frozen=True)
class Shape:
    """A law's form: values and derivatives in units of a metric's spread, and Gaussian priors on the parameters.

    Priors are [P], or [B, P] where every problem has its own.
    """

    value: Terms
    slopes: Terms
    prior_P: FloatArray
    sd_P: FloatArray

    def each(self, rows_B: NDArray[np.intp]) -> Shape:
        """The shape of these problems, each with the prior that is its own."""
        return self if self.prior_P.ndim == 1 else replace(self, prior_P=self.prior_P[rows_B], sd_P=self.sd_P[rows_B])


@dataclass(frozen=True)
class Fitted:
    """What the runs say about a shape: theta [M, P] and its posterior, and the unit of each metric."""

    shape: Shape
    theta_MP: FloatArray
    posterior: Laplace
    mean_M: FloatArray
    scale_M: FloatArray

    def predict(self, X_ND: FloatArray, single: bool, return_std: bool) -> Any:
        """Metrics [N, M], or [N] where `single`; with `return_std` also the deviations of a new run's metrics."""
        X_ND = np.asarray(X_ND, dtype=float)
        P_NM = self.mean_M + self.scale_M * self.shape.value(self.theta_MP, X_ND).T
        if not return_std:
            return answer(single, P_NM)
        std_NM = self.posterior.std(lambda X_ND: self.shape.slopes(self.theta_MP, X_ND), X_ND)
        return answer(single, P_NM, self.scale_M * std_NM)


def fit_shape(
    shape: Shape, starts_SP: FloatArray, X_RD: FloatArray, Y_RM: FloatArray, rounds: int = 0, part: float = 1.0
) -> Fitted:
    """The best of the descents from each start, for every metric."""
    mean_M = Y_RM.mean(axis=0)
    scale_M = np.maximum(Y_RM.std(axis=0), FLAT * np.maximum(np.abs(Y_RM).max(axis=0), FLAT))
    z_RM = (Y_RM - mean_M) / scale_M
    theta_MP, posterior = fit_scaled(shape, starts_SP, X_RD, z_RM, rounds, part)
    return Fitted(shape, theta_MP, posterior, mean_M, scale_M)


def fit_scaled(
    shape: Shape, starts_SP: FloatArray, X_RD: FloatArray, z_RM: FloatArray, rounds: int, part: float = 1.0
) -> tuple[FloatArray, Laplace]:
    """Parameters [M, P] and their posterior, for metrics in units of a spread; starts are [S, P], or [S, M, P]."""
    z_MR = z_RM.T
    metrics, starts = len(z_MR), len(starts_SP)
    start_BP = np.repeat(starts_SP, metrics, axis=0) if starts_SP.ndim == 2 else np.concatenate(starts_SP)
    many = shape.each(np.tile(np.arange(metrics), starts))
    theta_BP, loss_B = descend(many, start_BP, X_RD, np.tile(z_MR, (starts, 1)))
    best_M = loss_B.reshape(starts, metrics).argmin(axis=0)
    theta_MP = theta_BP.reshape(starts, metrics, -1)[best_M, np.arange(metrics)]
    posterior = _posterior(shape, theta_MP, X_RD, z_MR, part)
    prior_MP = np.broadcast_to(shape.prior_P, theta_MP.shape)
    for _ in range(rounds):
        easier_M = np.maximum(np.sqrt(part) * DELTA / np.maximum(np.sqrt(posterior.noise_M), LEAST_NOISE), 1.0)
        sharper = replace(shape, prior_P=prior_MP, sd_P=easier_M[:, None] * shape.sd_P)
        theta_MP = descend(sharper, theta_MP, X_RD, z_MR)[0]
        posterior = _posterior(shape, theta_MP, X_RD, z_MR, part)
    return theta_MP, posterior


def _posterior(shape: Shape, theta_MP: FloatArray, X_RD: FloatArray, z_MR: FloatArray, part: float) -> Laplace:
    """The Laplace approximation where the noise is that of the residuals."""
    r_RM = (shape.value(theta_MP, X_RD) - z_MR).T
    penalty_MP = np.square(r_RM).mean(axis=0)[:, None] * np.broadcast_to(shape.sd_P**-2.0, theta_MP.shape)
    penalty_MPP = penalty_MP[:, :, None] * np.eye(theta_MP.shape[1])
    return Laplace.of(np.sqrt(part) * shape.slopes(theta_MP, X_RD), penalty_MPP, r_RM, np.ones(len(z_MR)))


def descend(shape: Shape, start_BP: FloatArray, X_RD: FloatArray, z_BR: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The parameters [B, P] reached from each start, and their loss [B]."""
    theta_BP, loss_B = start_BP.copy(), _loss(shape, start_BP, X_RD, z_BR)
    damping_B, live_B = np.full(len(z_BR), 1e-2), np.arange(len(z_BR))
    for _ in range(STEPS):
        live, z_LR = shape.each(live_B), z_BR[live_B]
        trial_LP = theta_BP[live_B] + _step(live, theta_BP[live_B], X_RD, z_LR, damping_B[live_B])
        trial_L = _loss(live, trial_LP, X_RD, z_LR)
        gain_L, damping_L = loss_B[live_B] - trial_L, damping_B[live_B]
        better_L = gain_L > 0
        done_L = np.where(better_L, gain_L <= TOLERANCE * (trial_L + TOLERANCE), damping_L > LARGEST_DAMPING)
        damping_B[live_B] = np.where(better_L, np.maximum(damping_L / 3, 1e-10), damping_L * 4)
        theta_BP[live_B[better_L]], loss_B[live_B[better_L]] = trial_LP[better_L], trial_L[better_L]
        live_B = live_B[~done_L]
        if not len(live_B):
            break
    return theta_BP, loss_B


def _loss(shape: Shape, theta_BP: FloatArray, X_RD: FloatArray, z_BR: FloatArray) -> FloatArray:
    """Huber's loss and the prior [B]; infinite where a trial step overflows, which is then not taken."""
    with np.errstate(over="ignore", invalid="ignore"):
        size_BR = np.abs(shape.value(theta_BP, X_RD) - z_BR) / DELTA
        huber_B = np.where(size_BR < 1, size_BR**2 / 2, size_BR - 0.5).sum(axis=1)
    return huber_B + (((theta_BP - shape.prior_P) / shape.sd_P) ** 2).sum(axis=1) / 2


def _step(shape: Shape, theta_BP: FloatArray, X_RD: FloatArray, z_BR: FloatArray, damping_B: FloatArray) -> FloatArray:
    """One damped Gauss-Newton step [B, P] with Huber's weights, min(1, 1 / |r|) for residuals r in units of DELTA."""
    r_BR = (shape.value(theta_BP, X_RD) - z_BR) / DELTA
    root_BR = np.sqrt(1 / np.maximum(np.abs(r_BR), 1))
    A_BRP, precision_P = shape.slopes(theta_BP, X_RD) * (root_BR / DELTA)[:, :, None], shape.sd_P**-2.0
    g_BP = np.einsum("brp,br->bp", A_BRP, root_BR * r_BR) + precision_P * (theta_BP - shape.prior_P)
    diagonal_BP = precision_P + damping_B[:, None] * (precision_P + np.einsum("brp,brp->bp", A_BRP, A_BRP))
    runs, parameters = A_BRP.shape[1:]
    if runs < parameters:
        scaled_BRP = A_BRP / diagonal_BP[:, None, :]
        inner_BRR = np.eye(runs) + scaled_BRP @ A_BRP.transpose(0, 2, 1)
        seen_BR1 = np.linalg.solve(inner_BRR, scaled_BRP @ g_BP[:, :, None])
        move_BP = g_BP / diagonal_BP - (scaled_BRP.transpose(0, 2, 1) @ seen_BR1)[:, :, 0]
    else:
        hessian_BPP = A_BRP.transpose(0, 2, 1) @ A_BRP
        hessian_BPP[:, range(parameters), range(parameters)] += diagonal_BP
        move_BP = np.linalg.solve(hessian_BPP, g_BP[:, :, None])[:, :, 0]
    return -move_BP / np.maximum(np.abs(move_BP).max(axis=1, keepdims=True) / LONGEST, 1)
