"""What a law is: a regressor from mixtures to metrics; the checks at its door, and what laws share about uncertainty.

Shapes: R runs, N candidates, D domains, M metrics, P parameters of one metric. Y is [R] for one metric or [R, M];
predictions follow it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import SwarmError
from mixopt.mixture import SUM_TOLERANCE, FloatArray

Curve = Callable[[FloatArray], tuple[float, FloatArray, FloatArray]]
"""A convex objective: p_D -> (value, gradient_D, hessian_DD)."""

Jacobian = Callable[[FloatArray], FloatArray]
"""Mixtures [N, D] -> derivatives [M, N, P] of each metric by its parameters; [1, N, P] if all metrics share them."""

BLOCK = 4096
SMALLEST_EIGENVALUE = 1e-12
SMALLEST_NOISE = 1e-9


class Law(Protocol):
    """A scikit-learn regressor: knobs in `__init__`, learned values end in `_`, `fit` forgets the last fit."""

    def min_runs(self, domains: int) -> int:
        """The fewest good runs that the law can learn from."""

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` the pair of these and their standard deviations.

        The latter have the same shape and are those of the metric that a new run would have: what the law does not
        know plus the noise of a run. They are scikit-learn's convention, and positive and finite everywhere.
        """


@runtime_checkable
class ConvexLaw(Law, Protocol):
    """A law whose objective can be minimised exactly."""

    def curve(self, weights_M: FloatArray) -> Curve:
        """The mean of the metrics weighted by [M], which sums to 1."""


@runtime_checkable
class SometimesConvexLaw(Law, Protocol):
    """A law whose objective can be minimised exactly if the runs happened to make it convex."""

    def exact(self, weights_M: FloatArray) -> Curve | None:
        """The mean of the metrics weighted by [M], which sums to 1; None where it is not convex on the simplex."""


@runtime_checkable
class SmoothLaw(Law, Protocol):
    """A law with derivatives."""

    def gradient(self, X_ND: FloatArray) -> FloatArray:
        """Derivatives [N, M, D] of each metric by each proportion, as if proportions had no sum to keep."""


@runtime_checkable
class PosteriorLaw(Law, Protocol):
    """A law that knows which others its runs leave plausible."""

    def draw(self, rng: np.random.Generator, count: int) -> list[Law]:
        """Fitted laws drawn from the posterior of this one, convex and smooth where it is; each predicts without noise."""


@runtime_checkable
class CrossValidatedLaw(Law, Protocol):
    """A law whose fit says what it would have predicted of each of its runs without it: [R, M], and deviations."""

    out_of_fold_: tuple[FloatArray, FloatArray]


@runtime_checkable
class OwnLaw(Law, Protocol):
    """A law that may be told each metric's own domain: the one its held-out text comes from; None where unknown."""

    own: Sequence[int | None] | None


@dataclass(frozen=True)
class Laplace:
    """A normal approximation of a fit's posterior: variance of the noise [M], and [M or 1, P, P] F with F F' H = 1."""

    noise_M: FloatArray
    factor_MPP: FloatArray

    @classmethod
    def of(cls, J_MRP: FloatArray, penalty_MPP: FloatArray, residual_RM: FloatArray, scale_M: FloatArray) -> Laplace:
        """From the derivatives at the runs, the Hessian of the penalties and the residuals of a penalised fit.

        H = J'J + penalty; noise = |residual|^2 / (R - tr(J H^-1 J')), which counts the parameters that the runs and
        not the penalties decide. `scale_M` is the size of the metrics, a billionth of which is the least noise.
        Source: MacKay 1992, "Bayesian interpolation", equations 4.9 and 4.10 (the effective number of parameters).
        """
        gram_MPP = J_MRP.transpose(0, 2, 1) @ J_MRP
        value_MP, vector_MPP = np.linalg.eigh(gram_MPP + penalty_MPP)
        floor_M1 = np.maximum(SMALLEST_EIGENVALUE * value_MP[:, -1:], np.finfo(float).tiny)
        factor_MPP = vector_MPP / np.sqrt(np.maximum(value_MP, floor_M1))[:, None, :]
        decided_M = np.square(J_MRP @ factor_MPP).sum(axis=(1, 2))
        free_M = np.maximum(len(residual_RM) - decided_M, 1.0)
        least_M = SMALLEST_NOISE * np.maximum(np.abs(scale_M), SMALLEST_NOISE)
        return cls(np.maximum((residual_RM**2).sum(axis=0) / free_M, least_M**2), factor_MPP)

    def draw(self, rng: np.random.Generator, count: int) -> FloatArray:
        """Departures [count, M, P] of the parameters from the fit."""
        z_SMP1 = rng.normal(size=(count, len(self.noise_M), self.factor_MPP.shape[2], 1))
        return np.asarray(np.sqrt(self.noise_M)[:, None] * (self.factor_MPP @ z_SMP1)[:, :, :, 0])

    @property
    def certain(self) -> Laplace:
        """The same noise around parameters that are known: what a law drawn from the posterior has."""
        return Laplace(self.noise_M, np.zeros_like(self.factor_MPP))

    def std(self, jacobian: Jacobian, X_ND: FloatArray) -> FloatArray:
        """Standard deviations [N, M] of new runs' metrics: noise * (1 + J H^-1 J'), the delta method."""
        blocks = [X_ND[start : start + BLOCK] for start in range(0, max(len(X_ND), 1), BLOCK)]
        unsure_NM = np.vstack([np.square(jacobian(X_BD) @ self.factor_MPP).sum(axis=2).T for X_BD in blocks])
        return np.sqrt(self.noise_M * (1 + unsure_NM))


