"""A Gaussian process that knows its runs: what it says of new ones, its slopes, and functions drawn from it.

    mean(u) = k(u) K^-1 y,    variance(u) = k(u, u) - |L^-1 k(u)|^2 + noise,    L L' = K

A drawn function is a draw from the prior, corrected by what that says wrongly of the runs:

    f(u) = f0(u) + k(u) K^-1 (y - f0(U) - e),    f0(u) = s sqrt(2 / F) sum_i v_i cos(omega_i . u + b_i) + a w.u + c

with v, w, c standard normal, b uniform on the circle, omega_i = sqrt(t_i) times a standard normal, t_i exponential:
such waves have the rational quadratic as their covariance. It is smooth and costs no more than the mean does.

Shapes: R runs, N candidates, D domains, P parameters of one metric, F waves.

Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", algorithm 2.1 and equation 4.20;
Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors"; Rahimi and Recht 2007, "Random
features for large-scale kernel machines".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from mixopt.laws.marginal import Inputs, covariance, near, noise
from mixopt.mixture import FloatArray

WAVES, COLUMNS = 1000, 128
MANY, SINGLE = 256, 1e-4


@dataclass(frozen=True)
class Waves:
    """A function drawn from the prior: waves, a plane and a level."""

    omega_DF: FloatArray
    phase_F: FloatArray
    height_F: FloatArray
    slope_D: FloatArray
    level: float

    @classmethod
    def draw(cls, rng: np.random.Generator, theta_P: FloatArray, domains: int) -> Waves:
        """One draw."""
        s, a = np.exp(theta_P[-4:-2])
        return cls(
            np.sqrt(rng.exponential(size=WAVES)) * rng.standard_normal((domains, WAVES)),
            rng.uniform(0, 2 * np.pi, WAVES),
            s * np.sqrt(2 / WAVES) * rng.standard_normal(WAVES),
            a * rng.standard_normal(domains),
            rng.standard_normal(),
        )

    def scaled(self, factor: float) -> Waves:
        """The same, `factor` times as high."""
        return replace(self, height_F=factor * self.height_F, slope_D=factor * self.slope_D, level=factor * self.level)

    def values(self, u_ND: FloatArray) -> FloatArray:
        """Values [N]."""
        return np.cos(u_ND @ self.omega_DF + self.phase_F) @ self.height_F + u_ND @ self.slope_D + self.level

    def slopes(self, u_ND: FloatArray) -> FloatArray:
        """Derivatives [N, D]."""
        return self.slope_D - (np.sin(u_ND @ self.omega_DF + self.phase_F) * self.height_F) @ self.omega_DF.T


@dataclass(frozen=True)
class Told:
    """What the runs say about one metric: u [R, D], noise [R], factor L [R, R], its inverse turned, K^-1 y [R].

    `waves` is the draw from the prior in one that was drawn. The inverse is in single precision where there are many
    runs and their noise is far above what that loses.
    """

    theta_P: FloatArray
    u_RD: FloatArray
    noise_R: FloatArray
    factor_RR: FloatArray
    inverse_RR: NDArray[np.floating]
    weight_R: FloatArray
    waves: Waves | None = None

    @classmethod
    def of(cls, inputs: Inputs, X_RD: FloatArray, h_R: FloatArray, y_R: FloatArray, theta_P: FloatArray) -> Self:
        """One factorisation; K has one wherever `evidence` was finite, and noise keeps it so for fewer runs."""
        u_RD, noise_R = inputs.scaled(X_RD, theta_P), noise(h_R, theta_P)
        K_RR = covariance(near(u_RD, u_RD), u_RD, u_RD, theta_P)
        K_RR.flat[:: len(y_R) + 1] += noise_R
        factor_RR = np.asfortranarray(np.linalg.cholesky(K_RR))
        precision: type[np.floating] = np.float32 if len(y_R) >= MANY and noise_R.min() > SINGLE else np.float64
        inverse_RR = np.ascontiguousarray(lapack.dtrtri(factor_RR, lower=1)[0].T).astype(precision)
        return cls(theta_P, u_RD, noise_R, factor_RR, inverse_RR, lapack.dpotrs(factor_RR, y_R, lower=1)[0])

    def say(self, inputs: Inputs, X_ND: FloatArray, return_std: bool) -> tuple[FloatArray, FloatArray]:
        """Means [N] and, where wanted, variances [N] of the function, without noise; otherwise zeros."""
        u_ND = inputs.scaled(X_ND, self.theta_P)
        s2, a2 = np.exp(2 * self.theta_P[-4:-2])
        near_NR = near(u_ND, self.u_RD)
        mean_N = near_NR @ (s2 * self.weight_R) + u_ND @ (a2 * (self.weight_R @ self.u_RD)) + self.weight_R.sum()
        if self.waves is not None:
            mean_N += self.waves.values(u_ND)
        if not return_std:
            return mean_N, np.zeros(len(X_ND))
        near_NR, u_RD = near_NR.astype(self.inverse_RR.dtype), self.u_RD.astype(self.inverse_RR.dtype)
        k_NR = covariance(near_NR, u_ND.astype(self.inverse_RR.dtype), u_RD, self.theta_P)
        left_N = s2 + a2 * np.square(u_ND).sum(axis=1) + 1
        for start in range(0, len(self.weight_R), COLUMNS):
            rows, columns = slice(start + COLUMNS), slice(start, start + COLUMNS)
            known_NC = k_NR[:, rows] @ self.inverse_RR[rows, columns]
            left_N -= np.einsum("nc,nc->n", known_NC, known_NC)
        return mean_N, np.maximum(left_N, 0)

    def slopes(self, inputs: Inputs, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, D] of the mean by each proportion."""
        u_ND = inputs.scaled(X_ND, self.theta_P)
        s2, a2 = np.exp(2 * self.theta_P[-4:-2])
        pull_NR = np.square(near(u_ND, self.u_RD)) * (s2 * self.weight_R)
        by_u_ND = pull_NR @ self.u_RD - pull_NR.sum(axis=1, keepdims=True) * u_ND + a2 * (self.weight_R @ self.u_RD)
        if self.waves is not None:
            by_u_ND += self.waves.slopes(u_ND)
        return by_u_ND * inputs.stretch(X_ND, self.theta_P)

    def drawn(self, rng: np.random.Generator, factor: float) -> Told:
        """A function drawn from what the runs leave plausible, its distance from the mean times `factor`."""
        waves = Waves.draw(rng, self.theta_P, self.u_RD.shape[1])
        off_R = waves.values(self.u_RD) + np.sqrt(self.noise_R) * rng.standard_normal(len(self.noise_R))
        correction_R = lapack.dpotrs(self.factor_RR, off_R, lower=1)[0]
        return replace(self, weight_R=self.weight_R - factor * correction_R, waves=waves.scaled(factor))
