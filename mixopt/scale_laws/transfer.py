"""From one size to the next with few runs: the law of the small size is the prior of the same law at the large one.

    f_m(p) = c_m + A_m s_m(p)^(-alpha_m),    s_m(p) = e_m + sum_j w_mj (p_j + eps_j)^gamma_mj      (`laws.effdata`)
    theta = argmin  sum_r huber((f_m(p_r) - y_rm) / sd_m) / noise^2 + sum_p (theta_p - small_p)^2 / width_p^2

`small` are the parameters that the small size's runs gave, sd_m is the small size's spread, and eps is kept. Widths are
those of `effdata`'s own priors times `drift`; they are wide for c and log A and narrower for the rest: sizes differ more in
the level of a loss than in which data help it. The width of c is at least the step in level between the sizes: where that is
many times what mixtures change, everything else would bend to explain it. From two runs of the large size on.

Shapes: R runs, N candidates, D domains, M metrics, P = 4 + 2 D parameters: c, log A, log alpha, log e, log w [D], logit
gamma [D].

Source: ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.base import Curve, Law, check_runs
from mixopt.laws.effdata import EffData
from mixopt.laws.effective import EACH, HEAD
from mixopt.laws.shapes import Fitted, Shape, fit_scaled
from mixopt.mixture import FloatArray
from mixopt.scale_laws import worth

FIRST = 3  # of the parameters of s
OF_EFFDATA = (1, 0, 3, 2)  # c, log A, log alpha, log e in its theta_


@dataclass
class Transfer:
    """The effective-data law of a small size, moved by a few runs of a larger one: convex and smooth as that one is.

    Learned: fitted_.
    """

    small: EffData
    drift: float = 0.25

    def min_runs(self, domains: int) -> int:
        """Two: the small size answers for the rest."""
        return 2

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M] of the larger size, in the order of the small size's.

        Raises SwarmError for runs that it cannot use, and for other domains or metrics than the small size's.
        """
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        theta_MP, domains = self.small.theta_, X_RD.shape[1]
        if theta_MP.shape != (Y_RM.shape[1], len(HEAD) + len(EACH) * domains):
            small_domains = (theta_MP.shape[1] - len(HEAD)) // len(EACH)
            raise SwarmError(
                f"Transfer: the small size's law is of {small_domains} domains and {len(theta_MP)} metrics (got {domains} "
                f"and {Y_RM.shape[1]}). Give both sizes the same ones, in the same order."
            )
        shared = len(HEAD) + 2 * domains
        prior_MP = theta_MP[:, [*OF_EFFDATA, *range(len(HEAD), shared)]]
        self.eps_ = np.exp(theta_MP[0, shared:])
        width_P = np.array([*(HEAD[k][1] for k in OF_EFFDATA), *(EACH[k][1] for k in range(2) for _ in range(domains))])
        unit_M, z_RM = self.small.scale_, (Y_RM - self.small.centre_) / self.small.scale_
        width_MP = np.tile(self.drift * width_P, (len(prior_MP), 1))
        step_M = ((Y_RM - self.small.predict(X_RD).reshape(Y_RM.shape)) / unit_M).mean(axis=0)
        width_MP[:, 0] = np.hypot(width_MP[:, 0], step_M)
        shape = Shape(_value, _slopes, prior_MP, width_MP)
        log_RD = self._features(X_RD)
        theta_MP, posterior = fit_scaled(shape, prior_MP[None], log_RD, z_RM, 0)
        self.fitted_ = Fitted(shape, log_RD, theta_MP, posterior, self.small.centre_, unit_M)
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's."""
        return self.fitted_.predict(self._features(X_ND), self.single_, return_std)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of the metrics by each proportion."""
        return self._moved().gradient(X_ND)

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics with its derivatives, for exact optima."""
        return self._moved().curve(weights_M)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Copies whose parameters are drawn from the posterior: what the larger size's runs leave open."""
        laws: list[Law] = []
        for fitted in self.fitted_.draw(rng, count):
            laws.append(law := copy.copy(self))
            law.fitted_ = fitted
        return laws

    def _moved(self) -> EffData:
        """The small size's law with the parameters of this one: for values and derivatives, not for deviations."""
        theta_MP, law = self.fitted_.theta_MP, copy.copy(self.small)
        head_MP = theta_MP[:, np.argsort(OF_EFFDATA)]
        eps_MD = np.broadcast_to(np.log(self.eps_), (len(theta_MP), len(self.eps_)))
        law.theta_ = np.hstack([head_MP, theta_MP[:, len(HEAD) :], eps_MD])
        return law

    def _features(self, X_ND: FloatArray) -> FloatArray:
        """log(p + eps) [N, D]."""
        return np.asarray(np.log(np.asarray(X_ND) + self.eps_))


def _value(theta_BP: FloatArray, log_ND: FloatArray) -> FloatArray:
    """The metrics [B, N], in the small size's standard deviations."""
    alpha_B1, log_s_BN = np.exp(theta_BP[:, 2:3]), worth.log_worth(theta_BP[:, FIRST:], log_ND)
    return theta_BP[:, :1] + np.exp(theta_BP[:, 1:2] - alpha_B1 * log_s_BN)


def _slopes(theta_BP: FloatArray, log_ND: FloatArray) -> FloatArray:
    """Derivatives [B, N, P] of `_value`."""
    alpha_B1 = np.exp(theta_BP[:, 2:3])
    log_s_BN, by_s_BNP = worth.log_worth_slopes(theta_BP[:, FIRST:], log_ND)
    above_BN = np.exp(theta_BP[:, 1:2] - alpha_B1 * log_s_BN)
    head_BNP = np.stack([np.ones_like(above_BN), above_BN, -alpha_B1 * log_s_BN * above_BN], axis=2)
    return np.concatenate([head_BNP, (-alpha_B1 * above_BN)[:, :, None] * by_s_BNP], axis=2)