def answer(single: bool, P_NM: FloatArray, std_NM: FloatArray | None = None) -> Any:
    """What `predict` returns, in the shape of the Y that was learned from."""
    if std_NM is None:
        return P_NM[:, 0] if single else P_NM
    return (P_NM[:, 0], std_NM[:, 0]) if single else (P_NM, std_NM)


def sorted_by_value(X_RD: FloatArray, Y_RM: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """An order of domains [D] and of runs [R] that depends on values alone: for fits to the same last bit."""
    columns_D = np.lexsort(np.sort(X_RD, axis=0))
    return columns_D, np.lexsort(np.hstack([Y_RM, X_RD[:, columns_D]]).T)


def check_own(law: OwnLaw, domains: int, metrics: int) -> list[int | None]:
    """Each metric's own domain, None where it is not known. Raises SwarmError if these are not those of the metrics."""
    own: list[int | None] = list(law.own) if law.own is not None else [None] * metrics
    if len(own) != metrics or not all(j is None or 0 <= j < domains for j in own):
        name = type(law).__name__
        raise SwarmError(f"{name}: own must be a domain or None for each of {metrics} metrics (got {own}).")
    return own


def check_runs(law: Law, X_RD: FloatArray, Y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mixtures [R, D] and the metrics as [R, M], fit to learn from.

    Raises SwarmError for too few runs, for a value that is not finite, and for rows that are not mixtures.
    """
    X_RD, Y_RM = np.asarray(X_RD, dtype=float), np.asarray(Y, dtype=float)
    Y_RM = Y_RM[:, None] if Y_RM.ndim == 1 else Y_RM
    name = type(law).__name__
    if X_RD.ndim != 2 or Y_RM.ndim != 2 or len(X_RD) != len(Y_RM):
        raise SwarmError(
            f"{name}: mixtures [R, D] and metrics [R] or [R, M] are needed (got shapes {X_RD.shape} and {np.shape(Y)})."
        )
    runs, domains = X_RD.shape
    if runs < (needed := law.min_runs(domains)):
        raise SwarmError(
            f"{name}: {runs} good runs are too few for {domains} domains (needs at least {needed}). "
            f"More runs (proxies.count) or a law that needs fewer would do."
        )
    for what, table in (("metric", Y_RM), ("proportion", X_RD)):
        rows = np.flatnonzero(~np.isfinite(table).all(axis=1))
        if len(rows):
            raise SwarmError(f"{name}: a {what} is not finite in {_some(rows)}. Leave those runs out or retry them.")
    rows = np.flatnonzero((X_RD < 0).any(axis=1) | (np.abs(X_RD.sum(axis=1) - 1) > SUM_TOLERANCE))
    if len(rows):
        raise SwarmError(
            f"{name}: proportions must be >= 0 and sum to 1 (got others in {_some(rows)}). Normalise them."
        )
    return X_RD, Y_RM


def check_mixtures(X_ND: FloatArray, domains: int) -> FloatArray:
    """The mixtures [N, D] as an array of numbers. Raises SwarmError for another shape, which numpy might stretch."""
    X_ND = np.asarray(X_ND, dtype=float)
    if X_ND.ndim != 2 or X_ND.shape[1] != domains:
        raise SwarmError(
            f"predict: mixtures [N, {domains}] are needed, one column for each domain that was learned from "
            f"(got shape {X_ND.shape}). One mixture is p_D[None]."
        )
    return X_ND


def _some(rows: NDArray[np.intp]) -> str:
    listed = ", ".join(str(row) for row in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {listed}{' and others' if len(rows) > 5 else ''}"
