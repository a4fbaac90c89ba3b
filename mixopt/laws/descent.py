"""Fitting laws whose parameters cannot be solved for: many small problems that take their steps together.

    theta_b = argmin  sum_r huber((f(x_r; theta) - z_rb) / delta)  +  1/2 sum_p (theta_p - prior_p)^2 / sd_p^2
    z = (y - mean) / scale,  scale = standard deviation of the metric,  huber(r) = r^2 / 2, linear beyond |r| = 1

Metrics are measured in their own standard deviations, so that priors are free of units and a metric that does not
vary is predicted as constant. The priors decide where the runs do not: fewer runs than parameters, proportions that
are never or always zero, domains that always move together.

Levenberg-Marquardt steps on the reweighted squares of Huber's loss, for all metrics and starts in one stack; no
parameter moves by more than LONGEST in one step. With fewer runs than parameters the system of a step is solved in
the space of the runs (Woodbury's identity).

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

from mixopt.laws.base import Laplace, answer, check_mixtures
from mixopt.mixture import FloatArray

STEPS = 200
TOLERANCE = 1e-7
LARGEST_DAMPING = 1e8
LONGEST = 2.0
FLAT = 1e-9
DELTA = 0.15
FAR = 10.0  # standard deviations of the noise beyond which a drawn run would be an outlier

Terms = Callable[[FloatArray, FloatArray], FloatArray]
"""(theta [B, P], X [N, D]) -> a law's values [B, N], or their derivatives [B, N, P]."""


@dataclass(frozen=True)
class Shape:
    """A law's form: values and derivatives in units of a metric's spread, and Gaussian priors on the parameters [P]."""

    value: Terms
    slopes: Terms
    prior_P: FloatArray
    sd_P: FloatArray


@dataclass(frozen=True)
class Fitted:
    """What runs at these mixtures say about a shape: theta [M, P] and its posterior, and the unit of each metric."""

    shape: Shape
    X_RD: FloatArray
    theta_MP: FloatArray
    posterior: Laplace
    mean_M: FloatArray
    scale_M: FloatArray

    def predict(self, X_ND: FloatArray, single: bool, return_std: bool) -> Any:
        """Metrics [N, M], or [N] where `single`; with `return_std` also the deviations of a new run's metrics."""
        X_ND = check_mixtures(X_ND, self.X_RD.shape[1])
        P_NM = self.mean_M + self.scale_M * self.shape.value(self.theta_MP, X_ND).T
        if not return_std:
            return answer(single, P_NM)
        std_NM = self.posterior.std(lambda X_ND: self.shape.slopes(self.theta_MP, X_ND), X_ND)
        return answer(single, P_NM, self.scale_M * std_NM)

    def draw(self, rng: np.random.Generator, count: int) -> list[Fitted]:
        """The same with parameters from the posterior, known to be these: fits to what runs and priors might have been.

        Runs are drawn around the fitted values and centres of the priors around the fitted parameters. To first order
        these are draws from the normal approximation; unlike those they fit the runs where the posterior is bent.
        Source: Bardsley et al. 2014, "Randomize-then-optimize", without its weights.
        """
        theta_BP, noise_B = np.tile(self.theta_MP, (count, 1)), np.tile(self.posterior.noise_M, count)
        fitted_BR = np.tile(self.shape.value(self.theta_MP, self.X_RD), (count, 1))
        problem = Problem(
            replace(self.shape, sd_P=FAR * self.shape.sd_P),
            self.X_RD,
            fitted_BR + np.sqrt(noise_B)[:, None] * rng.normal(size=fitted_BR.shape),
            theta_BP + self.shape.sd_P * rng.normal(size=theta_BP.shape),
            FAR * np.sqrt(noise_B),
        )
        drawn_SMP = descend(problem, theta_BP)[0].reshape(count, *self.theta_MP.shape)
        return [replace(self, theta_MP=theta_MP, posterior=self.posterior.certain) for theta_MP in drawn_SMP]


