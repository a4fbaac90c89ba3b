"""A Gaussian process of one metric: its kernel, and what the runs say of the kernel's own parameters.

    K = s^2 / (1 + |u - u'|^2 / 2) + a^2 u.u' + 1 + diag(n^2 + b^2 h_r^2),    u_j = (log(p_j + eps_j) - mean_j) / (sd_j l_j)

    -log p(y | theta) = y' K^-1 y / 2 + log |K| / 2

theta [P] are the logarithms of l [D], eps [D], s, a, n, b. All derivatives pass through W = (K^-1 - K^-1 y y' K^-1) / 2,
so that an evaluation is one Cholesky factor, one inverse of it and one product [R, R] x [R, D], whatever D is. The
kernel's first part, the rational quadratic with exponent one, costs one division for each pair of mixtures.

Shapes: R runs, N candidates, D domains, P = 2 D + 4 parameters of one metric.

Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 4.19, 5.8 and 5.9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from mixopt.mixture import FloatArray

LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Inputs:
    """Logarithms of proportions in units of the runs' spread, as one metric sees them."""

    mean_D: FloatArray
    sd_D: FloatArray

    @classmethod
    def of(cls, X_RD: FloatArray, eps: float) -> Inputs:
        """The spread at one small proportion `eps` for all; a domain that does not vary has unit 1."""
        log_RD = np.log(X_RD + eps)
        sd_D = log_RD.std(axis=0)
        return cls(log_RD.mean(axis=0), np.where(sd_D > LEAST_NOISE, sd_D, 1.0))

    def standardised(self, X_RD: FloatArray, eps_D: FloatArray | float) -> FloatArray:
        """Logarithms [R, D] in units of the spread: z."""
        return (np.log(X_RD + eps_D) - self.mean_D) / self.sd_D

    def scaled(self, X_RD: FloatArray, theta_P: FloatArray) -> FloatArray:
        """Those in units of the lengths [R, D]: u."""
        log_l_D, log_eps_D = theta_P[:-4].reshape(2, -1)
        return self.standardised(X_RD, np.exp(log_eps_D)) / np.exp(log_l_D)

    def stretch(self, X_RD: FloatArray, theta_P: FloatArray) -> FloatArray:
        """Derivatives [R, D] of each u_j by its own p_j."""
        log_l_D, log_eps_D = theta_P[:-4].reshape(2, -1)
        return 1 / ((X_RD + np.exp(log_eps_D)) * self.sd_D * np.exp(log_l_D))


def near(u_ND: FloatArray, u_RD: FloatArray) -> FloatArray:
    """1 / (1 + |u - u'|^2 / 2) [N, R]: one product, one division."""
    left_NE = np.column_stack([-u_ND, np.ones(len(u_ND)), 1 + np.square(u_ND).sum(axis=1) / 2])
    right_RE = np.column_stack([u_RD, np.square(u_RD).sum(axis=1) / 2, np.ones(len(u_RD))])
    near_NR = left_NE @ right_RE.T
    return np.reciprocal(near_NR, out=near_NR)


def covariance(near_NR: FloatArray, u_ND: FloatArray, u_RD: FloatArray, theta_P: FloatArray) -> FloatArray:
    """Without noise [N, R], in the precision of the arguments."""
    s2, a2 = np.exp(2 * theta_P[-4:-2]).astype(near_NR.dtype)
    all_NR = s2 * near_NR
    all_NR += u_ND @ (a2 * u_RD).T
    all_NR += 1
    return all_NR


def noise(h_R: FloatArray, theta_P: FloatArray) -> FloatArray:
    """Variance of the noise of each run."""
    n2, b2 = np.exp(2 * theta_P[-2:])
    return LEAST_NOISE + n2 + b2 * h_R**2


def evidence(
    inputs: Inputs, X_RD: FloatArray, h_R: FloatArray, y_R: FloatArray, theta_P: FloatArray
) -> tuple[float, FloatArray]:
    """Minus the log marginal likelihood of one metric and its gradient [P]; infinite where K has no Cholesky factor."""
    u_RD = inputs.scaled(X_RD, theta_P)
    near_RR = near(u_RD, u_RD)
    K_RR = covariance(near_RR, u_RD, u_RD, theta_P)
    diagonal = np.s_[:: len(y_R) + 1]
    K_RR.flat[diagonal] += noise(h_R, theta_P)
    L_RR, failed = lapack.dpotrf(K_RR.T, lower=1, overwrite_a=1, clean=1)
    if failed:
        return np.inf, np.zeros_like(theta_P)
    alpha_R = lapack.dpotrs(L_RR, y_R, lower=1)[0]
    value = 0.5 * y_R @ alpha_R + np.log(L_RR.diagonal()).sum()

    half_RR = lapack.dpotri(L_RR, lower=1, overwrite_c=1)[0]
    W_RR = half_RR + half_RR.T
    W_RR.flat[diagonal] *= 0.5
    W_RR -= np.multiply.outer(alpha_R, alpha_R)
    W_RR *= 0.5
    (s2, a2, n2, b2), own_R, Wu_RD = np.exp(2 * theta_P[-4:]), W_RR.diagonal().copy(), W_RR @ u_RD
    W_RR *= near_RR
    tail = [s2 * W_RR.sum(), a2 * np.vdot(Wu_RD, u_RD), n2 * own_R.sum(), b2 * own_R @ h_R**2]
    W_RR *= near_RR
    by_u_RD = 2 * (a2 * Wu_RD + s2 * (W_RR @ u_RD - W_RR.sum(axis=1, keepdims=True) * u_RD))
    log_l_D, log_eps_D = theta_P[:-4].reshape(2, -1)
    by_eps_RD = by_u_RD / (X_RD + np.exp(log_eps_D))
    by_eps_D = by_eps_RD.sum(axis=0) * np.exp(log_eps_D - log_l_D) / inputs.sd_D
    return float(value), np.concatenate([-(by_u_RD * u_RD).sum(axis=0), by_eps_D, 2 * np.array(tail)])
