"""Second-order Scheffe polynomials, b . p + sum_{i<j} B_ij p_i p_j: what the quadratic laws share.

Shapes: R runs, N candidates, D domains, M metrics, L ridges, K eigenvalues.

Source: Scheffe 1958, "Experiments with mixtures"; leave-one-out: Allen 1974, "The relationship between variable
selection and data augmentation and a method for prediction".
"""

from __future__ import annotations

import numpy as np

from mixopt.laws.base import Curve
from mixopt.mixture import FloatArray

SMALLEST_LEFT = 1e-6
FLAT = 1e-12


def polynomial(X_ND: FloatArray, b_MD: FloatArray, B_MDD: FloatArray) -> FloatArray:
    """Of every metric b . p + p' B p / 2 [N, M]."""
    pairs_MN = [np.einsum("nd,nd->n", X_ND @ B_DD, X_ND) / 2 for B_DD in B_MDD]
    return np.asarray(X_ND @ b_MD.T + np.stack(pairs_MN, axis=1))


def gradient(X_ND: FloatArray, b_MD: FloatArray, B_MDD: FloatArray) -> FloatArray:
    """Its derivatives by every proportion [N, M, D]: b + B p."""
    return np.stack([b_D + X_ND @ B_DD for b_D, B_DD in zip(b_MD, B_MDD, strict=True)], axis=1)


def convex_curve(b_D: FloatArray, B_DD: FloatArray) -> Curve | None:
    """The curve of b . p + p' B p / 2 where that is convex on the simplex, otherwise None.

    With u the even mixture and C = 1 - 1 1'/D, p = u + C p: the Hessian is C B C, everything else is linear.
    """
    u_D = np.full(len(b_D), 1 / len(b_D))
    hessian_DD = centred(B_DD)
    slope_D = b_D + B_DD @ u_D - (B_DD @ u_D).mean()
    level = float(u_D @ B_DD @ u_D) / 2
    curvature_D = np.linalg.eigvalsh(hessian_DD)
    if curvature_D[0] < -FLAT * max(abs(curvature_D).max(), FLAT):
        return None
    return lambda p_D: (
        level + float(slope_D @ p_D + p_D @ hessian_DD @ p_D / 2),
        slope_D + hessian_DD @ p_D,
        hessian_DD,
    )


def leave_one_out(
    value_K: FloatArray, vector_RK: FloatArray, ridge_L: FloatArray, y_RM: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean squared leave-one-out residuals, and the noise [L, M], of ridge regressions with a free constant.

    Z Z' of the centred features has the eigenvalues [K] and vectors [R, K]; y is centred. With shrink = value / (value
    + ridge) the hat matrix is 1/R + V diag(shrink) V' and h its diagonal; noise^2 = mean r^2 / (1 - h).
    """
    shrink_LK = value_K / (value_K + ridge_L[:, None])
    left_LR = np.maximum(1 - 1 / len(vector_RK) - shrink_LK @ (vector_RK**2).T, SMALLEST_LEFT)
    r_LRM = y_RM - np.einsum("rk,lk,km->lrm", vector_RK, shrink_LK, vector_RK.T @ y_RM, optimize=True)
    score_LM = ((r_LRM / left_LR[:, :, None]) ** 2).mean(axis=1)
    return score_LM, np.sqrt((r_LRM**2 / left_LR[:, :, None]).mean(axis=1))


def centred(K_RR: FloatArray) -> FloatArray:
    """C K C with C = 1 - 1 1'/R: of a kernel, that of the centred features."""
    row_R = K_RR.mean(axis=0)
    return np.asarray(K_RR - row_R - row_R[:, None] + row_R.mean())
