"""What the effective-data law computes: values, derivatives by its numbers, their prior, and a step of its fit.

    f_m(p) = c_m + A_m s_m(p)^(-alpha_m),    s_m(p) = e_m + sum_j w_mj (p_j + eps_j)^gamma_mj

Shapes: R runs, D domains, M metrics, S = 4 + 2 D numbers of one metric: log A, c, log e, log alpha, log w [D], logit
gamma [D]; P = S + D: these and log eps [D], which are the same for all metrics.

Source: ours, see `mixopt.laws.effdata`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mixopt.mixture import FloatArray

HEAD = ((0.0, 3.0), (-1.5, 2.0), (float(np.log(1e-3)), 1.5), (-1.75, 0.35))
"""Centre and width of log A (from the level of the runs), c (from the smallest metric), log e, log alpha."""
EACH = ((-3.5, 1.5), (0.43, 1.27), (float(np.log(5e-4)), 1.0))
"""And of log w, logit gamma (as wide at its centre as 0.5 of log gamma), log eps."""


def prior(X_RD: FloatArray, Z_MR: FloatArray, own: Sequence[int | None]) -> FloatArray:
    """Centre and width [2, M, P]."""
    domains, head = X_RD.shape[1], len(HEAD)
    kinds = [*HEAD, *(kind for kind in EACH for _ in range(domains))]
    prior_2MP = np.repeat(np.array(kinds).T[:, None, :], len(Z_MR), axis=1)
    for m, j in enumerate(own):
        if j is not None:
            prior_2MP[0, m, head + j] = 0.0
    prior_2MP[0, :, 1] += Z_MR.min(axis=1)
    above_MR, u_MR = Z_MR - prior_2MP[0, :, 1:2], parts(prior_2MP[0], X_RD)[0]
    prior_2MP[0, :, 0] += np.log((above_MR * u_MR).sum(axis=1) / (u_MR**2).sum(axis=1))
    return prior_2MP


def placed(place_D: NDArray[np.intp]) -> NDArray[np.intp]:
    """The order of the numbers [P] that goes with this order of the domains."""
    head, domains = len(HEAD), len(place_D)
    return np.concatenate([np.arange(head), *(head + k * domains + place_D for k in range(len(EACH)))])


def step(gram_MPP: FloatArray, slope_MP: FloatArray, own: int, damping: float) -> FloatArray:
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


def parts(theta_MP: FloatArray, X_RD: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    """s^-alpha [M, R], s [M, R], w (p + eps)^gamma [M, R, D], log(p + eps) [R, D], gamma [M, D]."""
    log_w_MD, logit_MD, log_eps_MD = np.split(theta_MP[:, len(HEAD) :], len(EACH), axis=1)
    log_RD, gamma_MD = np.log(X_RD + np.exp(log_eps_MD[0])), 1 / (1 + np.exp(-logit_MD))
    worth_MRD = np.exp(gamma_MD[:, None] * log_RD) * np.exp(log_w_MD)[:, None]
    s_MR = np.exp(theta_MP[:, 2:3]) + worth_MRD.sum(axis=2)
    return np.exp(-np.exp(theta_MP[:, 3:4]) * np.log(s_MR)), s_MR, worth_MRD, log_RD, gamma_MD


def values(theta_MP: FloatArray, X_RD: FloatArray) -> FloatArray:
    """The metrics [M, R], in standard deviations from their mean."""
    return theta_MP[:, 1:2] + np.exp(theta_MP[:, :1]) * parts(theta_MP, X_RD)[0]


def jacobian(theta_MP: FloatArray, X_RD: FloatArray) -> FloatArray:
    """Derivatives [M, R, P] of `values`."""
    u_MR, s_MR, worth_MRD, log_RD, gamma_MD = parts(theta_MP, X_RD)
    above_MR, alpha_M1 = np.exp(theta_MP[:, :1]) * u_MR, np.exp(theta_MP[:, 3:4])
    by_s_MR = -alpha_M1 * above_MR / s_MR
    head = [above_MR, np.ones_like(u_MR), by_s_MR * np.exp(theta_MP[:, 2:3]), -alpha_M1 * above_MR * np.log(s_MR)]
    by_w_MRD = by_s_MR[:, :, None] * worth_MRD
    by_log_MRD = by_w_MRD * gamma_MD[:, None]
    by_eps_MRD = by_log_MRD * np.exp(theta_MP[0, -X_RD.shape[1] :] - log_RD)
    by_gamma_MRD = by_log_MRD * (1 - gamma_MD)[:, None] * log_RD
    return np.concatenate([np.stack(head, axis=2), by_w_MRD, by_gamma_MRD, by_eps_MRD], axis=2)
