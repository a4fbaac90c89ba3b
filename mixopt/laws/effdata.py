"""The effective-data law: every domain is worth some data of a metric's own, and the loss is a power law in that.

    f_m(p) = c_m + A_m s_m(p)^(-alpha_m),    s_m(p) = e_m + sum_j w_mj (p_j + eps_j)^gamma_mj

A, e, w, alpha, eps > 0 and 0 < gamma < 1; eps is shared by all metrics. Domain j is worth w_mj units of the metric's
own data, with its own diminishing return gamma. The sum is concave in p, and a negative power of it is convex and
falls, so f is convex in p. It is finite where p_j = 0 and does not diverge outside the hull of the runs.

    v = argmin  sum_rm huber((f_m(p_r) - y_rm) / sd_m) / noise^2 + |v|^2 / 2,    theta = centre + width * v

theta are c in units of sd_m, the metric's standard deviation, the logit of gamma, and logarithms of the rest; centres
and widths are HEAD and EACH, and log w of a metric's own domain, where known, is around 0. All metrics take their
Levenberg-Marquardt steps on the reweighted squares of Huber's loss together: only eps ties them, so that a step is one
small system for each metric and one for eps.

Shapes: R runs, N candidates, D domains, M metrics, S = 4 + 2 D numbers of one metric: log A, c, log e, log alpha,
log w [D], logit gamma [D]; P = S + D: these and log eps.

Source: ours; that other data are worth a power of one's own: "Scaling Laws for Transfer", arXiv:2102.01293.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.base import Curve, Laplace, answer, check_runs, sorted_by_value
from mixopt.mixture import FloatArray

HEAD = ((0.0, 3.0), (-1.5, 2.0), (float(np.log(1e-3)), 1.5), (-1.75, 0.35))
"""Centre and width of log A (from the level of the runs), c (from the smallest metric), log e, log alpha."""
EACH = ((-3.5, 1.5), (0.43, 1.27), (float(np.log(5e-4)), 1.0))
"""And of log w, logit gamma (as wide at its centre as 0.5 of log gamma), log eps."""
STEPS, TOLERANCE, LARGEST_DAMPING, FARTHEST = 100, 1e-4, 1e8, 8.0


@dataclass
class EffData:
    """c + A (effective data)^-alpha for each metric; convex, needs the fewest runs.

    `own` is the index of each metric's own domain, None where unknown; `noise` and `delta` are in standard deviations
    of a metric. Learned: theta_ [M, P], centre_ [M], scale_ [M], posterior_.
    """

    own: Sequence[int | None] | None = None
    delta: float = 0.15
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
        own = list(self.own) if self.own is not None else [None] * metrics
        if len(own) != metrics or not all(j is None or 0 <= j < domains for j in own):
            raise SwarmError(f"EffData: own must be a domain or None for each of {metrics} metrics (got {own}).")
        columns_D, rows_R = sorted_by_value(X_RD, Y_RM)
        place_D = np.argsort(columns_D)
        X_RD, Y_RM = X_RD[rows_R][:, columns_D], Y_RM[rows_R]
        self.centre_ = Y_RM.mean(axis=0)
        self.scale_ = np.maximum(Y_RM.std(axis=0), 1e-6 * np.maximum(np.abs(self.centre_), 1e-6))
        Z_MR = ((Y_RM - self.centre_) / self.scale_).T
        prior_2MP = _prior(X_RD, Z_MR, [None if j is None else int(place_D[j]) for j in own])
        theta_MP = self._descend(prior_2MP, X_RD, Z_MR)
        head = len(HEAD)
        order_P = np.concatenate([np.arange(head), *(head + k * domains + place_D for k in range(len(EACH)))])
        self.theta_ = theta_MP[:, order_P]
        self.posterior_ = self._posterior(prior_2MP[1][:, order_P], X_RD[:, place_D], Z_MR)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the Laplace approximation."""
        X_ND = np.asarray(X_ND)
        P_NM = self.centre_ + self.scale_ * _values(self.theta_, X_ND).T
        std_NM = (
            self.scale_ * self.posterior_.std(lambda X_BD: _jacobian(self.theta_, X_BD), X_ND) if return_std else None
        )
        return answer(self.single_, P_NM, std_NM)

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics, its gradient and Hessian by the derivatives of s."""
        theta_MP, scale_M = self.theta_[weights_M > 0], (weights_M * self.scale_)[weights_M > 0]
        floor = float(weights_M @ self.centre_ + scale_M @ theta_MP[:, 1])
        A_M, alpha_M = scale_M * np.exp(theta_MP[:, 0]), np.exp(theta_MP[:, 3])

        def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_M1, s_M1, worth_M1D, log_1D, gamma_MD = _parts(theta_MP, p_D[None])
            rise_MD = gamma_MD * worth_M1D[:, 0] * np.exp(-log_1D)
            bend_MD = (gamma_MD - 1) * rise_MD * np.exp(-log_1D)
            first_M = -A_M * alpha_M * u_M1[:, 0] / s_M1[:, 0]
            second_M = -first_M * (alpha_M + 1) / s_M1[:, 0]
            hessian_DD = (rise_MD.T * second_M) @ rise_MD + np.diag(first_M @ bend_MD)
            return floor + float(A_M @ u_M1[:, 0]), first_M @ rise_MD, hessian_DD

        return value

    def _descend(self, prior_2MP: FloatArray, X_RD: FloatArray, Z_MR: FloatArray) -> FloatArray:
        """Levenberg-Marquardt from the centre of the prior: theta [M, P]."""
        centre_MP, width_MP = prior_2MP
        own = centre_MP.shape[1] - X_RD.shape[1]
        share_P = np.where(np.arange(centre_MP.shape[1]) < own, 1.0, 1 / len(Z_MR))  # eps is M times in v, once in |v|
        v_MP, damping, cost = np.zeros_like(centre_MP), 1e-2, np.inf
        trial_MP = v_MP
        for _ in range(STEPS):
            error_MR = _values(centre_MP + width_MP * trial_MP, X_RD) - Z_MR
            size_MR = np.abs(error_MR)
            huber_MR = np.where(size_MR < self.delta, size_MR**2 / 2, self.delta * (size_MR - self.delta / 2))
            new_cost = float(huber_MR.sum() / self.noise**2 + (share_P * trial_MP**2).sum() / 2)
            if new_cost < cost:
                gain, cost, v_MP, damping = cost - new_cost, new_cost, trial_MP, max(damping / 5, 1e-9)
                if gain <= TOLERANCE * cost:
                    break
                weight_MR = self.delta / np.maximum(size_MR, self.delta) / self.noise**2
                J_MRP = _jacobian(centre_MP + width_MP * v_MP, X_RD) * width_MP[:, None, :]
                weighted_MPR = (J_MRP * weight_MR[:, :, None]).transpose(0, 2, 1)
                slope_MP = (weighted_MPR @ error_MR[:, :, None])[:, :, 0] + share_P * v_MP
                gram_MPP = weighted_MPR @ J_MRP
            elif (damping := 4 * damping) > LARGEST_DAMPING:
                break
            trial_MP = np.clip(v_MP - _step(gram_MPP, slope_MP, own, damping), -FARTHEST, FARTHEST)
        return centre_MP + width_MP * v_MP

    def _posterior(self, width_MP: FloatArray, X_RD: FloatArray, Z_MR: FloatArray) -> Laplace:
        """The Laplace approximation for each metric; what the others say of eps counts as part of its prior."""
        J_MRP, domains = _jacobian(self.theta_, X_RD), X_RD.shape[1]
        penalty_MPP = np.stack([np.diag(stiff_P) for stiff_P in (self.noise / width_MP) ** 2])
        gram_MPP, own = J_MRP.transpose(0, 2, 1) @ J_MRP, width_MP.shape[1] - domains
        cross_MSD = gram_MPP[:, :own, own:]
        explained_MSD = np.linalg.solve(gram_MPP[:, :own, :own] + penalty_MPP[:, :own, :own], cross_MSD)
        says_MDD = gram_MPP[:, own:, own:] - cross_MSD.transpose(0, 2, 1) @ explained_MSD
        penalty_MPP[:, own:, own:] += says_MDD.sum(axis=0) - says_MDD
        error_RM = (Z_MR - _values(self.theta_, X_RD)).T
        return Laplace.of(J_MRP, penalty_MPP, error_RM, np.ones(len(Z_MR)))


def _prior(X_RD: FloatArray, Z_MR: FloatArray, own: Sequence[int | None]) -> FloatArray:
    """Centre and width [2, M, P]."""
    domains, head = X_RD.shape[1], len(HEAD)
    kinds = [*HEAD, *(kind for kind in EACH for _ in range(domains))]
    prior_2MP = np.repeat(np.array(kinds).T[:, None, :], len(Z_MR), axis=1)
    for m, j in enumerate(own):
        if j is not None:
            prior_2MP[0, m, head + j] = 0.0
    prior_2MP[0, :, 1] += Z_MR.min(axis=1)
    above_MR, u_MR = Z_MR - prior_2MP[0, :, 1:2], _parts(prior_2MP[0], X_RD)[0]
    prior_2MP[0, :, 0] += np.log((above_MR * u_MR).sum(axis=1) / (u_MR**2).sum(axis=1))
    return prior_2MP


def _step(gram_MPP: FloatArray, slope_MP: FloatArray, own: int, damping: float) -> FloatArray:
    """The solution [M, P] of the damped system, whose metrics are tied by the last D = P - S numbers alone."""
    metrics, domains = len(gram_MPP), gram_MPP.shape[1] - own
    own_MSS, eps_DD = gram_MPP[:, :own, :own] + np.eye(own), gram_MPP[:, own:, own:].sum(axis=0) + np.eye(domains)
    own_MSS[:, range(own), range(own)] *= 1 + damping
    eps_DD[range(domains), range(domains)] *= 1 + damping
    cross_MSD = gram_MPP[:, :own, own:]
    solved = np.linalg.solve(own_MSS, np.concatenate([slope_MP[:, :own, None], cross_MSD], axis=2))
    alone_MS, follow_MSD = solved[:, :, 0], solved[:, :, 1:]
    cross_SD = cross_MSD.reshape(-1, domains)
    reduced_DD = eps_DD - cross_SD.T @ follow_MSD.reshape(-1, domains)
    step_D = np.linalg.solve(reduced_DD, slope_MP[:, own:].sum(axis=0) - cross_SD.T @ alone_MS.ravel())
    return np.hstack([alone_MS - follow_MSD @ step_D, np.broadcast_to(step_D, (metrics, domains))])


def _parts(theta_MP: FloatArray, X_RD: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """s^-alpha [M, R], s [M, R], w (p + eps)^gamma [M, R, D], log(p + eps) [R, D], gamma [M, D]."""
    log_w_MD, logit_MD, log_eps_MD = np.split(theta_MP[:, len(HEAD) :], len(EACH), axis=1)
    log_RD, gamma_MD = np.log(X_RD + np.exp(log_eps_MD[0])), 1 / (1 + np.exp(-logit_MD))
    worth_MRD = np.exp(gamma_MD[:, None] * log_RD) * np.exp(log_w_MD)[:, None]
    s_MR = np.exp(theta_MP[:, 2:3]) + worth_MRD.sum(axis=2)
    return np.exp(-np.exp(theta_MP[:, 3:4]) * np.log(s_MR)), s_MR, worth_MRD, log_RD, gamma_MD


def _values(theta_MP: FloatArray, X_RD: FloatArray) -> FloatArray:
    """The metrics [M, R], in standard deviations from their mean."""
    return theta_MP[:, 1:2] + np.exp(theta_MP[:, :1]) * _parts(theta_MP, X_RD)[0]


def _jacobian(theta_MP: FloatArray, X_RD: FloatArray) -> FloatArray:
    """Derivatives [M, R, P] of `_values`."""
    u_MR, s_MR, worth_MRD, log_RD, gamma_MD = _parts(theta_MP, X_RD)
    above_MR, alpha_M1 = np.exp(theta_MP[:, :1]) * u_MR, np.exp(theta_MP[:, 3:4])
    by_s_MR = -alpha_M1 * above_MR / s_MR
    head = [above_MR, np.ones_like(u_MR), by_s_MR * np.exp(theta_MP[:, 2:3]), -alpha_M1 * above_MR * np.log(s_MR)]
    by_w_MRD = by_s_MR[:, :, None] * worth_MRD
    by_log_MRD = by_w_MRD * gamma_MD[:, None]
    by_eps_MRD = by_log_MRD * np.exp(theta_MP[0, -X_RD.shape[1] :] - log_RD)
    by_gamma_MRD = by_log_MRD * (1 - gamma_MD)[:, None] * log_RD
    return np.concatenate([np.stack(head, axis=2), by_w_MRD, by_gamma_MRD, by_eps_MRD], axis=2)
