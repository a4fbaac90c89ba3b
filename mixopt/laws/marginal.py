"""What a Gaussian process says of its own parameters: marginal likelihood, its gradient, and the way up for many at once.

    K = s^2 Matern-5/2(u, u') + a^2 u.u' + 1 + diag(n^2 + b^2 h_r^2),    u_j = (log(p_j + eps_j) - mean_j) / (sd_j l_j)

    -log p(y | theta) = y' K^-1 y / 2 + log |K| / 2

theta [P] are the logarithms of l [D], eps [D], s, a, n, b. All derivatives pass through W = (K^-1 - K^-1 y y' K^-1) / 2,
so that an evaluation is one Cholesky factor, one inverse of it and one product [R, R] x [R, D], whatever D is.

Shapes: R runs, N candidates, D domains, P = 2 D + 4 parameters of one metric, B metrics.

Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equations 5.8 and 5.9; Nocedal and
Wright 2006, "Numerical Optimization", algorithm 7.4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from mixopt.mixture import FloatArray

LEAST_NOISE = 1e-6
MEMORY, LONGEST, HALVINGS, SHORTEN, ARMIJO = 10, 3.0, 10, 0.4, 1e-4

Cost = Callable[[FloatArray, NDArray[np.intp]], tuple[FloatArray, FloatArray]]
"""(theta [B, P], which metrics [B]) -> costs [B] and gradients [B, P]."""


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


@dataclass(frozen=True)
class Told:
    """What the runs say about one metric: their u [R, D], the factor of K [R, R], K^-1 y [R]."""

    theta_P: FloatArray
    u_RD: FloatArray
    factor_RR: FloatArray
    weight_R: FloatArray

    @classmethod
    def of(cls, inputs: Inputs, X_RD: FloatArray, h_R: FloatArray, y_R: FloatArray, theta_P: FloatArray) -> Told:
        """One factorisation; K has one wherever `evidence` was finite, and noise keeps it so for fewer runs."""
        u_RD = inputs.scaled(X_RD, theta_P)
        K_RR = covariance(u_RD, u_RD, theta_P)[0]
        K_RR.flat[:: len(y_R) + 1] += noise(h_R, theta_P)
        factor_RR = np.asfortranarray(np.linalg.cholesky(K_RR))
        return cls(theta_P, u_RD, factor_RR, lapack.dpotrs(factor_RR, y_R, lower=1)[0])

    def say(self, inputs: Inputs, X_ND: FloatArray, h_N: FloatArray, return_std: bool) -> tuple[FloatArray, FloatArray]:
        """Means [N] and, where wanted, standard deviations [N] of new runs, noise included; otherwise zeros."""
        u_ND = inputs.scaled(X_ND, self.theta_P)
        k_NR = covariance(u_ND, self.u_RD, self.theta_P)[0]
        if not return_std:
            return k_NR @ self.weight_R, np.zeros(len(X_ND))
        s2, a2 = np.exp(2 * self.theta_P[-4:-2])
        known_RN = lapack.dtrtrs(self.factor_RR, k_NR.T, lower=1)[0]
        left_N = s2 + a2 * np.square(u_ND).sum(axis=1) + 1 - np.square(known_RN).sum(axis=0)
        return k_NR @ self.weight_R, np.sqrt(np.maximum(left_N, 0) + noise(h_N, self.theta_P))


def covariance(u_ND: FloatArray, u_RD: FloatArray, theta_P: FloatArray) -> tuple[FloatArray, ...]:
    """Without noise: all of it, its Matern part, u.u', and minus 6/5 of the Matern part's slope in |u - u'|^2; [N, R]."""
    s2, a2 = np.exp(2 * theta_P[-4:-2])
    dot_NR = u_ND @ u_RD.T
    r_NR = -2 * dot_NR
    r_NR += np.square(u_RD).sum(axis=1)
    r_NR += np.square(u_ND).sum(axis=1)[:, None]
    np.maximum(r_NR, 0, out=r_NR)
    r_NR *= 5
    np.sqrt(r_NR, out=r_NR)
    decay_NR = np.exp(-r_NR)
    decay_NR *= s2
    matern_NR = r_NR * r_NR
    matern_NR /= 3
    r_NR += 1
    matern_NR += r_NR
    matern_NR *= decay_NR
    r_NR *= decay_NR
    all_NR = a2 * dot_NR
    all_NR += matern_NR
    all_NR += 1
    return all_NR, matern_NR, dot_NR, r_NR


def noise(h_R: FloatArray, theta_P: FloatArray) -> FloatArray:
    """Variance of the noise of each run."""
    n2, b2 = np.exp(2 * theta_P[-2:])
    return LEAST_NOISE + n2 + b2 * h_R**2


def evidence(
    inputs: Inputs, X_RD: FloatArray, h_R: FloatArray, y_R: FloatArray, theta_P: FloatArray
) -> tuple[float, FloatArray]:
    """Minus the log marginal likelihood of one metric and its gradient [P]; infinite where K has no Cholesky factor."""
    u_RD = inputs.scaled(X_RD, theta_P)
    K_RR, matern_RR, dot_RR, bend_RR = covariance(u_RD, u_RD, theta_P)
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
    (a2, n2, b2), own_R = np.exp(2 * theta_P[-3:]), W_RR.diagonal()
    tail = [2 * np.vdot(W_RR, matern_RR), 2 * a2 * np.vdot(W_RR, dot_RR), 2 * n2 * own_R.sum(), 2 * b2 * own_R @ h_R**2]
    bend_RR *= W_RR
    bend_RR *= 10 / 3
    rows_R1 = bend_RR.sum(axis=1, keepdims=True)
    W_RR *= 2 * a2
    W_RR += bend_RR
    by_u_RD = W_RR @ u_RD - rows_R1 * u_RD
    log_l_D, log_eps_D = theta_P[:-4].reshape(2, -1)
    by_eps_RD = by_u_RD / (X_RD + np.exp(log_eps_D))
    by_eps_D = by_eps_RD.sum(axis=0) * np.exp(log_eps_D - log_l_D) / inputs.sd_D
    return float(value), np.concatenate([-(by_u_RD * u_RD).sum(axis=0), by_eps_D, tail])


def minimise(cost: Cost, x_BP: FloatArray, iterations: int) -> FloatArray:
    """L-BFGS for every metric by itself, all in step: no metric's answer depends on another's.

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
