"""Gaussian process over logarithms of proportions, alone or on what another law leaves over.

    y_m = mean_m(p) + g_m(z),  g_m ~ GP(0, s^2 / (1 + d^2 / 2) + a^2 linear + 1),  z_j = log(p_j + eps_j) standardised
    noise variance of a run = n^2 + b^2 h^2,    h = near / (near + its proportion of the metric's own domain)

Each domain has its own length l_j and its own eps_j; both kernels measure in z / l. Noise grows where the own domain
is nearly absent: the loss is steep there, and a recorded proportion is a rounded one. Where `own` does not say which
domain that is, it is the one whose z goes with the metric most.

log l, eps, s, a, n and b maximise the marginal likelihood times log-normal priors, whose centres depend on the number
of domains alone; beyond COARSE runs on a part of the runs first. Deviations are those of a new run, noise included,
times one factor for each metric, with which 90 % of the residuals of FOLDS-fold cross-validation lie within 1.645 of
them. All is learned anew in each part, but beyond COARSE runs theta is kept: it hardly depends on the part then.

Shapes: R runs, N candidates, D domains, M metrics, P = 2 D + 4 parameters of one metric.

Source: ours, of the parts in Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", sections 2.2, 2.7
and 5.4.1; the factor as in Lei et al. 2018, "Distribution-free predictive inference for regression". Olmix
(arXiv:2602.12237) has an isotropic kernel on raw proportions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mixopt.laws.base import Law, OwnLaw, SmoothLaw, answer, check_mixtures, check_own, check_runs, sorted_by_value
from mixopt.laws.intervals import widening
from mixopt.laws.lbfgs import minimise
from mixopt.laws.marginal import Inputs, evidence, noise
from mixopt.laws.told import Told
from mixopt.mixture import FloatArray

EPS, NEAR, OWN_LENGTH = 1e-3, 0.01, 1.5
ALONE, AFTER_MEAN = (1.0, 1.0, 0.05, 0.05), (1.0, 0.4, 0.3, 0.5)
"""Centres of s, a, n, b, in standard deviations of what is learned; the logarithm of each has a prior of width 1."""
COARSE, FINE_ITERATIONS, BLOCK = 256, 8, 256
FOLDS = 5


@dataclass
class GP:
    """Smooth, of any shape; the more accurate the more runs, best from a hundred on.

    `mean` is a law whose residuals are learned, None for a constant; `own` the index of each metric's own domain.
    Learned: theta_ [M, P], own_ [M], factor_ [M], centre_ [M], scale_ [M], mean_, out_of_fold_ (what was
    said of each run without it: metrics [R, M] and deviations [R, M]) and mean_out_of_fold_ (by the mean alone).
    """

    mean: SmoothLaw | None = None
    own: Sequence[int | None] | None = None
    iterations: int = 25

    def min_runs(self, domains: int) -> int:
        """Half as many runs as domains, at least ten: the priors answer for the rest. More if the mean needs more."""
        needed = self.mean.min_runs(domains) if self.mean is not None else 0
        return max(10, (domains + 1) // 2, math.ceil(needed * FOLDS / (FOLDS - 1)) + 1)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M].

        Raises SwarmError for runs that it cannot use, and for own domains that are not those of these metrics.
        """
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        self.columns_, rows_R = sorted_by_value(X_RD, Y_RM)
        given_RD, Y_RM = X_RD[rows_R], Y_RM[rows_R]
        X_RD = given_RD[:, self.columns_]
        own = check_own(self, X_RD.shape[1], Y_RM.shape[1])
        self.mean_ = self._fitted_mean(given_RD, Y_RM)
        left_RM = Y_RM - self._mean(self.mean_, given_RD, Y_RM)
        self.centre_ = left_RM.mean(axis=0)
        self.scale_ = np.maximum(left_RM.std(axis=0), 1e-6 * np.maximum(np.abs(Y_RM).max(axis=0), 1e-6))
        y_MR = self._standardised(left_RM)
        self.inputs_ = Inputs.of(X_RD, EPS)
        seen_MR = self._standardised(Y_RM) if self.mean_ is not None else y_MR
        likely_M = np.abs(
            (seen_MR - seen_MR.mean(axis=1, keepdims=True)) @ self.inputs_.standardised(X_RD, EPS)
        ).argmax(1)
        place_D = np.argsort(self.columns_)
        self.own_ = np.array([k if j is None else place_D[j] for k, j in zip(likely_M, own, strict=True)], dtype=int)
        self.theta_ = self._climb(X_RD, y_MR)
        self.told_ = self._told(X_RD, y_MR, self.theta_)
        (P_RM, std_RM), by_mean = self._left_out(given_RD, Y_RM)
        self.factor_ = widening((Y_RM - P_RM) / std_RM)
        back_R = np.argsort(rows_R)
        self.out_of_fold_ = P_RM[back_R], self.factor_ * std_RM[back_R]
        self.mean_out_of_fold_ = by_mean[0][back_R], by_mean[1][back_R]
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the deviations of a new run's."""
        X_ND = check_mixtures(X_ND, len(self.columns_))
        z_NM, std_NM = self._say(self.told_, X_ND[:, self.columns_], return_std)
        P_NM = self.centre_ + self.scale_ * z_NM
        P_NM += self._mean(self.mean_, X_ND, P_NM)
        return answer(self.single_, P_NM, self.scale_ * self.factor_ * std_NM if return_std else None)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of the metrics by each proportion."""
        X_ND = np.asarray(X_ND, dtype=float)
        slopes_NMD = np.empty((len(X_ND), len(self.told_), X_ND.shape[1]))
        for m, told in enumerate(self.told_):
            slopes_NMD[:, m, self.columns_] = self.scale_[m] * told.slopes(self.inputs_, X_ND[:, self.columns_])
        return slopes_NMD if self.mean_ is None else slopes_NMD + self.mean_.gradient(X_ND)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Copies with functions drawn from the posterior, widened as deviations are; the mean stays as it is."""
        laws: list[Law] = []
        for _ in range(count):
            laws.append(law := copy.copy(self))
            law.told_ = [told.drawn(rng, factor) for told, factor in zip(self.told_, self.factor_, strict=True)]
        return laws

    def _fitted_mean(self, X_RD: FloatArray, Y_RM: FloatArray) -> SmoothLaw | None:
        """A copy of the law of the mean that knows these runs, and what is known of own domains."""
        law = copy.deepcopy(self.mean)
        if isinstance(law, OwnLaw) and self.own is not None:
            law.own = self.own
        return law.fit(X_RD, Y_RM) if law is not None else None

    def _mean(self, law: Law | None, X_ND: FloatArray, like_NM: FloatArray) -> FloatArray:
        return law.predict(X_ND) if law is not None else np.zeros_like(like_NM)

    def _standardised(self, Y_RM: FloatArray) -> FloatArray:
        return np.ascontiguousarray(((Y_RM - self.centre_) / self.scale_).T)

    def _near(self, X_RD: FloatArray, m: int) -> FloatArray:
        """How nearly absent metric m's own domain is [R]: 1 where it is absent."""
        return NEAR / (NEAR + X_RD[:, self.own_[m]])

    def _climb(self, X_RD: FloatArray, y_MR: FloatArray) -> FloatArray:
        """Parameters [M, P] of the highest posterior, searched for in units of the prior."""
        domains, every = X_RD.shape[1], -(-len(X_RD) // COARSE)
        tail = np.log(ALONE if self.mean_ is None else AFTER_MEAN)
        centre_P = np.r_[np.full(domains, math.log(domains) / 2), np.full(domains, math.log(EPS)), tail]
        centre_MP = np.tile(centre_P, (len(y_MR), 1))
        centre_MP[np.arange(len(y_MR)), self.own_] = math.log(OWN_LENGTH)
        v_MP = self._climb_on(X_RD[::every], y_MR[:, ::every], centre_MP, np.zeros_like(centre_MP), self.iterations)
        if every > 1:
            v_MP = self._climb_on(X_RD, y_MR, centre_MP, v_MP, FINE_ITERATIONS)
        return centre_MP + v_MP

    def _climb_on(
        self, X_RD: FloatArray, y_MR: FloatArray, centre_MP: FloatArray, v_MP: FloatArray, iterations: int
    ) -> FloatArray:
        h_MR, y_MR = [self._near(X_RD, m) for m in range(len(y_MR))], np.ascontiguousarray(y_MR)

        def cost(v_BP: FloatArray, which_B: NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
            found = [
                evidence(self.inputs_, X_RD, h_MR[m], y_MR[m], centre_MP[m] + v_P)
                for m, v_P in zip(which_B, v_BP, strict=True)
            ]
            value_B, g_BP = np.array([value for value, _ in found]), np.array([g_P for _, g_P in found])
            return value_B + np.square(v_BP).sum(axis=1) / 2, g_BP + v_BP

        return minimise(cost, v_MP, iterations)

    def _told(self, X_RD: FloatArray, y_MR: FloatArray, theta_MP: FloatArray) -> list[Told]:
        """What these runs say, by metric."""
        return [
            Told.of(self.inputs_, X_RD, self._near(X_RD, m), y_R, theta_P)
            for m, (y_R, theta_P) in enumerate(zip(y_MR, theta_MP, strict=True))
        ]

    def _say(self, told: list[Told], X_ND: FloatArray, return_std: bool) -> tuple[FloatArray, FloatArray]:
        """Mean and deviation [N, M] of new runs, in units of the runs' deviation, before the factor."""
        z_NM, std_NM = np.empty((2, len(X_ND), len(told)))
        for m, about in enumerate(told):
            for start in range(0, len(X_ND), BLOCK):
                X_BD, at = X_ND[start : start + BLOCK], slice(start, start + BLOCK)
                z_NM[at, m], left_B = about.say(self.inputs_, X_BD, return_std)
                std_NM[at, m] = np.sqrt(left_B + noise(self._near(X_BD, m), about.theta_P))
        return z_NM, std_NM

    def _left_out(self, given_RD: FloatArray, Y_RM: FloatArray) -> FloatArray:
        """What is said of each run without it, in FOLDS parts: [2, 2, R, M], all and by the mean; metrics, deviations."""
        fold_R, said_22RM = np.arange(len(Y_RM)) % FOLDS, np.zeros((2, 2, *Y_RM.shape))
        for fold in range(FOLDS):
            kept_R, new_R = fold_R != fold, fold_R == fold
            mean, left_RM = self._fitted_mean(given_RD[kept_R], Y_RM[kept_R]), Y_RM[kept_R]
            if mean is not None:
                left_RM = left_RM - mean.predict(given_RD[kept_R])
                said_22RM[1][:, new_R] = mean.predict(given_RD[new_R], return_std=True)
            X_RD, y_MR = given_RD[kept_R][:, self.columns_], self._standardised(left_RM)
            told = self._told(X_RD, y_MR, self._climb(X_RD, y_MR) if len(Y_RM) <= COARSE else self.theta_)
            z_NM, std_NM = self._say(told, given_RD[new_R][:, self.columns_], True)
            said_22RM[0][:, new_R] = self.centre_ + self.scale_ * z_NM, self.scale_ * std_NM
        said_22RM[0, 0] += said_22RM[1, 0]
        return said_22RM
