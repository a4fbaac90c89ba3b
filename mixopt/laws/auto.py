"""Three laws in one: effective data, a Gaussian process, and one on what effective data leave over.

    f_m(p) = sum_k w_mk f_mk(p),    w_m = argmin_{w >= 0, sum w = 1} sum_r (sum_k w_k e_rmk)^2 + ridge * mean_k e_k^2 |w|^2
    variance = sum_k w_k (variance_k + (f_mk - f_m)^2),  times one squared factor for each metric

e_rmk is what law k is wrong by on run r when it has not seen it, in a few parts; the ridge draws to equal weights where
the laws are equally good. The factor is the one with which 90 % of the stack's own e lie within 1.645 deviations. Only
the runs decide. The processes keep the parameters of their kernels in the parts; all else is learned anew.

Shapes: R runs, N candidates, D domains, M metrics, K laws.

Source: stacking: Wolpert 1992, "Stacked generalization", with Breiman's non-negative weights ("Stacked regressions",
1996); that they sum to 1, the ridge and the choice of laws are ours.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.optimize import nnls

from mixopt.laws.base import Law, answer, check_runs, sorted_by_value
from mixopt.laws.effdata import EffData
from mixopt.laws.gp import GP
from mixopt.laws.intervals import widening
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
        alone, after = GP(own=self.own).fit(X_RD, Y_RM), GP(mean=EffData(), own=self.own).fit(X_RD, Y_RM)
        self.drawn_from_: Auto | None = None
        self.laws_ = [after.mean_, alone, after]
        left_out = [after.mean_out_of_fold_, alone.out_of_fold_, after.out_of_fold_]
        P_KRM, std_KRM = np.array([P_RM for P_RM, _ in left_out]), np.array([std_RM for _, std_RM in left_out])
        self.weights_ = np.array([_weights(e_RK, self.ridge) for e_RK in (P_KRM - Y_RM).transpose(2, 1, 0)])
        P_RM, std_RM = self._stacked(P_KRM, std_KRM)
        self.factor_ = widening((Y_RM - P_RM) / std_RM)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the deviations of a new run's."""
        P_NM = sum(w_M * law.predict(X_ND) for w_M, law in zip(self.weights_.T, self.laws_, strict=True))
        return answer(self.single_, P_NM, (self.drawn_from_ or self)._std(X_ND) if return_std else None)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of the metrics by each proportion."""
        X_ND, slopes = np.asarray(X_ND, dtype=float), zip(self.weights_.T, self.laws_, strict=True)
        return np.sum([w_M[:, None] * law.gradient(X_ND) for w_M, law in slopes], axis=0)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Copies that are, metric by metric, a draw of one of the laws picked by weight, widened as deviations are.

        Deviations stay those of this law.
        """
        laws: list[Law] = []
        for _ in range(count):
            laws.append(law := copy.copy(self))
            picked_MK = np.array([rng.multinomial(1, w_K) for w_K in self.weights_])
            stays_MK, moves_MK = (1 - self.factor_[:, None]) * self.weights_, self.factor_[:, None] * picked_MK
            law.laws_ = [*self.laws_, *(own.draw(rng, 1)[0] for own in self.laws_)]
            law.weights_, law.drawn_from_ = np.hstack([stays_MK, moves_MK]), self
        return laws

    def _std(self, X_ND: FloatArray) -> FloatArray:
        """Deviations [N, M] of new runs."""
        said = [law.predict(X_ND, return_std=True) for law in self.laws_]
        return self.factor_ * self._stacked(np.array([P for P, _ in said]), np.array([std for _, std in said]))[1]

    def _stacked(self, P_KNM: FloatArray, std_KNM: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The weighted mean [N, M] and the deviation of the weighted mixture of normals, before the factor."""
        P_NM = np.einsum("mk,knm->nm", self.weights_, P_KNM)
        return P_NM, np.sqrt(np.einsum("mk,knm->nm", self.weights_, std_KNM**2 + (P_KNM - P_NM) ** 2))


def _weights(e_RK: FloatArray, ridge: float) -> FloatArray:
    """The best weights [K] for one metric, by non-negative least squares with one stiff row for their sum."""
    laws, size = e_RK.shape[1], max(float(np.square(e_RK).sum(axis=0).mean()), np.finfo(float).tiny)
    rows = np.vstack([e_RK / np.sqrt(size), np.sqrt(ridge) * np.eye(laws), np.full((1, laws), STIFF)])
    w_K = nnls(rows, np.r_[np.zeros(len(rows) - 1), STIFF])[0]
    return w_K / w_K.sum()
