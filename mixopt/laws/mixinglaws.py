"""Data Mixing Laws, its first three forms; the fourth, which its authors adopted, is `loglinear`.

    m1:  f_m(r) = c_m + sum_j k_mj exp(t_mj r_j)        convex in r
    m2:  f_m(r) = c_m + k_m sum_j exp(t_mj r_j)         convex in r
    m3:  f_m(r) = c_m + k_m exp(prod_j t_mj r_j)        neither convex nor concave

with k > 0. Of the t in m3 only the product can be learned, so it is one number: exp(T prod_j (D r_j)), where D r_j is
1 in the even mixture. A run that leaves out any domain then says nothing but c + k, which is why the form is bad.

log k and t have Gaussian priors, k in units of the metric's standard deviation (`descent`).

Shapes: R runs, N candidates, D domains, M metrics, B = starts x metrics, P = 1 + K + T parameters: c, log k (K = D or 1),
t (T = D or 1).

Source: Data Mixing Laws (arXiv:2403.16952); UNVERIFIED: the three forms are from memory of its table of candidates, which
its released code does not contain. Huber's loss as there; priors, starts and steps are ours (there up to 6000 starts of
a Python L-BFGS for each metric).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np

from mixopt.errors import JobError, SwarmError
from mixopt.laws.base import Curve, check_runs
from mixopt.laws.descent import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray

FORMS = ("m1", "m2", "m3")
STARTS = (-8.0, -2.0, 1.0)


@dataclass
class MixingLaws:
    """c + sum k exp(t r) for each metric; Data Mixing Laws' other candidates, with `form`.

    Learned: c_ [M], k_ [M, D or 1], t_ [M, D or 1].
    """

    form: Literal["m1", "m2", "m3"] = "m1"

    def __post_init__(self) -> None:
        """Raises JobError for a form that does not exist."""
        if self.form not in FORMS:
            raise JobError(f"MixingLaws: form must be one of {', '.join(FORMS)} (got {self.form!r}).")

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the priors answer for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        D = X_RD.shape[1]
        k, t = (D if self.form == "m1" else 1), (1 if self.form == "m3" else D)
        prior_P = np.concatenate([[-2.0], np.full(k, -1.0), np.full(t, -2.0)])
        sd_P = np.concatenate([[3.0], np.full(k, 1.5), np.full(t, 5.0)])
        starts_SP = np.stack([np.concatenate([[-2.0], np.full(k, -1.0), np.full(t, start)]) for start in STARTS])
        self.fitted_: Fitted = fit_shape(Shape(self._value, self._slopes, prior_P, sd_P), starts_SP, X_RD, Y_RM)
        scale_M, theta_MP = self.fitted_.scale_M, self.fitted_.theta_MP
        self.c_ = self.fitted_.mean_M + scale_M * theta_MP[:, 0]
        self.k_, self.t_ = scale_M[:, None] * np.exp(theta_MP[:, 1 : k + 1]), theta_MP[:, k + 1 :]
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(X_ND, self.single_, return_std)

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics; its Hessian is diagonal, sum_m w_m k t^2 exp(t r).

        Raises SwarmError for m3, which is not convex.
        """
        if self.form == "m3":
            raise SwarmError("MixingLaws: form m3 is not convex and has no curve. Choose m1, m2 or loglinear.")
        c, wk_MD = float(weights_M @ self.c_), weights_M[:, None] * self.k_

        def value(r_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_MD = wk_MD * np.exp(self.t_ * r_D)
            slope_MD = self.t_ * u_MD
            return c + float(u_MD.sum()), slope_MD.sum(axis=0), np.diag((self.t_ * slope_MD).sum(axis=0))

        return value

    def _value(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        return theta_BP[:, :1] + self._terms(theta_BP, X_ND).sum(axis=2)

    def _slopes(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        u_BNT = self._terms(theta_BP, X_ND)
        by_k_BNK = u_BNT if self.form == "m1" else u_BNT.sum(axis=2, keepdims=True)
        return np.concatenate([np.ones((*u_BNT.shape[:2], 1)), by_k_BNK, u_BNT * self._features(X_ND)], axis=2)

    def _terms(self, theta_BP: FloatArray, X_ND: FloatArray) -> FloatArray:
        """Of every domain k exp(t r), [B, N, T]."""
        k = X_ND.shape[1] if self.form == "m1" else 1
        return np.exp(theta_BP[:, None, 1 : k + 1] + theta_BP[:, None, k + 1 :] * self._features(X_ND))

    def _features(self, X_ND: FloatArray) -> FloatArray:
        """What t multiplies [N, T]: the proportions, or the product of D r_j."""
        return X_ND if self.form != "m3" else np.prod(X_ND.shape[1] * X_ND, axis=1, keepdims=True)
