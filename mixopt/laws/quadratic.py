"""Quadratic law: the second-order Scheffe polynomial, every pair of domains may help or hurt each other.

    f_m(p) = sum_j b_mj p_j + sum_{i<j} B_mij p_i p_j
           = mean_m + ridge regression on (p_j, w p_i p_j),  ridge and w by closed-form leave-one-out, metric by metric

On the simplex this is the general quadratic b + a.p + p'Qp/2: the constant is the same number added to every b_j, and
p_j^2 = p_j - sum_{i != j} p_i p_j. There are D (D + 1) / 2 coefficients, mostly more than runs, so the ridge decides
what the runs do not; w says how much less the pairs may do than the domains alone. Both come from the grids below: the
pair with the smallest squared leave-one-out residuals r / (1 - h), which take one eigendecomposition for each w.
Everything happens in the space of the runs (kernel ridge), the pairs are never written out.

f need not be convex, so this is no ConvexLaw: `exact` gives the curve where the weighted mean happens to be convex on
the simplex, and None where it is not; a proposer must then simulate.

Shapes: R runs, N candidates, D domains, M metrics, L ridges, W weights of the pairs.

Source: Scheffe 1958, "Experiments with mixtures"; as an outcome model of mixtures MoDoMoDo (arXiv:2505.24871),
b + a.w + w'Qw/2; UNVERIFIED: how it regularises Q. Grids and the choice by metric are ours. Draws: Matheron's rule, as
in Wilson et al. 2020, "Efficiently sampling functions from Gaussian process posteriors", section 3.1.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.laws.base import BLOCK, SMALLEST_NOISE, Curve, Law, answer, check_mixtures, check_runs
from mixopt.laws.scheffe import centred, convex_curve, gradient, leave_one_out, polynomial
from mixopt.mixture import FloatArray

PAIRS = (0.3, 1.0, 3.0, 10.0)
RIDGES = tuple(np.geomspace(1e-6, 1e2, 17))


@dataclass
class Quadratic:
    """b . p + p' B p / 2 with a ridge chosen by leave-one-out; pairs of domains interact.

    Learned: b_ [M, D], B_ [M, D, D] with a zero diagonal, ridge_ [M], pairs_ [M], noise_ [M].
    """

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least six: the ridge answers for the rest."""
        return max(6, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        self.X_, Y_RM = check_runs(self, X_RD, Y)
        mean_M = Y_RM.mean(axis=0)
        metrics, best_M = Y_RM.shape[1], np.full(Y_RM.shape[1], np.inf)
        self.ridge_, self.pairs_, self.noise_ = np.zeros((3, metrics))
        alpha_RM = np.zeros_like(Y_RM)
        for pairs in PAIRS:
            K_RR = centred(_kernel(self.X_, self.X_, pairs))
            value_R, vector_RR = np.linalg.eigh(K_RR)
            value_R = np.maximum(value_R, 0)
            ridge_L = np.multiply(RIDGES, max(float(np.trace(K_RR)) / len(K_RR), SMALLEST_NOISE))
            score_LM, noise_LM = leave_one_out(value_R, vector_RR, ridge_L, Y_RM - mean_M)
            for m in np.flatnonzero(score_LM.min(axis=0) < best_M):
                best = score_LM[:, m].argmin()
                best_M[m], self.pairs_[m], self.ridge_[m] = score_LM[best, m], pairs, ridge_L[best]
                self.noise_[m] = max(noise_LM[best, m], SMALLEST_NOISE * abs(mean_M[m]), SMALLEST_NOISE**2)
                alpha_RM[:, m] = vector_RR @ ((vector_RR.T @ (Y_RM[:, m] - mean_M[m])) / (value_R + ridge_L[best]))
        self.b_, self.B_ = _coefficients(self.X_, alpha_RM, mean_M, self.pairs_)
        self.certain_ = False
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the ridge's posterior, exact."""
        X_ND = check_mixtures(X_ND, self.b_.shape[1])
        P_NM = polynomial(X_ND, self.b_, self.B_)
        if not return_std:
            return answer(self.single_, P_NM)
        blocks = [X_ND[start : start + BLOCK] for start in range(0, max(len(X_ND), 1), BLOCK)]
        return answer(self.single_, P_NM, np.vstack([self._std(X_BD) for X_BD in blocks]))

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: b + B p."""
        return gradient(X_ND, self.b_, self.B_)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the ridge's posterior, which is normal.

        A draw departs by a draw from the prior plus the regression of what that leaves of runs that are noise alone:
        Matheron's rule, which needs no covariance of the D (D + 1) / 2 coefficients.
        """
        drawn = [copy.copy(self) for _ in range(count)]
        for law in drawn:
            law.b_, law.B_, law.certain_ = self.b_.copy(), self.B_.copy(), True
        for m in range(len(self.b_)):
            b_SD, B_SDD = self._departures(rng, m, count)
            for law, b_D, B_DD in zip(drawn, b_SD, B_SDD, strict=True):
                law.b_[m] += b_D
                law.B_[m] += B_DD
        return list(drawn)

    def exact(self, weights_M: FloatArray) -> Curve | None:
        """The weighted mean of the metrics where it is convex on the simplex, otherwise None."""
        return convex_curve(weights_M @ self.b_, np.einsum("m,mij->ij", weights_M, self.B_))

    def _departures(self, rng: np.random.Generator, m: int, count: int) -> tuple[FloatArray, FloatArray]:
        """What to add to b [S, D] and B [S, D, D] of metric m."""
        (runs, domains), noise, pairs_S = self.X_.shape, self.noise_[m], np.full(count, self.pairs_[m])
        sd = noise / np.sqrt(self.ridge_[m])
        b_SD, half_SDD = sd * rng.normal(size=(count, domains)), rng.normal(size=(count, domains, domains))
        B_SDD = np.triu(sd * pairs_S[:, None, None] * half_SDD, 1)
        B_SDD += B_SDD.transpose(0, 2, 1)
        prior_RS = polynomial(self.X_, b_SD, B_SDD)
        left_RS = noise * rng.normal(size=(runs, count)) - prior_RS
        K_RR = centred(_kernel(self.X_, self.X_, self.pairs_[m]))
        alpha_RS = np.linalg.solve(K_RR + self.ridge_[m] * np.eye(runs), left_RS - left_RS.mean(axis=0))
        level_S = noise / np.sqrt(runs) * rng.normal(size=count) - prior_RS.mean(axis=0)
        seen_SD, seen_SDD = _coefficients(self.X_, alpha_RS, level_S, pairs_S)
        return b_SD + seen_SD, B_SDD + seen_SDD

    def _std(self, X_ND: FloatArray) -> FloatArray:
        """[N, M]: noise (1 + 1/R + (k(x, x) - k(x, X) (K + ridge)^-1 k(X, x)) / ridge)^1/2, all kernels centred."""
        variance_NM = np.ones((len(X_ND), len(self.b_)))
        if self.certain_:
            return np.asarray(self.noise_ * variance_NM)
        for pairs, ridge in {*zip(self.pairs_.tolist(), self.ridge_.tolist(), strict=True)}:
            K_RR, k_NR = _kernel(self.X_, self.X_, pairs), _kernel(X_ND, self.X_, pairs)
            own_N = _own(X_ND, pairs) - 2 * k_NR.mean(axis=1) + K_RR.mean()
            k_NR = k_NR - k_NR.mean(axis=1, keepdims=True) - K_RR.mean(axis=0) + K_RR.mean()
            solved_RN = np.linalg.solve(centred(K_RR) + ridge * np.eye(len(K_RR)), k_NR.T)
            left_N = np.maximum(own_N - (k_NR * solved_RN.T).sum(axis=1), 0)
            same_M = (self.pairs_ == pairs) & (self.ridge_ == ridge)
            variance_NM[:, same_M] = (1 + 1 / len(K_RR) + left_N / ridge)[:, None]
        return np.asarray(self.noise_ * np.sqrt(variance_NM))


def _coefficients(
    X_RD: FloatArray, alpha_RM: FloatArray, mean_M: FloatArray, pairs_M: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """The b and B with this mean over the runs, from the weights of the runs; a constant goes into b."""
    centred_RM = alpha_RM - alpha_RM.mean(axis=0)
    b_MD, B_MDD = (X_RD.T @ centred_RM).T, np.stack([X_RD.T @ (a_R[:, None] * X_RD) for a_R in centred_RM.T])
    B_MDD *= pairs_M[:, None, None] ** 2
    B_MDD[:, range(len(X_RD.T)), range(len(X_RD.T))] = 0
    return b_MD + (mean_M - polynomial(X_RD, b_MD, B_MDD).mean(axis=0))[:, None], B_MDD


def _kernel(X_ND: FloatArray, Z_RD: FloatArray, pairs: float) -> FloatArray:
    """Inner products [N, R] of the features (p_j, w p_i p_j), i < j: x.z + w^2 ((x.z)^2 - x^2.z^2) / 2."""
    linear_NR = X_ND @ Z_RD.T
    return np.asarray(linear_NR + pairs**2 * (linear_NR**2 - X_ND**2 @ (Z_RD**2).T) / 2)


def _own(X_ND: FloatArray, pairs: float) -> FloatArray:
    """The diagonal [N] of the kernel of X with itself."""
    square_N = (X_ND**2).sum(axis=1)
    return np.asarray(square_N + pairs**2 * (square_N**2 - (X_ND**4).sum(axis=1)) / 2)