@dataclass(frozen=True)
class Problem:
    """Values z [B, R] to be met at mixtures, centres of the priors, and where Huber's loss becomes linear [B]."""

    shape: Shape
    X_RD: FloatArray
    z_BR: FloatArray
    prior_BP: FloatArray
    delta_B: FloatArray

    def some(self, which_L: NDArray[np.intp]) -> Problem:
        """Only these of the B."""
        return replace(self, z_BR=self.z_BR[which_L], prior_BP=self.prior_BP[which_L], delta_B=self.delta_B[which_L])

    def loss(self, theta_BP: FloatArray) -> FloatArray:
        """Huber's loss and the prior [B]; infinite where a trial step overflows, which is then not taken."""
        with np.errstate(over="ignore", invalid="ignore"):
            size_BR = np.abs(self.shape.value(theta_BP, self.X_RD) - self.z_BR) / self.delta_B[:, None]
            huber_B = np.where(size_BR < 1, size_BR**2 / 2, size_BR - 0.5).sum(axis=1)
        return huber_B + (((theta_BP - self.prior_BP) / self.shape.sd_P) ** 2).sum(axis=1) / 2

    def step(self, theta_BP: FloatArray, damping_B: FloatArray) -> FloatArray:
        """A damped Gauss-Newton step [B, P] with Huber's weights, min(1, 1 / |r|) for residuals r in units of delta."""
        r_BR = (self.shape.value(theta_BP, self.X_RD) - self.z_BR) / self.delta_B[:, None]
        root_BR, precision_P = np.sqrt(1 / np.maximum(np.abs(r_BR), 1)), self.shape.sd_P**-2.0
        A_BRP = self.shape.slopes(theta_BP, self.X_RD) * (root_BR / self.delta_B[:, None])[:, :, None]
        g_BP = np.einsum("brp,br->bp", A_BRP, root_BR * r_BR) + precision_P * (theta_BP - self.prior_BP)
        diagonal_BP = precision_P + damping_B[:, None] * (precision_P + np.einsum("brp,brp->bp", A_BRP, A_BRP))
        move_BP = _solve(A_BRP, diagonal_BP, g_BP)
        return -move_BP / np.maximum(np.abs(move_BP).max(axis=1, keepdims=True) / LONGEST, 1)


def fit_shape(shape: Shape, starts_SP: FloatArray, X_RD: FloatArray, Y_RM: FloatArray) -> Fitted:
    """The best of the descents from each start, for every metric."""
    mean_M = Y_RM.mean(axis=0)
    scale_M = np.maximum(Y_RM.std(axis=0), FLAT * np.maximum(np.abs(Y_RM).max(axis=0), FLAT))
    z_MR = ((Y_RM - mean_M) / scale_M).T
    metrics, starts = len(z_MR), len(starts_SP)
    start_BP = np.repeat(starts_SP, metrics, axis=0)
    prior_BP, delta_B = np.broadcast_to(shape.prior_P, start_BP.shape), np.full(len(start_BP), DELTA)
    theta_BP, loss_B = descend(Problem(shape, X_RD, np.tile(z_MR, (starts, 1)), prior_BP, delta_B), start_BP)
    best_M = loss_B.reshape(starts, metrics).argmin(axis=0)
    theta_MP = theta_BP.reshape(starts, metrics, -1)[best_M, np.arange(metrics)]
    r_RM = (shape.value(theta_MP, X_RD) - z_MR).T
    penalty_MPP = np.multiply.outer((r_RM**2).mean(axis=0), np.diag(shape.sd_P**-2.0))
    posterior = Laplace.of(shape.slopes(theta_MP, X_RD), penalty_MPP, r_RM, np.ones(len(z_MR)))
    return Fitted(shape, X_RD, theta_MP, posterior, mean_M, scale_M)


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
