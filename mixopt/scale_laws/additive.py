"""The additive joint law: size and data add up, and the mixture decides how much data the tokens are.

    L_v = c_v + A_v N^-a_v + B_v (D s_v(p))^-b_v,    s_v(p) = e_v + sum_j w_vj (p_j + eps)^gamma_vj

Convex in p at a given size and number of tokens, and falls in both. How a mixture ranks depends on the size only through
the metrics' different exponents. All runs of all sizes are learned from at once. c is in units of the metric's standard
deviation, A and B too, at the geometric mean of the runs' sizes and tokens; logarithms of all but c have Gaussian priors
(`descent`), weighed against the noise that the residuals show.

Shapes: R runs, N new runs, D domains, M metrics, B = starts x metrics, P = 6 + 2 D parameters: c, log A, log a, log B,
log b, and those of s (`worth`).

Source: ours; its parts: Chinchilla (arXiv:2203.15556), equation 2, and `laws.effdata`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mixopt.laws.shapes import Shape
from mixopt.mixture import FloatArray
from mixopt.scale_laws import worth
from mixopt.scale_laws.base import Runs, ScaleFit

HEAD = ((-3.0, 2.0), (0.2, 1.0), (float(np.log(0.35)), 0.4), (0.2, 1.0), (float(np.log(0.4)), 0.4))
"""Centre and width of c, log A, log a, log B, log b."""
STARTS = (0.2, 0.35, 0.7)
"""Both exponents."""


@dataclass
class Additive:
    """c + A N^-a + B (effective data)^-b for each metric; the first choice where sizes were trained on few mixtures.

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
        starts_SP = np.tile(prior_P, (len(STARTS), 1))
        starts_SP[:, [2, 4]] = np.log(STARTS)[:, None]
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
    a_B1, b_B1 = np.exp(theta_BP[:, 2:3]), np.exp(theta_BP[:, 4:5])
    by_b_BN = -b_B1 * (F_NF[:, 1] + log_s_BN) * data_BN
    head_BNP = np.stack([np.ones_like(size_BN), size_BN, -a_B1 * F_NF[:, 0] * size_BN, data_BN, by_b_BN], axis=2)
    return np.concatenate([head_BNP, (-b_B1 * data_BN)[:, :, None] * by_s_BNP], axis=2)


def _terms(theta_BP: FloatArray, F_NF: FloatArray, log_s_BN: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A N^-a and B (D s)^-b, each [B, N]."""
    log_A_B1, a_B1, log_B_B1, b_B1 = (
        theta_BP[:, 1:2],
        np.exp(theta_BP[:, 2:3]),
        theta_BP[:, 3:4],
        np.exp(theta_BP[:, 4:5]),
    )
    return np.exp(log_A_B1 - a_B1 * F_NF[:, 0]), np.exp(log_B_B1 - b_B1 * (F_NF[:, 1] + log_s_BN))
