"""Data Mixing Laws, its first three forms; the fourth, which its authors adopted, is `loglinear`.

    m1:  f_m(r) = c_m + sum_j k_mj exp(t_mj r_j)        convex in r
    m2:  f_m(r) = c_m + k_m sum_j exp(t_mj r_j)         convex in r
    m3:  f_m(r) = c_m + k_m exp(prod_j t_mj r_j)        neither convex nor concave: a class of its own

with k > 0. Of the t in m3 only the product can be learned, so it is one number: exp(T prod_j (D r_j)), where D r_j is
1 in the even mixture. A run that leaves out any domain then says nothing but c + k, which is why the form is bad; it
is here to be measured against and not in the list of laws.

log k and t have Gaussian priors, k in units of the metric's standard deviation (`descent`).

Shapes: R runs, N candidates, D domains, M metrics, B = starts x metrics, P = 1 + K + T parameters: c, log k (K = D or 1),
t (T = D or 1).

Source: Data Mixing Laws (arXiv:2403.16952); UNVERIFIED: the three forms are from memory of its table of candidates, which
its released code does not contain. Huber's loss as there; priors, starts and steps are ours (there up to 6000 starts of
a Python L-BFGS for each metric).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from mixopt.errors import JobError
from mixopt.laws.base import Curve, Law, check_runs
from mixopt.laws.descent import Terms
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray

FORMS = ("m1", "m2")
STARTS = (-8.0, -2.0, 1.0)


@dataclass
class MixingLaws:
    """c + sum k exp(t r) for each metric; Data Mixing Laws' first candidates, convex, with `form`.

    Learned: c_ [M], k_ [M, D or 1], t_ [M, D].
    """

    form: Literal["m1", "m2"] = "m1"

    def __post_init__(self) -> None:
        """Raises JobError for a form that does not exist."""
        if self.form not in FORMS:
            raise JobError(
                f"MixingLaws: form must be one of {', '.join(FORMS)} (got {self.form!r}). "
                "m3 is ThirdForm, m4 is LogLinear."
            )

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the priors answer for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        factors = X_RD.shape[1] if self.form == "m1" else 1
        return self._learn(_fit(factors, X_RD.shape[1], (self._value, self._slopes), X_RD, Y_RM))

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(X_ND, self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: k t exp(t r)."""
        return np.asarray(self.k_ * self.t_ * np.exp(self.t_ * np.asarray(X_ND)[:, None, :]))

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the posterior: fits to what the runs might have been (`descent`)."""
        return [copy.copy(self)._learn(fitted) for fitted in self.fitted_.draw(rng, count)]

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics; its Hessian is diagonal, sum_m w_m k t^2 exp(t r)."""
        c, wk_MD = float(weights_M @ self.c_), weights_M[:, None] * self.k_

        def value(r_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_MD = wk_MD * np.exp(self.t_ * r_D)
            slope_MD = self.t_ * u_MD
            return c + float(u_MD.sum()), slope_MD.sum(axis=0), np.diag((self.t_ * slope_MD).sum(axis=0))

        return value

    def _learn(self, fitted: Fitted) -> Self:
        self.fitted_, k = fitted, len(fitted.theta_MP[0]) // 2 if self.form == "m1" else 1
        self.c_ = fitted.mean_M + fitted.scale_M * fitted.theta_MP[:, 0]
        self.k_, self.t_ = fitted.scale_M[:, None] * np.exp(fitted.theta_MP[:, 1 : k + 1]), fitted.theta_MP[:, k + 1 :]
        return self

    def _value(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        return theta_BP[:, :1] + self._terms(theta_BP, X_ND).sum(axis=2)

    def _slopes(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        u_BND = self._terms(theta_BP, X_ND)
        by_k_BNK = u_BND if self.form == "m1" else u_BND.sum(axis=2, keepdims=True)
        return np.concatenate([np.ones((*u_BND.shape[:2], 1)), by_k_BNK, u_BND * X_ND], axis=2)

    def _terms(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        """Of every domain k exp(t r), [B, N, D]."""
        k = X_ND.shape[1] if self.form == "m1" else 1
        return np.exp(theta_BP[:, None, 1 : k + 1] + theta_BP[:, None, k + 1 :] * X_ND)


@dataclass
class ThirdForm:
    """c + k exp(T prod (D r)) for each metric; Data Mixing Laws' third candidate, not convex.

    Learned: fitted_, theta_MP of which is c, log k and T in units of the metrics' standard deviations.
    """

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        self.fitted_ = _fit(1, 1, (_third_value, _third_slopes), X_RD, Y_RM)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(X_ND, self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: k T exp(T q) D prod_{i != j} (D r_i)."""
        X_ND = np.asarray(X_ND, dtype=float)
        D = X_ND.shape[1]
        others_ND = np.stack([D * np.prod(D * np.delete(X_ND, j, axis=1), axis=1) for j in range(D)], axis=1)
        by_T_BN, T_B = _third_terms(self.fitted_.theta_MP, X_ND)[0], self.fitted_.theta_MP[:, 2]
        return np.asarray((self.fitted_.scale_M * T_B * by_T_BN.T)[:, :, None] * others_ND[:, None, :])


def _third_value(theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
    return np.asarray(theta_BP[:, :1] + _third_terms(theta_BP, X_ND)[0])


def _third_slopes(theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
    u_BN, q_N = _third_terms(theta_BP, X_ND)
    return np.stack([np.ones_like(u_BN), u_BN, u_BN * q_N], axis=2)


def _third_terms(theta_BP: FloatArray, X_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Both k exp(T q) [B, N] and q = prod_j (D r_j) [N]."""
    q_N = np.prod(X_ND.shape[1] * X_ND, axis=1)
    return np.exp(theta_BP[:, 1:2] + theta_BP[:, 2:] * q_N), q_N


def _fit(factors: int, exponents: int, terms: tuple[Terms, Terms], X_RD: FloatArray, Y_RM: FloatArray) -> Fitted:
    """c, so many log k and so many t, from three starts of t."""
    sizes = [1, factors, exponents]
    prior_P, sd_P = np.repeat([-2.0, -1.0, -2.0], sizes), np.repeat([3.0, 1.5, 5.0], sizes)
    starts_SP = np.stack([np.repeat([-2.0, -1.0, start], sizes) for start in STARTS])
    return fit_shape(Shape(*terms, prior_P, sd_P), starts_SP, X_RD, Y_RM)
