"""Shukor et al.'s additive law: the mixture adds a term of its own, the same at every size.

    L = E + 1 / sum_j C_j h_j^gamma_j + A N^-alpha + B D^-beta

Falls in size and in tokens; the best mixture does not depend on them. A domain that is left out counts as a proportion of
FLOOR. E, A, B and the first term are in units of the metric's standard deviation, A and B at the geometric mean of the
runs' sizes and tokens; logarithms of all but E have Gaussian priors (`descent`), weighed against the noise that the
residuals show.

Shapes: R runs, N new runs, D domains, M metrics, B = starts x metrics, P = 5 + 2 D parameters: E, log A, log alpha, log B,
log beta, log C [D], log gamma [D].

Source: "Scaling laws for optimal data mixtures" (arXiv:2507.09404), its additive form; there basin hopping over L-BFGS
from random starts. Ours: priors, six starts that descend together, the floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from mixopt.laws.shapes import Shape
from mixopt.mixture import FloatArray
from mixopt.scale_laws.base import Runs, ScaleFit

FLOOR = 1e-4
HEAD = ((-3.0, 2.0), (0.2, 1.0), (float(np.log(0.35)), 0.4), (0.2, 1.0), (float(np.log(0.4)), 0.4))
"""Centre and width of E, log A, log alpha, log B, log beta."""
EACH = ((-0.5, 1.5), (float(np.log(0.4)), 0.8))
"""And of log C, log gamma."""
STARTS = tuple((exponent, gamma) for exponent in (0.2, 0.35, 0.7) for gamma in (0.2, 0.6))
"""Both exponents, and gamma."""


@dataclass
class Shukor:
    """E + 1 / sum C h^gamma + A N^-alpha + B D^-beta for each metric; one best mixture for all sizes.

    Learned: fit_.
    """

    scale_aware: ClassVar[bool] = True
    repetition_aware: ClassVar[bool] = True

    def min_runs(self, domains: int) -> int:
        """Four more than there are domains, at least eight: the priors answer for the rest."""
        return max(8, domains + 4)

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Learn from runs of two sizes or more. Raises SwarmError for runs that it cannot use."""
        domains = np.shape(runs.mixtures_RD)[-1]
        prior_P, sd_P = np.array([*HEAD, *(kind for kind in EACH for _ in range(domains))]).T
        self.fit_ = ScaleFit.of(self, Shape(_value, _slopes, prior_P, sd_P), starts(prior_P, domains), runs, Y)
        return self

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fit_.predict(self, runs, return_std)


def starts(prior_P: FloatArray, domains: int) -> FloatArray:
    """The centre of the prior with each of STARTS in place of its exponents, [S, P]."""
    starts_SP, first = np.tile(prior_P, (len(STARTS), 1)), len(HEAD) + domains
    starts_SP[:, [2, 4]] = np.log([[exponent] for exponent, _ in STARTS])
    starts_SP[:, first : first + domains] = np.log([[gamma] for _, gamma in STARTS])
    return starts_SP


def mixture_term(theta_BP: FloatArray, h_ND: FloatArray) -> tuple[FloatArray, FloatArray]:
    """1 / sum C h^gamma [B, N] and its derivatives [B, N, 2 D] by theta [B, 2 D]: log C, log gamma."""
    log_C_BD, gamma_BD = np.split(theta_BP, 2, axis=1)
    gamma_BD, log_ND = np.exp(gamma_BD), np.log(np.maximum(h_ND, FLOOR))
    terms_BND = np.exp(log_C_BD[:, None] + gamma_BD[:, None] * log_ND)
    term_BN = 1 / terms_BND.sum(axis=2)
    by_C_BND = -(term_BN**2)[:, :, None] * terms_BND
    return term_BN, np.concatenate([by_C_BND, by_C_BND * gamma_BD[:, None] * log_ND], axis=2)


def power(log_A_B: FloatArray, log_alpha_B: FloatArray, log_x_N: FloatArray) -> tuple[FloatArray, FloatArray]:
    """A x^-alpha [B, N] and its derivatives [B, N, 2] by log A and log alpha."""
    alpha_B1 = np.exp(log_alpha_B)[:, None]
    term_BN = np.exp(log_A_B[:, None] - alpha_B1 * log_x_N)
    return term_BN, np.stack([term_BN, -alpha_B1 * log_x_N * term_BN], axis=2)


def _value(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """The metrics [B, N], in standard deviations from their mean."""
    size_BN, data_BN = (
        power(theta_BP[:, k], theta_BP[:, k + 1], x_N)[0] for k, x_N in ((1, F_NF[:, 0]), (3, F_NF[:, 1]))
    )
    return theta_BP[:, :1] + size_BN + data_BN + mixture_term(theta_BP[:, len(HEAD) :], F_NF[:, 2:])[0]


def _slopes(theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
    """Derivatives [B, N, P] of `_value`."""
    by_size, by_data = (
        power(theta_BP[:, k], theta_BP[:, k + 1], x_N)[1] for k, x_N in ((1, F_NF[:, 0]), (3, F_NF[:, 1]))
    )
    by_mixture = mixture_term(theta_BP[:, len(HEAD) :], F_NF[:, 2:])[1]
    return np.concatenate([np.ones_like(by_size[:, :, :1]), by_size, by_data, by_mixture], axis=2)
