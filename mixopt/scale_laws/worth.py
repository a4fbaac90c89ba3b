"""What a mixture is worth to each metric: units of the metric's own data in a token of the mixture.

    s(p) = e + sum_j w_j (p_j + eps)^gamma_j,    e, w > 0 and 0 < gamma < 1

Given are the logarithms of p + eps: eps is not learned here.

Shapes: B problems, N runs, D domains; theta [B, 1 + 2 D] are log e, log w [D], logit gamma [D].

Source: `laws.effdata`.
"""

from __future__ import annotations

import numpy as np

from mixopt.mixture import FloatArray

EPS = 0.01
LOG_E, LOG_W, LOGIT_GAMMA = (float(np.log(1e-2)), 1.5), (-1.5, 1.5), (0.43, 1.27)
"""Centres and widths of the priors."""


def prior(domains: int) -> tuple[FloatArray, FloatArray]:
    """Centres and widths, each [1 + 2 D]."""
    kinds = np.array([LOG_E, *[LOG_W] * domains, *[LOGIT_GAMMA] * domains])
    return kinds[:, 0], kinds[:, 1]


def log_worth(theta_BP: FloatArray, log_ND: FloatArray) -> FloatArray:
    """The log of s [B, N]."""
    return np.asarray(np.log(_terms(theta_BP, log_ND)[0]))


def log_worth_slopes(theta_BP: FloatArray, log_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The log of s [B, N] and its derivatives [B, N, 1 + 2 D]."""
    s_BN, terms_BND, gamma_BD = _terms(theta_BP, log_ND)
    share_BND = terms_BND / s_BN[:, :, None]
    by_e_BN1 = (np.exp(theta_BP[:, :1]) / s_BN)[:, :, None]
    by_gamma_BND = share_BND * (gamma_BD * (1 - gamma_BD))[:, None] * log_ND
    return np.log(s_BN), np.concatenate([by_e_BN1, share_BND, by_gamma_BND], axis=2)


def _terms(theta_BP: FloatArray, log_ND: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The sums s [B, N], w (p + eps)^gamma [B, N, D] and gamma [B, D]."""
    domains = log_ND.shape[1]
    log_w_BD, gamma_BD = theta_BP[:, 1 : 1 + domains], 1 / (1 + np.exp(-theta_BP[:, 1 + domains :]))
    terms_BND = np.exp(log_w_BD[:, None] + gamma_BD[:, None] * log_ND)
    return np.exp(theta_BP[:, :1]) + terms_BND.sum(axis=2), terms_BND, gamma_BD
