"""The multiplicative joint law: what a mixture is worth divides all of the loss that training can remove.

    L_v = c_v + s_v(p)^-m_v (A_v N^-a_v + B_v D^-b_v),    s_v(p) = e_v + sum_j w_vj (p_j + eps)^gamma_vj

Convex in p at a given size and number of tokens, and falls in both. One metric ranks mixtures alike at every size. Units,
priors and noise are those of the additive law (`additive`).

Shapes: R runs, N new runs, D domains, M metrics, B = starts x metrics, P = 7 + 2 D parameters: c, log A, log a, log B,
log b, log m, and those of s (`worth`).

Source: ours; its parts: Chinchilla (arXiv:2203.15556), equation 2, and `laws.effdata`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mixopt.laws.shapes import Shape
from mixopt.mixture import FloatArray
from mixopt.scale_laws import additive, worth
from mixopt.scale_laws.base import Runs, ScaleFit

HEAD = (*additive.HEAD, (float(np.log(0.15)), 0.5))
"""Centre and width of c, log A, log a, log B, log b, log m."""


@dataclass
class Multiplicative:
    """c + (worth of the mixture)^-m (A N^-a + B D^-b) for each metric; mixtures rank alike at every size.

    Learned: fit_.
    """

    scale_aware: ClassVar[bool] = True
    repetition_aware: ClassVar[bool] = True

    def min_runs(self, domains: int) -> int:
        """Four more than there are domains, at least eight: the priors answer for the rest."""
        return max(8, domains + 4)

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Learn from runs of two sizes or more. Raises SwarmError for runs that it cannot use."""
        centre_P, width_P = worth.prior(np.shape(runs.mixtures_RD)[-1])
        prior_P, sd_P = (np.concatenate(parts) for parts in zip(np.array(HEAD).T, (centre_P, width_P), strict=True))
        starts_SP = np.tile(prior_P, (len(additive.STARTS), 1))
        starts_SP[:, [2, 4]] = np.log(additive.STARTS)[:, None]
        self.fit_ = ScaleFit.of(self, Shape(_value, _slopes, prior_P, sd_P), starts_SP, runs, Y)
        return self

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fit_.predict(self, runs, return_std)


def _value(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """The metrics [B, N], in standard deviations from their mean."""
    size_BN, data_BN = _terms(
        theta_BP, F_NF, worth.log_worth(theta_BP[:, len(HEAD) :], np.log(F_NF[:, 2:] + worth.EPS))
    )
    return theta_BP[:, :1] + size_BN + data_BN


def _slopes(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """Derivatives [B, N, P] of `_value`."""
    log_s_BN, by_s_BNP = worth.log_worth_slopes(theta_BP[:, len(HEAD) :], np.log(F_NF[:, 2:] + worth.EPS))
    size_BN, data_BN = _terms(theta_BP, F_NF, log_s_BN)
    a_B1, b_B1, m_B1 = (np.exp(theta_BP[:, k : k + 1]) for k in (2, 4, 5))
    by_size_BN, by_data_BN = -a_B1 * F_NF[:, 0] * size_BN, -b_B1 * F_NF[:, 1] * data_BN
    by_log_s_BN = -m_B1 * (size_BN + data_BN)
    head = [np.ones_like(size_BN), size_BN, by_size_BN, data_BN, by_data_BN, by_log_s_BN * log_s_BN]
    return np.concatenate([np.stack(head, axis=2), by_log_s_BN[:, :, None] * by_s_BNP], axis=2)


def _terms(theta_BP: FloatArray, F_NF: FloatArray, log_s_BN: FloatArray) -> tuple[FloatArray, FloatArray]:
    """s^-m A N^-a and s^-m B D^-b, each [B, N]."""
    a_B1, b_B1, m_B1 = (np.exp(theta_BP[:, k : k + 1]) for k in (2, 4, 5))
    size_BN = np.exp(theta_BP[:, 1:2] - a_B1 * F_NF[:, 0] - m_B1 * log_s_BN)
    return size_BN, np.exp(theta_BP[:, 3:4] - b_B1 * F_NF[:, 1] - m_B1 * log_s_BN)
