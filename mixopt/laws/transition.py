"""RegMix-D's transition, learned from the checkpoints of a swarm, for each metric by itself.

    u = ((L - c) / d)^-k,    u_i - u_(i-1) = b_i + (B + B_i) . p     weighted by what u says about log L

c and k come from grids, b, B and B_i from a ridge regression of all intervals together; c, k and the strength of the
ridge are those that predict the log losses of left-out runs best. B is what the intervals share.

Shapes: R runs, D domains, I intervals, M metrics, N rows of one regression, P coefficients, K strengths of the ridge.

Source: ours, for RegMix-D (arXiv:2606.18663), whose transition is made of trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixopt.errors import SwarmError
from mixopt.mixture import FloatArray
from mixopt.policies.regmixd import Transition

FLOORS = (0.0, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)  # c, of the lowest loss seen
POWERS = (0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0)
RIDGES = np.geomspace(1e-6, 1.0, 7)
FOLDS, OUTER = 5, 10
FREE = 1e-12
FEWEST = 8


@dataclass(frozen=True)
class Shape:
    """What is chosen by left-out runs."""

    floor: float
    size: float
    power: float
    ridge: float

    def learnt(self, L_RI: FloatArray) -> FloatArray:
        """What was learnt: u [R, I]."""
        return np.asarray(((L_RI - self.floor) / self.size) ** -self.power)


def fit(
    names: Sequence[str], metrics: Sequence[str], ends: Sequence[float], X_RD: FloatArray, L_RIM: FloatArray
) -> Transition:
    """Learn from mixtures [R, D] and the losses [R, I, M] at the end of each interval. Raises SwarmError for too few."""
    refuse_too_few(*X_RD.shape)
    return _fit(names, metrics, ends, (X_RD, L_RIM), [_shape(X_RD, L_RI) for L_RI in L_RIM.transpose(2, 0, 1)])


def out_of_fold(law: Transition, X_RD: FloatArray, L_RIM: FloatArray) -> FloatArray:
    """Losses [R, M] at the end of each run, from its mixture alone, by steps that were learned without it.

    Floors, powers and ridges stay those of the law: numbers that all runs chose.
    """
    fold_R, P_RM = np.arange(len(X_RD)) % OUTER, np.empty_like(L_RIM[:, 0])
    shapes = [Shape(*shape) for shape in zip(law.floor, law.size, law.power, law.ridge, strict=True)]
    for fold in range(min(OUTER, len(X_RD))):
        out_R = fold_R == fold
        other = _fit(law.names, law.metrics, law.ends, (X_RD[~out_R], L_RIM[~out_R]), shapes)
        P_RM[out_R] = other.end(0, X_RD[out_R], np.zeros((1, len(shapes))))
    return P_RM


def refuse_too_few(runs: int, domains: int) -> None:
    """Raise SwarmError for fewer runs than domains, or than eight: the ridge answers for the rest."""
    if runs < (needed := max(FEWEST, domains)):
        raise SwarmError(
            f"regmixd: {runs} good runs are too few for {domains} domains (needs at least {needed}). "
            "More runs (proxies.count) would do."
        )


def _fit(
    names: Sequence[str],
    metrics: Sequence[str],
    ends: Sequence[float],
    seen: tuple[FloatArray, FloatArray],
    shapes: Sequence[Shape],
) -> Transition:
    X_RD, L_RIM = seen
    steps = []
    for shape, L_RI in zip(shapes, L_RIM.transpose(2, 0, 1), strict=True):
        Z_NP, y_N, w_N, _ = _rows(shape, X_RD, L_RI)
        b_P = _ridge(Z_NP, y_N, w_N, np.array([shape.ridge]), L_RI.shape[1])[0]
        count, domains = L_RI.shape[1], X_RD.shape[1]
        B_ID = b_P[count : count + domains] + b_P[count + domains :].reshape(count, domains)
        steps.append(np.hstack([b_P[:count, None], B_ID]).tolist())
    return Transition(
        tuple(names),
        tuple(metrics),
        tuple(ends),
        tuple(shape.floor for shape in shapes),
        tuple(shape.size for shape in shapes),
        tuple(shape.power for shape in shapes),
        tuple(shape.ridge for shape in shapes),
        tuple(tuple(tuple(step) for step in rows) for rows in steps),
    )


def _shape(X_RD: FloatArray, L_RI: FloatArray) -> Shape:
    """The shape whose steps, learned from some runs, predict the log losses of the others best."""
    out_R, best = np.arange(len(L_RI)) % FOLDS, (np.inf, Shape(0.0, 1.0, 1.0, 1.0))
    for floor in FLOORS:
        c = floor * float(L_RI.min())
        for power in POWERS:
            shape = Shape(c, float((L_RI - c).mean()), power, 0.0)
            Z_NP, y_N, w_N, before_N = _rows(shape, X_RD, L_RI)
            fold_N, error_K = np.tile(out_R, L_RI.shape[1]), np.zeros(len(RIDGES))
            for fold in range(FOLDS):
                out_N = fold_N == fold
                b_KP = _ridge(Z_NP[~out_N], y_N[~out_N], w_N[~out_N], RIDGES, L_RI.shape[1])
                u_NK = np.maximum(before_N[out_N, None] + Z_NP[out_N] @ b_KP.T, FREE)
                L_NK = c + shape.size * u_NK ** (-1 / power)
                error_K += ((np.log(L_NK) - np.log(L_RI.T.ravel()[out_N, None])) ** 2).sum(axis=0)
            if error_K.min() < best[0]:
                best = float(error_K.min()), replace(shape, ridge=float(RIDGES[error_K.argmin()]))
    return best[1]


def _rows(shape: Shape, X_RD: FloatArray, L_RI: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Features [N, P], steps of u [N], their weights [N] and u before them [N]; the rows of an interval together."""
    runs, count = L_RI.shape
    u_RI = shape.learnt(L_RI)
    before_RI = np.hstack([np.zeros((runs, 1)), u_RI[:, :-1]])
    here_NI, X_ND = np.repeat(np.eye(count), runs, axis=0), np.tile(X_RD, (count, 1))
    Z_NP = np.hstack([here_NI, X_ND, (here_NI[:, :, None] * X_ND[:, None]).reshape(len(X_ND), -1)])
    weight_RI = (L_RI - shape.floor) / (shape.power * L_RI * u_RI)  # d log L / d u
    return Z_NP, (u_RI - before_RI).T.ravel(), weight_RI.T.ravel(), before_RI.T.ravel()


def _ridge(Z_NP: FloatArray, y_N: FloatArray, w_N: FloatArray, ridges_K: FloatArray, free: int) -> FloatArray:
    """Coefficients [K, P] of weighted rows, the first `free` of them not shrunk; strengths are parts of the mean square."""
    Zw_NP, yw_N = Z_NP * w_N[:, None], y_N * w_N
    gram_PP, xy_P = Zw_NP.T @ Zw_NP, Zw_NP.T @ yw_N
    shrunk_P = np.where(np.arange(len(gram_PP)) < free, FREE, gram_PP.diagonal()[free:].mean())
    left_KPP = gram_PP + ridges_K[:, None, None] * np.diag(shrunk_P)
    return np.asarray(np.linalg.solve(left_KPP, np.broadcast_to(xy_P[:, None], (len(ridges_K), len(xy_P), 1)))[..., 0])
