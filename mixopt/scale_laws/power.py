"""Power laws of one quantity with one exponent for many curves: what nested laws extrapolate with.

    y_cm(x) = c_cm + k_cm x^-alpha,    c, k >= 0,    alpha of each curve, or one for all

For given alpha c and k are linear, so that only alpha is searched: a grid of logarithms, thrice made finer around the best.

Shapes: C curves, K points of each, M metrics; `seen` [C, K] says which points there are. A alphas of the grid.

Source: Data Mixing Laws (arXiv:2403.16952), its step and size laws; there L-BFGS from a grid of starts. Ours: the search,
and standard deviations by the delta method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixopt.mixture import FloatArray

SMALLEST, LARGEST, GRID, ZOOMS = 0.02, 3.0, 41, 4


@dataclass(frozen=True)
class PowerLaws:
    """Fitted curves: alpha [C], c and k [C, M]; x is divided by `unit`; how unsure they are is in the rest.

    inverse [C, 2, 2] is that of the squares of (1, u), cross [C, 2] their product with the derivative by alpha for k = 1,
    noise [M] a variance, sure [C] the information about alpha.
    """

    unit: float
    alpha_C: FloatArray
    c_CM: FloatArray
    k_CM: FloatArray
    inverse_C22: FloatArray
    cross_C2: FloatArray
    noise_M: FloatArray
    sure_C: FloatArray

    def at(self, x_C: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The metrics [C, M] at one x for each curve, and the variances of these means."""
        log_C = np.log(x_C / self.unit)
        u_C = np.exp(-self.alpha_C * log_C)
        g_C2 = np.column_stack([np.ones_like(u_C), u_C])
        lever_C = np.einsum("ci,cij,cj->c", g_C2, self.inverse_C22, g_C2)
        turn_C = -u_C * log_C - np.einsum("ci,cij,cj->c", g_C2, self.inverse_C22, self.cross_C2)
        by_alpha_CM = self.k_CM * turn_C[:, None]
        variance_CM = self.noise_M * lever_C[:, None] + by_alpha_CM**2 / self.sure_C[:, None]
        return self.c_CM + self.k_CM * u_C[:, None], variance_CM


def fit_power(x_CK: FloatArray, y_CKM: FloatArray, seen_CK: FloatArray, tied: bool) -> PowerLaws:
    """The best curves; alpha is that of all curves where `tied`, else each curve's own (of all its metrics)."""
    unit = float(np.exp(np.log(x_CK[seen_CK > 0]).mean()))
    log_CK, y_CKM = np.log(np.where(seen_CK > 0, x_CK / unit, 1.0)), np.where(seen_CK[:, :, None] > 0, y_CKM, 0.0)
    low_C, high_C = np.full(len(x_CK), np.log(SMALLEST)), np.full(len(x_CK), np.log(LARGEST))
    for _ in range(ZOOMS):
        grid_AC = np.linspace(low_C, high_C, GRID)
        sse_AC = np.stack([_line(np.exp(log_C), log_CK, y_CKM, seen_CK)[2].sum(axis=1) for log_C in grid_AC])
        best_C = (sse_AC.sum(axis=1, keepdims=True) + 0 * sse_AC if tied else sse_AC).argmin(axis=0)
        middle_C, step_C = grid_AC[best_C, np.arange(len(best_C))], (high_C - low_C) / (GRID - 1)
        low_C, high_C = middle_C - step_C, middle_C + step_C
    alpha_C = np.exp(middle_C)
    c_CM, k_CM, sse_CM = _line(alpha_C, log_CK, y_CKM, seen_CK)
    u_CK = np.exp(-alpha_C[:, None] * log_CK)
    gram_C22 = np.einsum("kci,kcj,ck->cij", *[np.stack([np.ones_like(u_CK), u_CK], axis=2).swapaxes(0, 1)] * 2, seen_CK)
    by_alpha_CK = -u_CK * log_CK
    cross_C2 = np.stack([(by_alpha_CK * seen_CK).sum(axis=1), (by_alpha_CK * u_CK * seen_CK).sum(axis=1)], axis=1)
    inverse_C22 = np.linalg.pinv(gram_C22)
    left_C = (by_alpha_CK**2 * seen_CK).sum(axis=1) - np.einsum("ci,cij,cj->c", cross_C2, inverse_C22, cross_C2)
    curves, metrics = k_CM.shape
    free = max(seen_CK.sum() - 2 * curves - (1 if tied else curves) / metrics, 1.0)
    noise_M = np.maximum(sse_CM.sum(axis=0) / free, np.finfo(float).tiny)
    sure_C = np.maximum(left_C, 0) * (k_CM**2 / noise_M).sum(axis=1)
    sure_C = np.maximum(sure_C.sum() + 0 * sure_C if tied else sure_C, np.finfo(float).tiny)
    return PowerLaws(unit, alpha_C, c_CM, k_CM, inverse_C22, cross_C2, noise_M, sure_C)


def _line(
    alpha_C: FloatArray, log_CK: FloatArray, y_CKM: FloatArray, seen_CK: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The best c and k >= 0 for these exponents, and the squared error, all [C, M]."""
    u_CK = np.exp(-alpha_C[:, None] * log_CK) * seen_CK
    count_C1, sum_C1, squares_C1 = (t_CK.sum(axis=1)[:, None] for t_CK in (seen_CK, u_CK, u_CK**2))
    y_CM, uy_CM = y_CKM.sum(axis=1), np.einsum("ck,ckm->cm", u_CK, y_CKM)
    k_CM = (count_C1 * uy_CM - sum_C1 * y_CM) / np.maximum(count_C1 * squares_C1 - sum_C1**2, np.finfo(float).tiny)
    c_CM = (y_CM - k_CM * sum_C1) / count_C1
    k_CM = np.where(k_CM < 0, 0.0, np.where(c_CM < 0, np.maximum(uy_CM, 0) / squares_C1, k_CM))
    c_CM = np.maximum((y_CM - k_CM * sum_C1) / count_C1, 0.0)
    error_CKM = (c_CM[:, None] + k_CM[:, None] * u_CK[:, :, None] - y_CKM) * seen_CK[:, :, None]
    return c_CM, k_CM, np.square(error_CKM).sum(axis=1)
