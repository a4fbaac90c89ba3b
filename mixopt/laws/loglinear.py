"""Log-linear law: a floor, and above it what every domain multiplies.

    f_m(p) = exp(log_c_m) + exp(sum_j t_mj p_j)

    log_c, t = argmin  sum_r huber(f_m(p_r) - y_rm) + ridge/2 |t - mean(t)|^2 + ceiling/2 |max(t - log max_r y_rm, 0)|^2

f is convex in p. A factor in front of the second term would be redundant: proportions sum to 1, so it is the same
number added to every t_j. The two penalties say what a law must do where there are no runs: `ridge` that domains do
not differ, `ceiling` that no domain alone is predicted to be much worse than twice the worst loss seen; without them
the exponential diverges outside the hull of a small swarm. Both are far too weak to move t where there are runs.

The fit starts where log(y - c) is linear in p, for each floor c below the smallest loss that `gaps` names, and goes
down by Levenberg-Marquardt steps on the reweighted squares of Huber's loss. All metrics and starts take their steps
together, as one stack of small systems.

Shapes: R runs, N candidates, D domains, M metrics, B = starts x metrics.

Source: Data Mixing Laws (arXiv:2403.16952), its fourth form; one law per metric, the form without the redundant
factor and huber's delta 0.02: Olmix (arXiv:2602.12237). Ours: penalties, starts, and steps; the reference codes take
300 random starts of L-BFGS for each metric.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.base import Curve, Laplace, Law, answer, check_mixtures, check_runs
from mixopt.mixture import FloatArray

STEPS = 200
TOLERANCE = 1e-6
LARGEST_EXPONENT = 50.0
LARGEST_DAMPING = 1e8
TINY = 1e-12


@dataclass
class LogLinear:
    """exp(log c) + exp(t . p) for each metric; convex, best with 3 (D + 1) runs or more.

    Learned: log_c_ [M], t_ [M, D], highest_ [M] (log of the worst loss), posterior_.
    """

    delta: float = 0.02
    ridge: float = 1e-7
    ceiling: float = 0.1
    gaps: tuple[float, ...] = (0.02, 0.3, 3.0)

    def min_runs(self, domains: int) -> int:
        """One more than there are parameters."""
        return domains + 2

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        if not (Y_RM > 0).all():
            raise SwarmError(
                f"LogLinear: losses must be positive (got {Y_RM.min():.6g}). Drop that metric or choose another law."
            )
        metrics = Y_RM.shape[1]
        theta_BP = self._start(X_RD, Y_RM)
        theta_BP, loss_B = self._descend(theta_BP, X_RD, np.tile(Y_RM.T, (len(self.gaps), 1)))
        best_M = loss_B.reshape(-1, metrics).argmin(axis=0)
        theta_MP = theta_BP.reshape(-1, metrics, theta_BP.shape[1])[best_M, np.arange(metrics)]
        self.log_c_, self.t_, self.highest_ = theta_MP[:, 0], theta_MP[:, 1:], np.log(Y_RM.max(axis=0))
        stiffness_MPP = self._stiffness(_penalised(self.t_, Y_RM.T)[1])
        residual_RM = Y_RM - np.add(*_parts(theta_MP, X_RD)).T
        self.posterior_ = Laplace.of(self._jacobian(X_RD), stiffness_MPP, residual_RM, Y_RM.mean(axis=0))
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also those of the Laplace approximation."""
        X_ND = check_mixtures(X_ND, self.t_.shape[1])
        std_NM = self.posterior_.std(self._jacobian, X_ND) if return_std else None
        return answer(self.single_, np.exp(self.log_c_) + np.exp(X_ND @ self.t_.T), std_NM)

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion: t exp(t . p)."""
        return np.asarray(np.exp(X_ND @ self.t_.T)[:, :, None] * self.t_)

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws from the Laplace approximation, in c instead of log c; the ceiling holds for them too."""
        drawn = [copy.copy(self) for _ in range(count)]
        highest_MD = np.where(self.t_ < self.highest_[:, None], self.highest_[:, None], np.inf)
        for law, departure_MP in zip(drawn, self.posterior_.draw(rng, count), strict=True):
            law.log_c_ = self.log_c_ + np.log(np.maximum(1 + departure_MP[:, 0], TINY))
            law.t_ = np.minimum(self.t_ + departure_MP[:, 1:], highest_MD)
            law.posterior_ = self.posterior_.certain
        return list(drawn)

    def curve(self, weights_M: FloatArray) -> Curve:
        """The weighted mean of the metrics: sum_m w_m (c_m + u_m), gradient and Hessian sum_m w_m u_m t_m (t_m')."""
        used = weights_M > 0
        floor, t_MD, weights_M = float(weights_M @ np.exp(self.log_c_)), self.t_[used], weights_M[used]

        def value(p_D: FloatArray) -> tuple[float, FloatArray, FloatArray]:
            u_M = weights_M * np.exp(t_MD @ p_D)
            return floor + float(u_M.sum()), u_M @ t_MD, (t_MD.T * u_M) @ t_MD

        return value

    def _start(self, X_RD: FloatArray, Y_RM: FloatArray) -> FloatArray:
        """Parameters [B, 1 + D]: for each gap and metric the floor c, and the ridge regression of log(y - c) on p."""
        low_M = Y_RM.min(axis=0)
        range_M = np.maximum(np.ptp(Y_RM, axis=0), 1e-3 * low_M)
        c_B = np.maximum(low_M - np.multiply.outer(self.gaps, range_M), 1e-3 * low_M).ravel()
        z_RB = np.log(np.tile(Y_RM, len(self.gaps)) - c_B)
        mean_B = z_RB.mean(axis=0)
        gram_DD = X_RD.T @ X_RD + 1e-2 * np.eye(X_RD.shape[1])
        t_DB = mean_B + np.linalg.solve(gram_DD, X_RD.T @ (z_RB - mean_B))
        return np.vstack([np.log(c_B), t_DB]).T

    def _descend(self, theta_BP: FloatArray, X_RD: FloatArray, y_BR: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Levenberg-Marquardt from each start: the parameters [B, 1 + D] reached and their loss [B]."""
        theta_BP, loss_B = theta_BP.copy(), self._loss(theta_BP, X_RD, y_BR)
        damping_B, done_B = np.full(len(y_BR), 1e-2), np.zeros(len(y_BR), dtype=bool)
        diagonal = np.arange(theta_BP.shape[1])
        for _ in range(STEPS):
            gradient_BP, hessian_BPP = self._expand(theta_BP, X_RD, y_BR)
            hessian_BPP[:, diagonal, diagonal] *= 1 + damping_B[:, None]
            hessian_BPP[:, diagonal, diagonal] += TINY
            trial_BP = theta_BP - np.linalg.solve(hessian_BPP, gradient_BP[:, :, None])[:, :, 0]
            gain_B = loss_B - (trial_loss_B := self._loss(trial_BP, X_RD, y_BR))
            better_B = gain_B > 0
            done_B |= np.where(better_B, gain_B <= TOLERANCE * loss_B, damping_B > LARGEST_DAMPING)
            damping_B = np.where(better_B, np.maximum(damping_B / 3, 1e-10), damping_B * 4)
            theta_BP[better_B], loss_B[better_B] = trial_BP[better_B], trial_loss_B[better_B]
            if done_B.all():
                break
        return theta_BP, loss_B

    def _loss(self, theta_BP: FloatArray, X_RD: FloatArray, y_BR: FloatArray) -> FloatArray:
        """Huber's loss and the penalties [B]."""
        c_B1, u_BR = _parts(theta_BP, X_RD)
        size_BR = np.abs(c_B1 + u_BR - y_BR)
        huber_BR = np.where(size_BR < self.delta, size_BR**2 / 2, self.delta * (size_BR - self.delta / 2))
        spread_BD, above_BD = _penalised(theta_BP[:, 1:], y_BR)
        return huber_BR.sum(1) + self.ridge / 2 * (spread_BD**2).sum(1) + self.ceiling / 2 * (above_BD**2).sum(1)

    def _expand(self, theta_BP: FloatArray, X_RD: FloatArray, y_BR: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Gradient [B, P] of the loss, Gauss-Newton Hessian [B, P, P] with Huber's weights min(1, delta / |r|)."""
        c_B1, u_BR = _parts(theta_BP, X_RD)
        r_BR = c_B1 + u_BR - y_BR
        weight_BR = self.delta / np.maximum(np.abs(r_BR), self.delta)
        J_BRP = _derivatives(c_B1, u_BR, X_RD)
        weighted_BPR = (J_BRP * weight_BR[:, :, None]).transpose(0, 2, 1)
        gradient_BP, hessian_BPP = (weighted_BPR @ r_BR[:, :, None])[:, :, 0], weighted_BPR @ J_BRP

        spread_BD, above_BD = _penalised(theta_BP[:, 1:], y_BR)
        gradient_BP[:, 1:] += self.ridge * spread_BD + self.ceiling * above_BD
        return gradient_BP, hessian_BPP + self._stiffness(above_BD)

    def _stiffness(self, above_BD: FloatArray) -> FloatArray:
        """Hessian [B, P, P] of the penalties."""
        starts, domains = above_BD.shape
        stiffness_BPP, diagonal = np.zeros((starts, 1 + domains, 1 + domains)), range(1, 1 + domains)
        stiffness_BPP[:, 1:, 1:] = self.ridge * (np.eye(domains) - 1 / domains)
        stiffness_BPP[:, diagonal, diagonal] += self.ceiling * (above_BD > 0)
        return stiffness_BPP

    def _jacobian(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [M, N, P] of the metrics by log_c and t."""
        return _derivatives(*_parts(np.column_stack([self.log_c_, self.t_]), X_ND), X_ND)


def _parts(theta_BP: FloatArray, X_RD: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The floor exp(log_c) [B, 1] and what is above it, exp(t . p) [B, R]; a trial step cannot overflow."""
    theta_BP = np.minimum(theta_BP, LARGEST_EXPONENT)
    return np.exp(theta_BP[:, :1]), np.exp(theta_BP[:, 1:] @ X_RD.T)


def _derivatives(c_B1: FloatArray, u_BR: FloatArray, X_RD: FloatArray) -> FloatArray:
    """Derivatives [B, R, 1 + D] by log_c and t."""
    return np.concatenate([np.broadcast_to(c_B1[:, :, None], (*u_BR.shape, 1)), u_BR[:, :, None] * X_RD], axis=2)


def _penalised(t_BD: FloatArray, y_BR: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What the ridge and the ceiling act on, both [B, D]."""
    ceiling_B = np.log(y_BR.max(axis=1))
    return t_BD - t_BD.mean(axis=1, keepdims=True), np.maximum(t_BD - ceiling_B[:, None], 0)
