"""BiMix's law of proportions: a power law in every domain's own proportion.

    f_m(p) = c_m + sum_j F_mj (p_j + floor)^(-alpha_mj),    F > 0, alpha > 0

f is convex in p. BiMix fits the loss of a domain to that domain's proportion alone; the sum over domains serves
metrics of any origin. Without the floor a proportion of zero is an infinite loss, and with a tiny one (1e-12) such
runs say nothing about the others: 1e-3 keeps a domain that is left out at a finite, learned price. `c` is what terms
with alpha = 0 add up to.

F is in units of the metric's standard deviation; log F and log alpha have Gaussian priors (`descent`).

Shapes: R runs, N candidates, D domains, M metrics, B = starts x metrics, P = 1 + 2 D parameters (c, log F, log alpha).

Source: BiMix (arXiv:2405.14908) at a fixed number of training steps, A r^-alpha (B s^-beta + C); UNVERIFIED: that form
is from secondary reading. The sum over domains is in Olmix's reference code (BimixRegressor, least squares, bounds at
zero, proportions clipped at 1e-12). Ours: the floor, c, the priors and Huber's loss.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.laws.base import Curve, Law, check_runs
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray


@dataclass
class BiMix:
    """c + sum F (p + floor)^-alpha for each metric; convex, good with few runs.

    Learned: c_ [M], F_ [M, D], alpha_ [M, D].
    """

    floor: float = 1e-3

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the priors answer for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        D = X_RD.shape[1]
        prior_P = np.concatenate([[-2.0], np.full(D, -3.5), np.full(D, np.log(0.1))])
        sd_P = np.concatenate([[3.0], np.full(D, 1.5), np.full(D, 0.5)])
        start_P = np.concatenate([[-2.0], np.full(D, -1.0), np.full(D, np.log(0.15))])
        shape = Shape(self._value, self._slopes, prior_P, sd_P)
        return self._learn(fit_shape(shape, start_P[None], X_RD, Y_RM))

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(X_ND, self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: -F alpha (p + floor)^(-alpha - 1)."""
        q_N1D = np.asarray(X_ND, dtype=float)[:, None, :] + self.floor
        return np.asarray(-self.F_ * self.alpha_ * q_N1D ** (-self.alpha_ - 1))

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the posterior: fits to what the runs might have been (`descent`)."""
        return [copy.copy(self)._learn(fitted) for fitted in self.fitted_.draw(rng, count)]

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics; its Hessian is diagonal, sum_m w_m F alpha (alpha + 1) q^(-alpha - 2)."""
        c, wF_MD, alpha_MD = float(weights_M @ self.c_), weights_M[:, None] * self.F_, self.alpha_

        def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            q_D = p_D + self.floor
            u_MD = wF_MD * q_D**-alpha_MD
            slope_MD = -alpha_MD * u_MD / q_D
            bend_D = ((alpha_MD + 1) * -slope_MD / q_D).sum(axis=0)
            return c + float(u_MD.sum()), slope_MD.sum(axis=0), np.diag(bend_D)

        return value

    def _learn(self, fitted: Fitted) -> Self:
        self.fitted_, scale_M1 = fitted, fitted.scale_M[:, None]
        offset_M1, log_F_MD, log_alpha_MD = np.split(fitted.theta_MP, [1, 1 + fitted.theta_MP.shape[1] // 2], axis=1)
        self.c_ = fitted.mean_M + (scale_M1 * offset_M1)[:, 0]
        self.F_, self.alpha_ = scale_M1 * np.exp(log_F_MD), np.exp(log_alpha_MD)
        return self

    def _value(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        return theta_BP[:, :1] + self._terms(theta_BP, X_ND).sum(axis=2)

    def _slopes(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        u_BND = self._terms(theta_BP, X_ND)
        alpha_BD = np.exp(theta_BP[:, X_ND.shape[1] + 1 :])
        bent_BND = -alpha_BD[:, None, :] * np.log(X_ND + self.floor) * u_BND
        return np.concatenate([np.ones((*u_BND.shape[:2], 1)), u_BND, bent_BND], axis=2)

    def _terms(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        """F (p + floor)^-alpha of every domain [B, N, D]."""
        D = X_ND.shape[1]
        log_F_BD, alpha_BD = theta_BP[:, 1 : D + 1], np.exp(theta_BP[:, D + 1 :])
        return np.exp(log_F_BD[:, None, :] - alpha_BD[:, None, :] * np.log(X_ND + self.floor))
