"""Three laws in one: effective data, a Gaussian process, and one on what effective data leave over.

    f_m(p) = sum_k w_mk f_mk(p)
    w_m = argmin_{w >= 0, sum w = 1} sum_r huber(sum_k w_k e_rmk) + ridge |w|^2 min_k sum_r e_rmk^2
    variance = sum_k w_k (variance_k + (f_mk - f_m)^2),  times one squared factor for each metric

e_rmk is what law k is wrong by on run r when it has not seen it, in a few parts; the ridge draws to equal weights where
the laws are equally good. The factor is the one with which 90 % of the stack's own e lie within 1.645 deviations. Only
the runs decide.

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

STIFF, REWEIGHTED, FAR = 1e3, 10, 1.5


@dataclass
class Auto:
    """Effective data, a Gaussian process and both, weighted by what the runs say; the most accurate.

    `own` is the index of each metric's own domain, None where unknown.
    Learned: laws_ [K], weights_ [M, K], factor_ [M], out_of_fold_ (what was said of each run without it: metrics [R, M]
    and deviations [R, M]).
    """

    own: Sequence[int | None] | None = None
    ridge: float = 0.2

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
        self.laws_: list[Any] = [after.mean_, alone, after]
        left_out = [after.mean_out_of_fold_, alone.out_of_fold_, after.out_of_fold_]
        P_KRM, std_KRM = np.array(left_out).transpose(1, 0, 2, 3)
        self.weights_ = np.array([_weights(e_RK, self.ridge) for e_RK in (P_KRM - Y_RM).transpose(2, 1, 0)])
        P_RM, std_RM = self._stacked(list(P_KRM), list(std_KRM))
        self.factor_, back_R = widening((Y_RM - P_RM) / std_RM), np.argsort(rows_R)
        self.out_of_fold_ = P_RM[back_R], self.factor_ * std_RM[back_R]
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the deviations of a new run's."""
        if not return_std:
            return answer(self.single_, self._mixed([law.predict(X_ND) for law in self.laws_]))
        law = self.drawn_from_ or self
        said = [own.predict(X_ND, return_std=True) for own in law.laws_]
        P_NM, std_NM = law._stacked([P for P, _ in said], [std for _, std in said])
        return answer(self.single_, P_NM if law is self else self.predict(X_ND), law.factor_ * std_NM)

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

    def _mixed(self, P_KNM: Sequence[FloatArray]) -> FloatArray:
        """The weighted mean [N, M]."""
        return np.sum([w_M * P_NM for w_M, P_NM in zip(self.weights_.T, P_KNM, strict=True)], axis=0)

    def _stacked(self, P_KNM: Sequence[FloatArray], std_KNM: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray]:
        """That and the deviation of the weighted mixture of normals, before the factor."""
        P_NM = self._mixed(P_KNM)
        return P_NM, np.sqrt(self._mixed([std**2 + (own - P_NM) ** 2 for own, std in zip(P_KNM, std_KNM, strict=True)]))


def _weights(e_RK: FloatArray, ridge: float) -> FloatArray:
    """The best weights [K] for one metric, by non-negative least squares with one stiff row for their sum.

    Runs on which the last weights are far off count less (Huber's loss around the median error).
    """
    laws = e_RK.shape[1]
    w_K, count_R1 = np.full(laws, 1 / laws), np.ones((len(e_RK), 1))
    for _ in range(REWEIGHTED):
        size = max(float((count_R1 * e_RK**2).sum(axis=0).min()), np.finfo(float).tiny)
        rows = [np.sqrt(count_R1 / size) * e_RK, np.sqrt(ridge) * np.eye(laws), np.full((1, laws), STIFF)]
        w_K = nnls(np.vstack(rows), np.r_[np.zeros(len(e_RK) + laws), STIFF])[0]
        w_K /= w_K.sum()
        error_R1 = np.abs(e_RK @ w_K)[:, None]
        usual = FAR * np.median(error_R1)
        count_R1 = usual / np.maximum(error_R1, usual) if usual > 0 else count_R1
    return w_K
