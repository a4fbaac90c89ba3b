"""What a law is: a regressor from mixtures to metrics, and the checks at its door.

Shapes: R runs, N candidates, D domains, M metrics. Y is [R] for one metric or [R, M]; predictions follow it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import SwarmError
from mixopt.mixture import SUM_TOLERANCE, FloatArray

Curve = Callable[[FloatArray], tuple[float, FloatArray, FloatArray]]
"""A convex objective: p_D -> (value, gradient_D, hessian_DD)."""


class Law(Protocol):
    """A scikit-learn regressor: knobs in `__init__`, learned values end in `_`, `fit` forgets the last fit."""

    def min_runs(self, domains: int) -> int:
        """The fewest good runs that the law can learn from."""

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M]. Raises SwarmError for runs that it cannot use."""

    def predict(self, X_ND: FloatArray) -> FloatArray:
        """Metrics [N] or [N, M], as in `fit`."""


@runtime_checkable
class ConvexLaw(Law, Protocol):
    """A law whose objective can be minimised exactly."""

    def curve(self, weights_M: FloatArray) -> Curve:
        """The mean of the metrics weighted by [M], which sums to 1."""


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


def _some(rows: NDArray[np.intp]) -> str:
    listed = ", ".join(str(row) for row in rows[:5])
    return f"row{'s' if len(rows) > 1 else ''} {listed}{' and others' if len(rows) > 5 else ''}"
