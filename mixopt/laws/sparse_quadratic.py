"""Sparse quadratic law: domains on their own, and only those pairs of them that leave-one-out has a use for.

    f_m(p) = a_m + sum_j b_mj p_j + sum_{(i, j) in S_m} B_mij p_i p_j

`quadratic` first, with all pairs; they are ranked by |B_ij| times the standard deviation of p_i p_j over the runs. For
S = the first 0, D / 2, D, 2 D, 4 D and 8 D of them the rest is fitted again by ridge regression; the number of pairs
and the ridge with the smallest squared leave-one-out residuals are kept, metric by metric. The ranking has seen every
run, so these residuals flatter large S a little; the noise is taken to be at least that of the law with all pairs.

f need not be convex: `exact` is `quadratic`'s.

Shapes: R runs, N candidates, D domains, M metrics, L ridges, F features, K = min(R, F).

Source: second-order Scheffe polynomials in which 63 of 136 pairs are kept on RegMix's swarm: mixture experiments for data
mixtures (arXiv:2608.23922); UNVERIFIED: how it selects them. The selection is ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixopt.laws.base import BLOCK, SMALLEST_NOISE, Curve, Law, answer, check_mixtures, check_runs
from mixopt.laws.quadratic import RIDGES, Quadratic
from mixopt.laws.scheffe import convex_curve, gradient, leave_one_out, polynomial
from mixopt.mixture import FloatArray

PER_DOMAIN = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Ridge:
    """One metric's ridge regression on the centred features p_j and weight * p_i p_j of its pairs (i, j)."""

    i_S: NDArray[np.intp]
    j_S: NDArray[np.intp]
    weight: float
    centre_F: FloatArray
    value_K: FloatArray
    vector_FK: FloatArray
    ridge: float
    noise: float
    runs: int
    coefficient_F: FloatArray
    level: float
    certain: bool = False

    def polynomial(self, domains: int) -> tuple[FloatArray, FloatArray]:
        """Its b [D] and B [D, D] with a zero diagonal."""
        linear_D, pairs_S = np.split(self.coefficient_F, [domains])
        B_DD = np.zeros((domains, domains))
        B_DD[self.i_S, self.j_S] = B_DD[self.j_S, self.i_S] = self.weight * pairs_S
        return linear_D + self.level - self.centre_F @ self.coefficient_F, B_DD

    def draw(self, rng: np.random.Generator) -> Ridge:
        """One with coefficients from the posterior, noise^2 (Z'Z + ridge)^-1, and known to be these."""
        z_F, least = rng.normal(size=len(self.coefficient_F)), 1 / np.sqrt(self.ridge)
        along_K = (1 / np.sqrt(self.value_K + self.ridge) - least) * (z_F @ self.vector_FK)
        departure_F = self.noise * (least * z_F + self.vector_FK @ along_K)
        level = self.level + self.noise / np.sqrt(self.runs) * rng.normal()
        return replace(self, coefficient_F=self.coefficient_F + departure_F, level=level, certain=True)

    def std(self, X_ND: FloatArray) -> FloatArray:
        """Of new runs [N]: noise * (1 + 1/R + z (Z'Z + ridge)^-1 z')^1/2 for the centred features z."""
        z_NF = _features(X_ND, self.i_S, self.j_S, self.weight) - self.centre_F
        along_NK = (z_NF @ self.vector_FK) ** 2
        beside_N = np.maximum((z_NF**2).sum(axis=1) - along_NK.sum(axis=1), 0) / self.ridge
        unsure_N = 1 / self.runs + beside_N + along_NK @ (1 / (self.value_K + self.ridge))
        return np.asarray(self.noise * np.sqrt(1 + unsure_N * (not self.certain)))


