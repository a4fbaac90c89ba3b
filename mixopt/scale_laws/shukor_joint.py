"""Shukor et al.'s joint law: the mixture also decides how much of the loss size and tokens can remove.

    L = E + 1 / sum_j C_j h_j^gamma_j + A_h N^-alpha + B_h D^-beta
    A_h = (sum_j C^A_j h_j)^gamma_A,    B_h = (sum_j C^B_j h_j)^gamma_B

The best mixture moves with size and tokens. UNVERIFIED: the inner form of A_h and B_h is from secondary reading. Units,
floor, priors and noise are those of the additive form (`shukor`); the sign of gamma_A and gamma_B is free.

Shapes: R runs, N new runs, D domains, M metrics, B = starts x metrics, P = 5 + 4 D parameters: E, gamma_A, log alpha,
gamma_B, log beta, log C [D], log gamma [D], log C^A [D], log C^B [D].

Source: "Scaling laws for optimal data mixtures" (arXiv:2507.09404), its joint form; there basin hopping over L-BFGS from
random starts. Ours: priors, six starts that descend together, the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mixopt.laws.shapes import Shape
from mixopt.mixture import FloatArray
from mixopt.scale_laws import shukor
from mixopt.scale_laws.base import Runs, ScaleFit

GAMMA, LOG_C = (1.0, 0.7), (0.2, 1.0)
"""Centre and width of gamma_A and gamma_B, and of log C^A and log C^B."""
S = len(shukor.HEAD)


@dataclass
class ShukorJoint:
    """Shukor's law whose size and data terms depend on the mixture; the best mixture moves with the scale.

    Learned: fit_.
    """

    scale_aware: ClassVar[bool] = True
    repetition_aware: ClassVar[bool] = True

    def min_runs(self, domains: int) -> int:
        """Twice as many as domains and four, at least eight: the priors answer for the rest."""
        return max(8, 2 * domains + 4)

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Learn from runs of two sizes or more. Raises SwarmError for runs that it cannot use."""
        domains = np.shape(runs.mixtures_RD)[-1]
        E, _, alpha, _, beta = shukor.HEAD
        each = [kind for kind in (*shukor.EACH, LOG_C, LOG_C) for _ in range(domains)]
        prior_P, sd_P = np.array([E, GAMMA, alpha, GAMMA, beta, *each]).T
        starts_SP = shukor.starts(prior_P, domains)
        self.fit_ = ScaleFit.of(self, Shape(_value, _slopes, prior_P, sd_P), starts_SP, runs, Y)
        return self

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fit_.predict(self, runs, return_std)


def _value(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """The metrics [B, N], in standard deviations from their mean."""
    D = F_NF.shape[1] - 2
    (size_BN, *_), (data_BN, *_) = (_term(theta_BP, F_NF, k) for k in (0, 1))
    return theta_BP[:, :1] + size_BN + data_BN + shukor.mixture_term(theta_BP[:, S : S + 2 * D], F_NF[:, 2:])[0]


def _slopes(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """Derivatives [B, N, P] of `_value`."""
    D = F_NF.shape[1] - 2
    (size_BN, by_size, by_CA), (_, by_data, by_CB) = (_term(theta_BP, F_NF, k) for k in (0, 1))
    by_mixture = shukor.mixture_term(theta_BP[:, S : S + 2 * D], F_NF[:, 2:])[1]
    return np.concatenate([np.ones_like(size_BN)[:, :, None], by_size, by_data, by_mixture, by_CA, by_CB], axis=2)


def _term(theta_BP: FloatArray, F_NF: FloatArray, k: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """A_h N^-alpha (k = 0) or B_h D^-beta (k = 1), [B, N]; derivatives [B, N, 2] by gamma and log alpha, [B, N, D] by C."""
    h_ND, D = F_NF[:, 2:], F_NF.shape[1] - 2
    first = S + (2 + k) * D
    C_BD = np.exp(theta_BP[:, first : first + D])
    gamma_B1, sum_BN = theta_BP[:, 1 + 2 * k, None], C_BD @ h_ND.T
    zero_B = np.zeros(len(theta_BP))
    falls_BN, by_BN2 = shukor.power(zero_B, theta_BP[:, 2 + 2 * k], F_NF[:, k])
    height_BN = sum_BN**gamma_B1
    term_BN = height_BN * falls_BN
    by_C_BND = (gamma_B1 * term_BN / sum_BN)[:, :, None] * C_BD[:, None] * h_ND
    return term_BN, np.stack([np.log(sum_BN) * term_BN, height_BN * by_BN2[:, :, 1]], axis=2), by_C_BND
