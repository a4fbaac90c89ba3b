"""AutoScale's law: every domain stands for as much data as it has and as the others are worth to it.

    f_m(p) = c_m + s_m sum_j (A_mj + p_j)^(-gamma_mj),    A > 0, gamma > 0

f is convex in p, defined at p_j = 0. A_mj is what the other domains are worth to domain j, in units of the proportion.
`s` is the standard deviation of the metric over the runs, so that the law does not depend on its unit.

AutoScale fits one domain at a time, from a base run and runs with that domain tripled and cut to a third: `domain_fit`.
Its rule for larger budgets is `next_scale`: from the best tokens of every domain at two budgets those at a third,
N3 = N2 N2 / N1, domain by domain; between budgets the exponent is a fraction.

log A and log gamma have Gaussian priors (`descent`).

Shapes: R runs, N candidates, D domains, M metrics, K amounts of one domain, B = starts x metrics, P = 1 + 2 D parameters
(c, log A, log gamma).

Source: AutoScale (arXiv:2407.20177) and its notebook; the sum over domains is in Olmix's reference code
(AutoscaleRegressor), with p in tokens, (R (A + p))^-gamma, by least squares from one start. Ours: s, priors, Huber's
loss.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import least_squares

from mixopt.errors import SwarmError
from mixopt.laws.base import Curve, Law, check_runs
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray

STARTS = (0.1, 1.0, 4.0)
ACCURACY = 1e-14
EXACT = 1e-9


@dataclass
class AutoScale:
    """c + s sum (A + p)^-gamma for each metric; convex, and a rule for larger budgets.

    Learned: c_ [M], s_ [M], A_ [M, D], gamma_ [M, D].
    """

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the priors answer for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        D = X_RD.shape[1]
        prior_P = np.concatenate([[-D - 2.0], np.full(D, np.log(3e-3)), np.full(D, np.log(0.05))])
        sd_P = np.concatenate([[D + 3.0], np.full(D, 1.0), np.full(D, 1.5)])
        start_P = np.concatenate([[-D - 2.0], np.full(D, np.log(3e-3)), np.full(D, np.log(0.1))])
        shape = Shape(self._value, self._slopes, prior_P, sd_P)
        return self._learn(fit_shape(shape, start_P[None], X_RD, Y_RM))

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(X_ND, self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: -s gamma (A + p)^(-gamma - 1)."""
        q_NMD = np.asarray(X_ND, dtype=float)[:, None, :] + self.A_
        return np.asarray(-self.s_[:, None] * self.gamma_ * q_NMD ** (-self.gamma_ - 1))

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the posterior: fits to what the runs might have been (`descent`)."""
        return [copy.copy(self)._learn(fitted) for fitted in self.fitted_.draw(rng, count)]

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics; its Hessian is diagonal, sum_m w_m s gamma (gamma + 1) q^(-gamma - 2)."""
        c, ws_M1 = float(weights_M @ self.c_), (weights_M * self.s_)[:, None]

        def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            q_MD = self.A_ + p_D
            u_MD = ws_M1 * q_MD**-self.gamma_
            slope_MD = -self.gamma_ * u_MD / q_MD
            bend_D = ((self.gamma_ + 1) * -slope_MD / q_MD).sum(axis=0)
            return c + float(u_MD.sum()), slope_MD.sum(axis=0), np.diag(bend_D)

        return value

    def _learn(self, fitted: Fitted) -> Self:
        self.fitted_, self.s_ = fitted, fitted.scale_M
        offset_M1, log_A_MD, log_gamma_MD = np.split(fitted.theta_MP, [1, 1 + fitted.theta_MP.shape[1] // 2], axis=1)
        self.c_ = fitted.mean_M + self.s_ * offset_M1[:, 0]
        self.A_, self.gamma_ = np.exp(log_A_MD), np.exp(log_gamma_MD)
        return self

    def _value(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        return theta_BP[:, :1] + _terms(theta_BP, X_ND)[2].sum(axis=2)

    def _slopes(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        q_BND, gamma_B1D, u_BND = _terms(theta_BP, X_ND)
        A_B1D = np.exp(theta_BP[:, None, 1 : X_ND.shape[1] + 1])
        by_A_BND, by_gamma_BND = -gamma_B1D * A_B1D / q_BND * u_BND, -gamma_B1D * np.log(q_BND) * u_BND
        return np.concatenate([np.ones((*u_BND.shape[:2], 1)), by_A_BND, by_gamma_BND], axis=2)


def _terms(theta_BP: FloatArray, X_ND: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A + p [B, N, D], gamma [B, 1, D] and (A + p)^-gamma [B, N, D]."""
    D = X_ND.shape[1]
    q_BND, gamma_B1D = np.exp(theta_BP[:, None, 1 : D + 1]) + X_ND, np.exp(theta_BP[:, None, D + 1 :])
    return q_BND, gamma_B1D, q_BND**-gamma_B1D


def next_scale(N_1_D: FloatArray, N_2_D: FloatArray, steps: float = 1.0) -> FloatArray:
    """Tokens of each domain [D], `steps` budgets after the second: N_2 (N_2 / N_1)^steps, half-way between is -0.5.

    Source: AutoScale (arXiv:2407.20177), its notebook.
    """
    return np.asarray(N_2_D * (N_2_D / N_1_D) ** steps)


def domain_fit(x_K: FloatArray, y_K: FloatArray) -> tuple[float, float, float]:
    """(a, b, c) of y = (x + a)^-b + c, by least squares on a domain's losses at three amounts x or more.

    Amounts are multiples of the base run's: 1/3, 1, 3 in AutoScale's text, 1/5, 1, 3 in its notebook. Through three
    losses there can be two such curves; of fits that are equally good this is the one with the higher floor c, as are
    the curves that AutoScale publishes.

    Raises SwarmError for fewer losses than numbers to find, and for losses that do not fall as the domain grows.
    Source: AutoScale (arXiv:2407.20177), its notebook; nine starts are ours.
    """
    x_K, y_K = np.asarray(x_K, dtype=float), np.asarray(y_K, dtype=float)
    if len(x_K) < 3 or len(x_K) != len(y_K) or (np.diff(x_K) <= 0).any() or (np.diff(y_K) >= 0).any():
        raise SwarmError(
            f"AutoScale: three losses or more, falling as the amount grows, are needed (got {y_K.tolist()} at "
            f"{x_K.tolist()}). Train the domain at more amounts or leave it out."
        )

    def residuals(log_ab_c: FloatArray) -> FloatArray:
        a, b = np.exp(np.clip(log_ab_c[:2], -20, 20))
        return np.asarray((x_K + a) ** -b + log_ab_c[2] - y_K)

    starts = [np.array([np.log(a), np.log(b), y_K[-1] - (x_K[-1] + a) ** -b]) for a in STARTS for b in STARTS]
    found = [least_squares(residuals, start, xtol=ACCURACY, ftol=ACCURACY, gtol=ACCURACY) for start in starts]
    good = min(result.cost for result in found) + len(y_K) * (EXACT * float(np.ptp(y_K))) ** 2
    log_a, log_b, c = max((result for result in found if result.cost <= good), key=lambda result: result.x[2]).x
    return float(np.exp(log_a)), float(np.exp(log_b)), float(c)