@dataclass
class SparseQuadratic:
    """b . p and the useful pairs B_ij p_i p_j, chosen by leave-one-out.

    Learned: b_ [M, D], B_ [M, D, D] with a zero diagonal, ridges_ [M].
    """

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the ridge answers for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        all_pairs = Quadratic().fit(X_RD, Y_RM)
        return self._learn([self._select(X_RD, y_R, all_pairs, m) for m, y_R in enumerate(Y_RM.T)], X_RD.shape[1])

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the ridge's posterior, exact."""
        X_ND = check_mixtures(X_ND, self.b_.shape[1])
        P_NM = polynomial(X_ND, self.b_, self.B_)
        if not return_std:
            return answer(self.single_, P_NM)
        blocks = [X_ND[start : start + BLOCK] for start in range(0, max(len(X_ND), 1), BLOCK)]
        std_NM = np.vstack([np.stack([one.std(X_BD) for one in self.ridges_], axis=1) for X_BD in blocks])
        return answer(self.single_, P_NM, std_NM)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: b + B p."""
        return gradient(X_ND, self.b_, self.B_)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the ridge's posterior, which is normal; the choice of pairs is taken as given."""
        domains = self.b_.shape[1]
        return [copy.copy(self)._learn([one.draw(rng) for one in self.ridges_], domains) for _ in range(count)]

    def exact(self, weights_M: FloatArray) -> Curve | None:
        """The weighted mean of the metrics where it is convex on the simplex, otherwise None."""
        return convex_curve(weights_M @ self.b_, np.einsum("m,mij->ij", weights_M, self.B_))

    def _learn(self, ridges: list[Ridge], domains: int) -> Self:
        self.ridges_ = ridges
        self.b_, self.B_ = map(np.stack, zip(*(one.polynomial(domains) for one in ridges), strict=True))
        return self

    def _select(self, X_RD: FloatArray, y_R: FloatArray, all_pairs: Quadratic, m: int) -> Ridge:
        """The ridge regression of metric m with the number of pairs that leave-one-out prefers."""
        i_A, j_A = np.triu_indices(X_RD.shape[1], 1)
        size_A = np.abs(all_pairs.B_[m, i_A, j_A]) * (X_RD[:, i_A] * X_RD[:, j_A]).std(axis=0)
        order_A = np.argsort(-size_A, kind="stable")
        counts = sorted({min(int(share * X_RD.shape[1]), len(order_A)) for share in PER_DOMAIN})
        weight, least_noise = float(all_pairs.pairs_[m]), float(all_pairs.noise_[m])
        fits = [_ridge(X_RD, y_R, (i_A[kept_S], j_A[kept_S]), weight) for kept_S in (order_A[:n] for n in counts)]
        found = min(fits, key=lambda fit: fit[0])[1]
        return replace(found, noise=max(found.noise, least_noise))


def _ridge(
    X_RD: FloatArray, y_R: FloatArray, pairs: tuple[NDArray[np.intp], NDArray[np.intp]], weight: float
) -> tuple[float, Ridge]:
    """The mean squared leave-one-out residual and the fit, for the best ridge of the grid."""
    Z_RF = _features(X_RD, *pairs, weight)
    level, centre_F, y_R = float(y_R.mean()), Z_RF.mean(axis=0), y_R - y_R.mean()
    U_RK, s_K, V_KF = np.linalg.svd(Z_RF - centre_F, full_matrices=False)
    ridge_L = np.multiply(RIDGES, max(float((s_K**2).sum()) / len(X_RD), SMALLEST_NOISE))
    score_L1, noise_L1 = leave_one_out(s_K**2, U_RK, ridge_L, y_R[:, None])
    best = int(score_L1[:, 0].argmin())
    ridge, noise = float(ridge_L[best]), float(noise_L1[best, 0])
    coefficient_F = V_KF.T @ (s_K / (s_K**2 + ridge) * (U_RK.T @ y_R))
    return float(score_L1[best, 0]), Ridge(
        *pairs, weight, centre_F, s_K**2, V_KF.T, ridge, noise, len(X_RD), coefficient_F, level
    )


def _features(X_ND: FloatArray, i_S: NDArray[np.intp], j_S: NDArray[np.intp], weight: float) -> FloatArray:
    """The proportions and the weighted products of the pairs [N, F]."""
    return np.hstack([X_ND, weight * X_ND[:, i_S] * X_ND[:, j_S]])
