"""Linear law: every domain adds its own share, nothing interacts.

    f_m(p) = sum_j a_mj p_j,    a = mean + argmin_b |X b - (y - mean)|^2 + ridge * s * |b|^2

There is no intercept: proportions sum to 1, so a constant is the same number added to every a_j. `s` is the mean
diagonal of X'X, which makes the ridge free of units; it only decides where the runs do not (fewer runs than domains,
domains that always move together), and there it draws towards the mean metric. On the simplex this is the first-order
Scheffe polynomial, RegMix's baseline.

Shapes: R runs, N candidates, D domains, M metrics.

Source: Scheffe 1958, "Experiments with mixtures"; as RegMix's baseline, arXiv:2407.01492. The ridge is ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.laws.base import Curve, Laplace, Law, answer, check_mixtures, check_runs
from mixopt.mixture import FloatArray


@dataclass
class Linear:
    """a . p for each metric; a baseline that needs few runs.

    Learned: coef_ [M, D], posterior_.
    """

    ridge: float = 1e-3

    def min_runs(self, domains: int) -> int:
        """Half as many runs as domains, at least four: the ridge answers for the rest."""
        return max(4, (domains + 1) // 2)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        mean_M = Y_RM.mean(axis=0)
        gram_DD = X_RD.T @ X_RD
        ridge_DD = self.ridge * gram_DD.diagonal().mean() * np.eye(len(gram_DD))
        self.coef_ = (mean_M + np.linalg.solve(gram_DD + ridge_DD, X_RD.T @ (Y_RM - mean_M))).T
        self.posterior_ = Laplace.of(X_RD[None], ridge_DD[None], Y_RM - X_RD @ self.coef_.T, mean_M)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the ridge's posterior, exact."""
        X_ND = check_mixtures(X_ND, self.coef_.shape[1])
        std_NM = self.posterior_.std(lambda X_ND: X_ND[None], X_ND) if return_std else None
        return answer(self.single_, X_ND @ self.coef_.T, std_NM)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: everywhere the same."""
        return np.broadcast_to(self.coef_, (len(X_ND), *self.coef_.shape))

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the ridge's posterior, which is normal."""
        drawn = [copy.copy(self) for _ in range(count)]
        for law, departure_MD in zip(drawn, self.posterior_.draw(rng, count), strict=True):
            law.coef_, law.posterior_ = self.coef_ + departure_MD, self.posterior_.certain
        return list(drawn)

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics: linear, its Hessian is zero."""
        a_D = weights_M @ self.coef_
        flat_DD = np.zeros((len(a_D), len(a_D)))
        return lambda p_D: (float(a_D @ p_D), a_D, flat_DD)
