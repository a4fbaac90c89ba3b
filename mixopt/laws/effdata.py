"""The effective-data law: every domain is worth some data of a metric's own, and the loss is a power law in that.

    f_m(p) = c_m + A_m s_m(p)^(-alpha_m),    s_m(p) = e_m + sum_j w_mj (p_j + eps_j)^gamma_mj

A, e, w, alpha, eps > 0 and 0 < gamma < 1; eps is shared by all metrics. Domain j is worth w_mj units of the metric's
own data, with its own diminishing return gamma. The sum is concave in p, and a negative power of it is convex and
falls, so f is convex in p. It is finite where p_j = 0 and does not diverge outside the hull of the runs.

    v = argmin  sum_rm huber((f_m(p_r) - y_rm) / sd_m) / noise^2 + |v|^2 / 2,    theta = centre + width * v

theta are c in units of sd_m, the metric's standard deviation, the logit of gamma, and logarithms of the rest; centres
and widths are in `effective`, and log w of a metric's own domain, where known, is around 0. All metrics take their
Levenberg-Marquardt steps on the reweighted squares of Huber's loss together: only eps ties them, so that a step is one
small system for each metric and one for eps.

Shapes: R runs, N candidates, D domains, M metrics, S = 4 + 2 D numbers of one metric: log A, c, log e, log alpha,
log w [D], logit gamma [D]; P = S + D: these and log eps.

Source: ours; that other data are worth a power of one's own: "Scaling Laws for Transfer", arXiv:2102.01293.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from mixopt.laws.base import Curve, Laplace, Law, answer, check_mixtures, check_own, check_runs, sorted_by_value
from mixopt.laws.effective import jacobian, parts, placed, prior, step, values
from mixopt.laws.intervals import widening
from mixopt.mixture import FloatArray

STEPS, TOLERANCE, LARGEST_DAMPING, FARTHEST = 100, 1e-4, 1e8, 8.0
BLOCK, SQUARES = 512, 1e6


@dataclass
class EffData:
    """c + A (effective data)^-alpha for each metric; convex, needs the fewest runs.

    `own` is the index of each metric's own domain, None where unknown; `noise` and `delta` are in standard deviations
    of a metric. Learned: theta_ [M, P], centre_ [M], scale_ [M], posterior_.
    """

    own: Sequence[int | None] | None = None
    delta: float = 0.07
    noise: float = 0.1

    def min_runs(self, domains: int) -> int:
        """Half as many runs as domains, at least eight: the priors answer for the rest."""
        return max(8, (domains + 1) // 2)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M].

        Raises SwarmError for runs that it cannot use, and for own domains that are not those of these metrics.
        """
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        domains, metrics = X_RD.shape[1], Y_RM.shape[1]
        own = check_own(self, domains, metrics)
        columns_D, rows_R = sorted_by_value(X_RD, Y_RM)
        place_D = np.argsort(columns_D)
        X_RD, Y_RM = X_RD[rows_R][:, columns_D], Y_RM[rows_R]
        self.centre_ = Y_RM.mean(axis=0)
        self.scale_ = np.maximum(Y_RM.std(axis=0), 1e-6 * np.maximum(np.abs(self.centre_), 1e-6))
        Z_MR = ((Y_RM - self.centre_) / self.scale_).T
        prior_2MP = prior(X_RD, Z_MR, [None if j is None else int(place_D[j]) for j in own])
        theta_MP = self._descend(prior_2MP, X_RD, Z_MR, prior_2MP[0])
        order_P = placed(place_D)
        self.theta_, self.prior_, self.mixtures_ = theta_MP[:, order_P], prior_2MP[:, :, order_P], X_RD[:, place_D]
        self.posterior_ = self._posterior(Z_MR)
        self.factor_ = widening(self._left_out(Z_MR))
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the Laplace approximation."""
        X_ND = check_mixtures(X_ND, self.mixtures_.shape[1])
        P_NM, std_NM = np.empty((2, len(X_ND), len(self.theta_)))
        for start in range(0, len(X_ND), BLOCK):
            X_BD, at = X_ND[start : start + BLOCK], slice(start, start + BLOCK)
            P_NM[at] = self.centre_ + self.scale_ * values(self.theta_, X_BD).T
            if return_std:
                std_NM[at] = self.posterior_.std(lambda X_BD: jacobian(self.theta_, X_BD), X_BD)
        return answer(self.single_, P_NM, self.scale_ * self.factor_ * std_NM if return_std else None)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of the metrics by each proportion: -alpha A s^(-alpha - 1) ds/dp."""
        u_MN, s_MN, worth_MND, log_ND, gamma_MD = parts(self.theta_, np.asarray(X_ND))
        steep_M = self.scale_ * np.exp(self.theta_[:, 0] + self.theta_[:, 3])
        by_s_MN = -steep_M[:, None] * u_MN / s_MN
        return (by_s_MN[:, :, None] * worth_MND * gamma_MD[:, None] * np.exp(-log_ND)).transpose(1, 0, 2)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Copies whose theta is drawn from the posterior, widened as deviations are: convex and smooth as this one."""
        laws: list[Law] = []
        for _ in range(count):
            laws.append(law := copy.copy(self))
            law.theta_ = self._drawn(rng)
        return laws

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics, its gradient and Hessian by the derivatives of s."""
        theta_MP, scale_M = self.theta_[weights_M > 0], (weights_M * self.scale_)[weights_M > 0]
        floor = float(weights_M @ self.centre_ + scale_M @ theta_MP[:, 1])
        A_M, alpha_M = scale_M * np.exp(theta_MP[:, 0]), np.exp(theta_MP[:, 3])

        def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_M1, s_M1, worth_M1D, log_1D, gamma_MD = parts(theta_MP, p_D[None])
            rise_MD = gamma_MD * worth_M1D[:, 0] * np.exp(-log_1D)
            bend_MD = (gamma_MD - 1) * rise_MD * np.exp(-log_1D)
            first_M = -A_M * alpha_M * u_M1[:, 0] / s_M1[:, 0]
            second_M = -first_M * (alpha_M + 1) / s_M1[:, 0]
            hessian_DD = (rise_MD.T * second_M) @ rise_MD + np.diag(first_M @ bend_MD)
            return floor + float(A_M @ u_M1[:, 0]), first_M @ rise_MD, hessian_DD

        return value

    def _descend(self, prior_2MP: FloatArray, X_RD: FloatArray, Z_MR: FloatArray, theta_MP: FloatArray) -> FloatArray:
        """Levenberg-Marquardt from there: theta [M, P]."""
        centre_MP, width_MP = prior_2MP
        own = centre_MP.shape[1] - X_RD.shape[1]
        share_P = np.where(np.arange(centre_MP.shape[1]) < own, 1.0, 1 / len(Z_MR))  # eps is M times in v, once in |v|
        damping, cost, v_MP = 1e-2, np.inf, (theta_MP - centre_MP) / width_MP
        trial_MP = v_MP
        for _ in range(STEPS):
            error_MR = values(centre_MP + width_MP * trial_MP, X_RD) - Z_MR
            size_MR = np.abs(error_MR)
            huber_MR = np.where(size_MR < self.delta, size_MR**2 / 2, self.delta * (size_MR - self.delta / 2))
            new_cost = float(huber_MR.sum() / self.noise**2 + (share_P * trial_MP**2).sum() / 2)
            if new_cost < cost:
                gain, cost, v_MP, damping = cost - new_cost, new_cost, trial_MP, max(damping / 5, 1e-9)
                if gain <= TOLERANCE * cost:
                    break
                weight_MR = self.delta / np.maximum(size_MR, self.delta) / self.noise**2
                J_MRP = jacobian(centre_MP + width_MP * v_MP, X_RD) * width_MP[:, None, :]
                weighted_MPR = (J_MRP * weight_MR[:, :, None]).transpose(0, 2, 1)
                slope_MP = (weighted_MPR @ error_MR[:, :, None])[:, :, 0] + share_P * v_MP
                gram_MPP = weighted_MPR @ J_MRP
            elif (damping := 4 * damping) > LARGEST_DAMPING:
                break
            trial_MP = np.clip(v_MP - step(gram_MPP, slope_MP, own, damping), -FARTHEST, FARTHEST)
        return centre_MP + width_MP * v_MP

    def _left_out(self, Z_MR: FloatArray) -> FloatArray:
        """What each run is off [R, M], in deviations, by a fit without it, from its leverage."""
        lever_MR = np.square(jacobian(self.theta_, self.mixtures_) @ self.posterior_.factor_MPP).sum(axis=2)
        error_RM = (Z_MR - values(self.theta_, self.mixtures_)).T
        return error_RM / np.sqrt(self.posterior_.noise_M * np.maximum(1 - lever_MR.T, 0.01))

    def _drawn(self, rng: np.random.Generator) -> FloatArray:
        """Theta [M, P] of a fit to runs and priors that were drawn around this one's."""
        domains, (centre_MP, width_MP) = self.mixtures_.shape[1], self.prior_
        spread_M1 = (self.factor_ * np.sqrt(self.posterior_.noise_M))[:, None]
        nudge_MP = spread_M1 / self.noise * rng.standard_normal(centre_MP.shape)
        nudge_MP[:, -domains:] = np.sqrt(np.mean(spread_M1**2)) / self.noise * rng.standard_normal(domains)
        Z_MR = values(self.theta_, self.mixtures_)
        Z_MR += spread_M1 * rng.standard_normal(Z_MR.shape)
        drawn_2MP = np.stack([centre_MP + width_MP * nudge_MP, width_MP])
        return replace(self, delta=SQUARES)._descend(drawn_2MP, self.mixtures_, Z_MR, self.theta_)

    def _posterior(self, Z_MR: FloatArray) -> Laplace:
        """The Laplace approximation for each metric; what the others say of eps counts as part of its prior."""
        X_RD, width_MP = self.mixtures_, self.prior_[1]
        J_MRP, domains = jacobian(self.theta_, X_RD), X_RD.shape[1]
        penalty_MPP = np.stack([np.diag(stiff_P) for stiff_P in (self.noise / width_MP) ** 2])
        gram_MPP, own = J_MRP.transpose(0, 2, 1) @ J_MRP, width_MP.shape[1] - domains
        cross_MSD = gram_MPP[:, :own, own:]
        explained_MSD = np.linalg.solve(gram_MPP[:, :own, :own] + penalty_MPP[:, :own, :own], cross_MSD)
        says_MDD = gram_MPP[:, own:, own:] - cross_MSD.transpose(0, 2, 1) @ explained_MSD
        penalty_MPP[:, own:, own:] += says_MDD.sum(axis=0) - says_MDD
        error_RM = (Z_MR - values(self.theta_, X_RD)).T
        return Laplace.of(J_MRP, penalty_MPP, error_RM, np.ones(len(Z_MR)))
