"""Mixtures as compositions: only ratios of proportions count.

    clr_j = ln p_j - mean_i ln p_i                                     sums to 0
    ilr_i = sqrt(i / (i + 1)) ln(gmean(p_1 .. p_i) / p_{i+1})          coordinates in an orthonormal basis, i < D
    distance(p, q) = |clr(p) - clr(q)| = |ilr(p) - ilr(q)|             Aitchison's

Logarithms need proportions above zero: `replaced` puts a small value for zeros first. On swarms with many zeros these
numbers then say how small that value is, so laws do not use them; they tell whether a swarm can be learned from at
all (`condition`).

Shapes: N mixtures, R runs, D domains.

Source: Aitchison 1986, "The Statistical Analysis of Compositional Data"; ilr: Egozcue et al. 2003, "Isometric logratio
transformations"; zeros: Martin-Fernandez et al. 2003, "Dealing with zeros and missing values". That half of the
smallest proportion replaces zeros is ours.
"""

from __future__ import annotations

import numpy as np

from mixopt.errors import DataError
from mixopt.mixture import FloatArray


def clr(p_ND: FloatArray) -> FloatArray:
    """Centred log-ratios [N, D] (or [D]). Raises DataError for a proportion that is not positive."""
    if not (p_ND > 0).all():
        raise DataError(f"log-ratios: proportions must be positive (got {p_ND.min():g}). Replace zeros first.")
    log_ND = np.log(p_ND)
    return np.asarray(log_ND - log_ND.mean(axis=-1, keepdims=True))


def ilr(p_ND: FloatArray) -> FloatArray:
    """Isometric log-ratios [N, D - 1] (or [D - 1]). Raises DataError for a proportion that is not positive."""
    clr_ND = clr(p_ND)
    i_I = np.arange(1, clr_ND.shape[-1])
    mean_NI = clr_ND.cumsum(axis=-1)[..., :-1] / i_I
    return np.asarray(np.sqrt(i_I / (i_I + 1)) * (mean_NI - clr_ND[..., 1:]))


def distance(p_ND: FloatArray, q_ND: FloatArray) -> FloatArray:
    """Aitchison's distances [N] between the rows. Raises DataError for a proportion that is not positive."""
    return np.asarray(np.linalg.norm(clr(p_ND) - clr(q_ND), axis=-1))


def replaced(p_ND: FloatArray) -> FloatArray:
    """Zeros as half of the smallest positive proportion of all, the rest of a row scaled so that it still sums to 1."""
    zero_ND, small = p_ND == 0, float(p_ND[p_ND > 0].min()) / 2
    return np.where(zero_ND, small, p_ND * (1 - small * zero_ND.sum(axis=-1, keepdims=True)))


def condition(X_RD: FloatArray) -> float:
    """How unevenly runs [R, D] explore mixtures: largest over smallest standard deviation along ilr's directions.

    1 is even; infinite if a direction is not explored at all: fewer runs than domains, domains that always move together.
    """
    if X_RD.shape[1] < 2:
        return 1.0
    z_RI = ilr(replaced(X_RD))
    along_I = np.linalg.svd(z_RI - z_RI.mean(axis=0), compute_uv=False)
    found = len(X_RD) > X_RD.shape[1] - 1 and along_I[-1] > np.finfo(float).eps * len(X_RD) * along_I[0]
    return float(along_I[0] / along_I[-1]) if found else np.inf
