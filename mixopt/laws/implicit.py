"""Data Mixing Laws with implicit domain aggregation: held-out text of unknown composition, seen as hidden domains.

    f_m(r) = sum_k s_mk (c_mk + exp(log_k_mk + sum_j t_mkj r_j)) = c_m + u_m sum_k exp(sum_j t_mkj r_j)

f is convex in r. The shares s of the K hidden domains sum to 1; they need not be learned, since r sums to 1: log s_k +
log_k_k is the same number added to every t_kj, and the c_k add up to one constant. The right side says the same with
1 + K D parameters for each metric instead of K (D + 3), and nothing is left undetermined but the order of the k.

The t have Gaussian priors; u is the metric's standard deviation (`descent`). Starts are drawn with a fixed
seed, for domains and metrics sorted by their values, so that the order of a file does not matter.

Shapes: R runs, N candidates, D domains, M metrics, K hidden domains, B = starts x metrics, P = 1 + K D parameters.

Source: Data Mixing Laws (arXiv:2403.16952), its implicit domain aggregation; its code trains a network of one hidden layer
of 30 exponentials with softmax output weights by AdamW, boosted 30 times. Ours: the reduced form, few hidden domains
with priors, second-order steps, no boosting.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.laws.base import Curve, Law, check_mixtures, check_runs, sorted_by_value
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray


@dataclass
class ImplicitMixingLaw:
    """c + a sum of exp(t . r), the hidden domains of a metric; convex, for mixed or unknown held-out text.

    Learned: c_ [M], u_ [M], t_ [M, K, D] with the domains in the order of the runs.
    """

    hidden: int = 4
    starts: int = 2
    seed: int = 0

    def min_runs(self, domains: int) -> int:
        """One more than there are domains: the priors answer for the rest."""
        return max(6, domains + 1)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        domains, K = X_RD.shape[1], self.hidden
        columns_D, rows_R = sorted_by_value(X_RD, Y_RM)
        self.columns_ = columns_D
        prior_P = np.concatenate([[-2.0], np.full(K * domains, -3.0)])
        sd_P = np.concatenate([[3.0], np.full(K * domains, 1.5)])
        draws_SP = np.random.default_rng(self.seed).normal(size=(self.starts, len(prior_P)))
        shape = Shape(self._value, self._slopes, prior_P, sd_P)
        starts_SP = prior_P + draws_SP * np.concatenate([[0.0], np.ones(K * domains)])
        return self._learn(fit_shape(shape, starts_SP, X_RD[rows_R][:, columns_D], Y_RM[rows_R]))

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        X_ND = check_mixtures(X_ND, len(self.columns_))
        return self.fitted_.predict(X_ND[:, self.columns_], self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: u sum_k t_k exp(t_k . r)."""
        terms_NMK = np.exp(np.einsum("nd,mkd->nmk", X_ND, self.t_, optimize=True))
        return np.asarray(self.u_[:, None] * np.einsum("nmk,mkd->nmd", terms_NMK, self.t_, optimize=True))

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the posterior: fits to what the runs might have been (`descent`)."""
        return [copy.copy(self)._learn(fitted) for fitted in self.fitted_.draw(rng, count)]

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics, gradient and Hessian sum_mk w_m u_m exp(t_mk . r) t_mk (t_mk')."""
        c, t_LD = float(weights_M @ self.c_), self.t_.reshape(-1, self.t_.shape[2])
        w_L = np.repeat(weights_M * self.u_, self.t_.shape[1])

        def value(r_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_L = w_L * np.exp(t_LD @ r_D)
            return c + float(u_L.sum()), u_L @ t_LD, (t_LD.T * u_L) @ t_LD

        return value

    def _learn(self, fitted: Fitted) -> Self:
        self.fitted_, self.u_ = fitted, fitted.scale_M
        self.c_ = fitted.mean_M + self.u_ * fitted.theta_MP[:, 0]
        self.t_ = fitted.theta_MP[:, 1:].reshape(len(self.u_), self.hidden, -1)[:, :, np.argsort(self.columns_)]
        return self

    def _value(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        return theta_BP[:, :1] + self._terms(theta_BP, X_ND).sum(axis=2)

    def _slopes(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        u_BNK = self._terms(theta_BP, X_ND)
        by_t_BNP = (u_BNK[:, :, :, None] * X_ND[:, None, :]).reshape(*u_BNK.shape[:2], -1)
        return np.concatenate([np.ones((*u_BNK.shape[:2], 1)), by_t_BNP], axis=2)

    def _terms(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        """exp(t . r) of every hidden domain [B, N, K]."""
        t_BKD = theta_BP[:, 1:].reshape(len(theta_BP), self.hidden, X_ND.shape[1])
        return np.exp(X_ND @ t_BKD.transpose(0, 2, 1))
