"""Three laws in one: effective data, a Gaussian process, and one on what effective data leave over.

    f_m(p) = sum_k w_mk f_mk(p),    w_m = argmin_{w >= 0, sum w = 1} sum_r (sum_k w_k e_rmk)^2 + ridge * mean_k e_k^2 |w|^2
    variance = sum_k w_k (variance_k + (f_mk - f_m)^2),  times one squared factor for each metric

e_rmk is what law k is wrong by on run r when it has not seen it, in five parts; the ridge draws to equal weights where
the laws are equally good. The factor is the one with which 90 % of the stack's own e lie within 1.645 deviations. Only
the runs decide. The processes keep the parameters of their kernels in the five parts; all else is learned anew.

Shapes: R runs, N candidates, D domains, M metrics, K laws.

Source: stacking: Wolpert 1992, "Stacked generalization", with Breiman's non-negative weights ("Stacked regressions",
1996); that they sum to 1, the ridge and the choice of laws are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from mixopt.laws.base import Law, answer, check_runs, sorted_by_value
from mixopt.laws.effdata import EffData
from mixopt.laws.gp import FOLDS, GP, widening
from mixopt.mixture import FloatArray

STIFF = 1e3


@dataclass
class Auto:
    """Effective data, a Gaussian process and both, weighted by what the runs say; the most accurate.

    `own` is the index of each metric's own domain, None where unknown.
    Learned: laws_ [K], weights_ [M, K], factor_ [M].
    """

    own: Sequence[int | None] | None = None
    ridge: float = 0.05

    def min_runs(self, domains: int) -> int:
        """As many as the neediest of the three."""
        return GP(mean=EffData()).min_runs(domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        rows_R = sorted_by_value(X_RD, Y_RM)[1]
        X_RD, Y_RM = X_RD[rows_R], Y_RM[rows_R]
        alone, after = GP(own=self.own), GP(mean=EffData(), own=self.own)
        self.laws_: list[Law] = [EffData(own=self.own).fit(X_RD, Y_RM), alone.fit(X_RD, Y_RM), after.fit(X_RD, Y_RM)]
        left_out = [self._left_out(X_RD, Y_RM), alone.out_of_fold_, after.out_of_fold_]
        P_KRM, std_KRM = np.array([P_RM for P_RM, _ in left_out]), np.array([std_RM for _, std_RM in left_out])
        self.weights_ = np.array([_weights(e_RK, self.ridge) for e_RK in (P_KRM - Y_RM).transpose(2, 1, 0)])
        P_RM, std_RM = self._stacked(P_KRM, std_KRM)
        self.factor_ = widening((Y_RM - P_RM) / std_RM)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the deviations of a new run's."""
        if not return_std:
            P_KNM = np.array([law.predict(X_ND) for law in self.laws_])
            return answer(self.single_, np.einsum("mk,knm->nm", self.weights_, P_KNM))
        said = [law.predict(X_ND, return_std=True) for law in self.laws_]
        P_NM, std_NM = self._stacked(np.array([P for P, _ in said]), np.array([std for _, std in said]))
        return answer(self.single_, P_NM, self.factor_ * std_NM)

    def _stacked(self, P_KNM: FloatArray, std_KNM: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The weighted mean [N, M] and the deviation of the weighted mixture of normals, before the factor."""
        P_NM = np.einsum("mk,knm->nm", self.weights_, P_KNM)
        return P_NM, np.sqrt(np.einsum("mk,knm->nm", self.weights_, std_KNM**2 + (P_KNM - P_NM) ** 2))

    def _left_out(self, X_RD: FloatArray, Y_RM: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What effective data say [R, M] of each run without it."""
        fold_R, (P_RM, std_RM) = np.arange(len(Y_RM)) % FOLDS, np.empty((2, *Y_RM.shape))
        for fold in range(FOLDS):
            new_R = fold_R == fold
            law = EffData(own=self.own).fit(X_RD[~new_R], Y_RM[~new_R])
            P_RM[new_R], std_RM[new_R] = law.predict(X_RD[new_R], return_std=True)
        return P_RM, std_RM


def _weights(e_RK: FloatArray, ridge: float) -> FloatArray:
    """The best weights [K] for one metric, by non-negative least squares with one stiff row for their sum."""
    laws, size = e_RK.shape[1], max(float(np.square(e_RK).sum(axis=0).mean()), np.finfo(float).tiny)
    rows = np.vstack([e_RK / np.sqrt(size), np.sqrt(ridge) * np.eye(laws), np.full((1, laws), STIFF)])
    w_K = nnls(rows, np.r_[np.zeros(len(rows) - 1), STIFF])[0]
    return w_K / w_K.sum()
