"""Dai and Zheng's law: domains share a model's capacity as training would, and each pays for its own data.

    L_i = c_i x_i^-b_i + A_i (D h_i)^-a_i + E_i
    x = argmin sum_i h_i c_i x_i^-b_i   subject to   sum_i x_i = N + (K - 1) H,  x_i >= H

N is the capacity, H the part that all K domains use at once. The only law here in which domains interact by a mechanism: it
moves capacity to what is read more. x is found by water-filling, x_i = max(H, (h_i c_i b_i / lambda)^(1 / (b_i + 1))), one
bisection for lambda for each run; it depends on the parameters through the implicit function theorem. Metrics must be the
domains' own losses, one for each: `own`.

A domain that is left out counts as a proportion of EPS in its own data. c, A and E are in units of each metric's standard
deviation, sizes and tokens in the geometric mean of the runs'; H is a part of the smallest size, exponents are below 1.
E, logarithms of c and A, logits of the rest have Gaussian priors (`descent`), weighed against the noise that the residuals show.

Shapes: R runs, N new runs, K domains and metrics, B starts, P = 5 K + 1 parameters: log c, logit b, log A, logit a, E, each
[K], and logit of H. Outputs [B, R K] run by run.

Source: "Explaining data mixing scaling laws" (arXiv:2606.08167). Ours: priors, units, EPS, exact derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import expit, logit

from mixopt.errors import SwarmError
from mixopt.laws.base import answer
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import FloatArray
from mixopt.scale_laws.base import ROUNDS, Runs, Units, check_new, check_runs

EACH = ((0.2, 1.0), (-0.6, 0.6), (0.2, 1.0), (-0.4, 0.6), (-3.0, 2.0))
"""Centre and width of log c, logit b, log A, logit a, E."""
SHARED = (-1.0, 1.5)
"""And of the logit of H."""
STARTS = (0.2, 0.35, 0.7)
"""Both exponents."""
EPS, TINY, BISECTIONS = 0.01, 1e-12, 50


@dataclass
class DaiZheng:
    """Capacity shared by water-filling, data by domain; metrics are the domains' own losses.

    `own` is each metric's own domain; None: metric i is domain i's. Learned: units_, smallest_, scale_K, fitted_.
    """

    own: Sequence[int] | None = None
    scale_aware: ClassVar[bool] = True
    repetition_aware: ClassVar[bool] = True

    def min_runs(self, domains: int) -> int:
        """Four more than there are domains, at least eight: the priors answer for the rest."""
        return max(8, domains + 4)

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Learn from runs of two sizes or more. Raises SwarmError for runs that it cannot use, and other metrics."""
        fresh, Y_RK = check_runs(self, runs, Y)
        K = fresh.mixtures_RD.shape[1]
        self.own_ = np.arange(Y_RK.shape[1]) if self.own is None else np.asarray(self.own)
        if sorted(self.own_) != list(range(K)) or len(self.own_) != Y_RK.shape[1]:
            raise SwarmError(
                f"DaiZheng: one metric for each of {K} domains is needed (got {Y_RK.shape[1]} metrics, own "
                f"{self.own_.tolist()}). Give own, or use additive or multiplicative."
            )
        self.single_ = np.ndim(Y) == 1
        self.units_, self.smallest_ = Units.of(fresh), float(fresh.parameters_R.min())
        self.mean_K, scale_K = Y_RK.mean(axis=0), Y_RK.std(axis=0)
        self.scale_K = np.maximum(scale_K, 1e-9 * np.maximum(np.abs(Y_RK).max(axis=0), 1e-9))
        prior_P, sd_P = np.array([*(kind for kind in EACH for _ in range(K)), SHARED]).T
        starts_SP = np.tile(prior_P, (len(STARTS), 1))
        starts_SP[:, [*range(K, 2 * K), *range(3 * K, 4 * K)]] = logit(STARTS)[:, None]
        z_RK = (Y_RK - self.mean_K) / self.scale_K
        shape = Shape(self._value, self._slopes, prior_P, sd_P)
        F_RF, part = self._features(fresh), runs.independent()
        self.fitted_: Fitted = fit_shape(shape, starts_SP, F_RF, z_RK.reshape(-1, 1), ROUNDS, part)
        return self

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N, K], or [N] for one domain; with `return_std` also the standard deviation of a new run's."""
        F_NF = self._features(check_new(self, runs))
        z_N, std_N = self.fitted_.predict(F_NF, True, True)
        P_NK = self.mean_K + self.scale_K * z_N.reshape(len(runs), -1)
        return answer(self.single_, P_NK, self.scale_K * std_N.reshape(len(runs), -1) if return_std else None)

    def _features(self, fresh: Runs) -> FloatArray:
        """[R, 2 + K]: log size, log tokens, and the proportions of the metrics' own domains."""
        F_RF = self.units_.features(fresh)
        return np.column_stack([F_RF[:, :2], F_RF[:, 2:][:, self.own_]])

    def _value(self, theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
        capacity_BNK, data_BNK, E_BK = self._terms(theta_BP, F_NF)[:3]
        return (capacity_BNK + data_BNK + E_BK[:, None]).reshape(len(theta_BP), -1)

    def _slopes(self, theta_BP: FloatArray, F_NF: FloatArray) -> FloatArray:
        """Derivatives [B, N K, P]; a run's losses depend on all domains' c and b by the capacity that they take."""
        capacity_BNK, data_BNK, _, x_BNK, H_BN = self._terms(theta_BP, F_NF)
        K, (_, b_BK, _, a_BK, _) = F_NF.shape[1] - 2, self._split(theta_BP)
        b_B1K, a_B1K, log_x_BNK = b_BK[:, None], a_BK[:, None], np.log(x_BNK)
        free_BNK = x_BNK > H_BN[:, :, None]
        give_BNK = np.where(free_BNK, 1 / (b_B1K + 1), 0.0)
        pull_BNK = give_BNK * x_BNK
        total_BN1 = pull_BNK.sum(axis=2, keepdims=True)
        eye = np.eye(K)
        x_by_c = give_BNK[..., None] * (eye - (pull_BNK / total_BN1)[:, :, None, :])
        room_BN1 = (free_BNK.sum(axis=2) - 1)[:, :, None] / total_BN1
        x_by_H = np.where(free_BNK, room_BN1 * give_BNK, 1 / H_BN[:, :, None])
        fall_BNK = -b_B1K * capacity_BNK
        by_c = fall_BNK[..., None] * x_by_c + capacity_BNK[..., None] * eye
        by_b = fall_BNK[..., None] * x_by_c * ((1 - b_B1K) * (1 - b_B1K * log_x_BNK))[:, :, None, :]
        by_b += ((1 - b_B1K) * fall_BNK * log_x_BNK)[..., None] * eye
        by_a = (a_B1K - 1) * a_B1K * self._log_data(F_NF) * data_BNK
        share_BN = self._shared(theta_BP, F_NF)[1]
        by_H = (fall_BNK * x_by_H * share_BN[:, :, None])[..., None]
        own = [data_BNK[..., None] * eye, by_a[..., None] * eye, np.broadcast_to(eye, by_c.shape)]
        J_BNKP = np.concatenate([by_c, by_b, *own, by_H], axis=3)
        return J_BNKP.reshape(len(theta_BP), -1, theta_BP.shape[1])

    def _terms(self, theta_BP: FloatArray, F_NF: FloatArray) -> tuple[FloatArray, ...]:
        """The terms c x^-b and A (D h)^-a [B, N, K], E [B, K], x [B, N, K] and H [B, N]."""
        log_c_BK, b_BK, log_A_BK, a_BK, E_BK = self._split(theta_BP)
        H_BN, _ = self._shared(theta_BP, F_NF)
        K = E_BK.shape[1]
        wanted_BNK = (log_c_BK + np.log(self.scale_K * b_BK))[:, None] + np.log(F_NF[:, 2:] + TINY)
        x_BNK = fill(wanted_BNK, b_BK[:, None] + 1, H_BN, K * np.exp(F_NF[:, 0]) + (K - 1) * H_BN)
        capacity_BNK = np.exp(log_c_BK[:, None] - b_BK[:, None] * np.log(x_BNK))
        data_BNK = np.exp(log_A_BK[:, None] - a_BK[:, None] * self._log_data(F_NF))
        return capacity_BNK, data_BNK, E_BK, x_BNK, H_BN

    def _split(self, theta_BP: FloatArray) -> tuple[FloatArray, ...]:
        """The parameters log c, b, log A, a and E, each [B, K]."""
        log_c_BK, logit_b_BK, log_A_BK, logit_a_BK, E_BK = np.split(theta_BP[:, :-1], 5, axis=1)
        return log_c_BK, expit(logit_b_BK), log_A_BK, expit(logit_a_BK), E_BK

    def _shared(self, theta_BP: FloatArray, F_NF: FloatArray) -> tuple[FloatArray, FloatArray]:
        """H [B, N] in units of an even share of the mean size, never more than the model has; its derivative by the logit."""
        K = F_NF.shape[1] - 2
        part_B1 = expit(theta_BP[:, -1:])
        H_BN = part_B1 * K * np.minimum(self.smallest_ / self.units_.parameters, np.exp(F_NF[:, 0]))
        return H_BN, H_BN * (1 - part_B1)

    def _log_data(self, F_NF: FloatArray) -> FloatArray:
        """The log of each domain's tokens [N, K], 0 for an even share of the mean tokens."""
        K = F_NF.shape[1] - 2
        return F_NF[:, 1:2] + np.log(K * (F_NF[:, 2:] + EPS))


def fill(wanted_BNK: FloatArray, power_B1K: FloatArray, least_BN: FloatArray, total_BN: FloatArray) -> FloatArray:
    """Find x >= least [B, N, K] that sum to the total, x = (exp(wanted) / lambda)^(1 / power) above the least.

    `total` must be at least K times `least`.
    """
    K = wanted_BNK.shape[2]
    low_BN = (wanted_BNK - power_B1K * np.log(total_BN)[:, :, None]).max(axis=2)
    high_BN = (wanted_BNK - power_B1K * np.log(total_BN / K)[:, :, None]).max(axis=2)
    for _ in range(BISECTIONS):
        middle_BN = (low_BN + high_BN) / 2
        x_BNK = np.maximum(np.exp((wanted_BNK - middle_BN[:, :, None]) / power_B1K), least_BN[:, :, None])
        above_BN = x_BNK.sum(axis=2) > total_BN
        low_BN, high_BN = np.where(above_BN, middle_BN, low_BN), np.where(above_BN, high_BN, middle_BN)
    return x_BNK
