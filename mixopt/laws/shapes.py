"""Fitting laws whose parameters cannot be solved for: a form, priors, and what the runs say about both.

    theta_m = argmin  sum_r huber((f(x_r; theta) - z_rm) / DELTA)  +  1/2 sum_p (theta_p - prior_p)^2 / sd_p^2
    z = (y - mean) / scale,  scale = standard deviation of the metric

Metrics are measured in their own standard deviations, so that priors are free of units and a metric that does not
vary is predicted as constant. The priors decide where the runs do not: fewer runs than parameters, proportions that
are never or always zero, domains that always move together. All metrics and starts descend in one stack (`descent`).

That weighs the priors as if a run's noise were DELTA. `rounds` descends again, from there, with the priors weighed against
the noise that the residuals show, where it is less: for laws whose metrics vary by much more than they are uncertain. If
only a `part` of the rows are independent, these weights and the standard deviations count so many.

The standard deviation of a new run is the delta method on the covariance (J'J / noise + 1 / sd^2)^-1, `base.Laplace`.

Shapes: R runs, N candidates, D domains, M metrics, P parameters, S starts, B = starts x metrics.

Source: the priors and the units are ours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mixopt.laws.base import Laplace, answer, check_mixtures
from mixopt.laws.descent import Problem, Terms, descend
from mixopt.mixture import FloatArray

FLAT = 1e-9
DELTA = 0.15
FAR = 10.0  # standard deviations of the noise beyond which a drawn run would be an outlier
LEAST_NOISE = 1e-4


@dataclass(frozen=True)
class Shape:
    """A law's form: values and derivatives in units of a metric's spread, and Gaussian priors on the parameters.

    Priors are [P], or [M, P] where every metric has its own.
    """

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
        sd_BP = np.tile(np.broadcast_to(self.shape.sd_P, self.theta_MP.shape), (count, 1))
        fitted_BR = np.tile(self.shape.value(self.theta_MP, self.X_RD), (count, 1))
        problem = Problem(
            self.shape.value,
            self.shape.slopes,
            self.X_RD,
            fitted_BR + np.sqrt(noise_B)[:, None] * rng.normal(size=fitted_BR.shape),
            theta_BP + sd_BP * rng.normal(size=theta_BP.shape),
            FAR * sd_BP,
            FAR * np.sqrt(noise_B),
        )
        drawn_SMP = descend(problem, theta_BP)[0].reshape(count, *self.theta_MP.shape)
        return [replace(self, theta_MP=theta_MP, posterior=self.posterior.certain) for theta_MP in drawn_SMP]


def fit_shape(
    shape: Shape, starts_SP: FloatArray, X_RD: FloatArray, Y_RM: FloatArray, rounds: int = 0, part: float = 1.0
) -> Fitted:
    """The best of the descents from each start, for every metric."""
    mean_M = Y_RM.mean(axis=0)
    scale_M = np.maximum(Y_RM.std(axis=0), FLAT * np.maximum(np.abs(Y_RM).max(axis=0), FLAT))
    z_RM = (Y_RM - mean_M) / scale_M
    theta_MP, posterior = fit_scaled(shape, starts_SP, X_RD, z_RM, rounds, part)
    return Fitted(shape, X_RD, theta_MP, posterior, mean_M, scale_M)


def fit_scaled(
    shape: Shape, starts_SP: FloatArray, X_RD: FloatArray, z_RM: FloatArray, rounds: int, part: float = 1.0
) -> tuple[FloatArray, Laplace]:
    """Parameters [M, P] and their posterior, for metrics in units of a spread; starts are [S, P], or [S, M, P]."""
    z_MR = z_RM.T
    metrics, starts = len(z_MR), len(starts_SP)
    start_BP = np.repeat(starts_SP, metrics, axis=0) if starts_SP.ndim == 2 else np.concatenate(starts_SP)
    prior_MP, sd_MP = (np.broadcast_to(each, (metrics, start_BP.shape[1])) for each in (shape.prior_P, shape.sd_P))
    prior_BP, sd_BP = np.tile(prior_MP, (starts, 1)), np.tile(sd_MP, (starts, 1))
    delta_B = np.full(len(start_BP), DELTA)
    every_BR = np.tile(z_MR, (starts, 1))
    problem = Problem(shape.value, shape.slopes, X_RD, every_BR, prior_BP, sd_BP, delta_B)
    theta_BP, loss_B = descend(problem, start_BP)
    best_M = loss_B.reshape(starts, metrics).argmin(axis=0)
    theta_MP = theta_BP.reshape(starts, metrics, -1)[best_M, np.arange(metrics)]
    posterior = _posterior(shape, theta_MP, X_RD, z_MR, part)
    for _ in range(rounds):
        easier_M = np.maximum(np.sqrt(part) * DELTA / np.maximum(np.sqrt(posterior.noise_M), LEAST_NOISE), 1.0)
        again = Problem(
            shape.value, shape.slopes, X_RD, z_MR, prior_MP, easier_M[:, None] * sd_MP, np.full(metrics, DELTA)
        )
        theta_MP = descend(again, theta_MP)[0]
        posterior = _posterior(shape, theta_MP, X_RD, z_MR, part)
    return theta_MP, posterior


def _posterior(shape: Shape, theta_MP: FloatArray, X_RD: FloatArray, z_MR: FloatArray, part: float) -> Laplace:
    """The Laplace approximation where the noise is that of the residuals."""
    r_RM = (shape.value(theta_MP, X_RD) - z_MR).T
    penalty_MP = np.square(r_RM).mean(axis=0)[:, None] * np.broadcast_to(shape.sd_P**-2.0, theta_MP.shape)
    penalty_MPP = penalty_MP[:, :, None] * np.eye(theta_MP.shape[1])
    return Laplace.of(np.sqrt(part) * shape.slopes(theta_MP, X_RD), penalty_MPP, r_RM, np.ones(len(z_MR)))
