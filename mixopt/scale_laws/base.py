"""What a scale law is: a regressor from mixture, model size and tokens to metrics; the checks at its door.

Parameters are those of the model without its embeddings, tokens those that a run was trained on, both as plain counts.
Sizes and tokens enter laws as logarithms of their ratio to the geometric mean of the runs, so no law depends on a unit.

Repetition enters in one place, `Runs.fresh`: what a law sees is the run without repetition that is worth as much.

Shapes: R runs, N new runs, D domains, M metrics. F are features [R, 2 + D]: log size, log tokens, proportions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.shapes import Fitted, Shape, fit_shape
from mixopt.mixture import SUM_TOLERANCE, FloatArray
from mixopt.repetition import SATURATION, fresh_equivalent

ROUNDS = 6


@dataclass(frozen=True)
class Runs:
    """What was trained or is to be: mixtures [R, D], parameters without embeddings [R], tokens [R].

    `available_D` are the different tokens that each domain has; None or infinity: text never repeats.
    """

    mixtures_RD: FloatArray
    parameters_R: FloatArray
    tokens_R: FloatArray
    available_D: FloatArray | None = None

    @classmethod
    def at(
        cls, mixtures_ND: FloatArray, parameters: float, tokens: float, available_D: FloatArray | None = None
    ) -> Runs:
        """Mixtures at one size and number of tokens."""
        ones_N = np.ones(len(mixtures_ND))
        return cls(mixtures_ND, parameters * ones_N, tokens * ones_N, available_D)

    def __len__(self) -> int:
        """How many runs."""
        return len(self.mixtures_RD)

    def take(self, rows: Any) -> Runs:
        """These rows of the runs: indices or a mask."""
        return Runs(self.mixtures_RD[rows], self.parameters_R[rows], self.tokens_R[rows], self.available_D)

    def independent(self) -> float:
        """Which part of the rows are different trainings: checkpoints of one mixture and size err together."""
        return len(np.unique(np.column_stack([self.mixtures_RD, self.parameters_R]), axis=0)) / len(self)

    def fresh(self, saturation: float = SATURATION) -> Runs:
        """The runs without repetition that are worth as much."""
        q_RD, tokens_R = fresh_equivalent(self.mixtures_RD, self.tokens_R, self.available_D, saturation)
        return Runs(q_RD, self.parameters_R, tokens_R)


class ScaleLaw(Protocol):
    """A regressor: knobs in `__init__`, learned values end in `_`, `fit` forgets the last fit."""

    scale_aware: ClassVar[bool]
    repetition_aware: ClassVar[bool]

    def min_runs(self, domains: int) -> int:
        """The fewest good runs that the law can learn from."""

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Learn from runs of two sizes or more and their metrics [R] or [R, M].

        Raises SwarmError for runs that it cannot use.
        """

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviations that a new run's have."""


@dataclass(frozen=True)
class AtScale:
    """A fitted scale law at one size and number of tokens: what predicts mixtures for those who ask of them alone."""

    law: ScaleLaw
    parameters: float
    tokens: float
    available_D: FloatArray | None = None

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """As `laws.base.Law`."""
        return self.law.predict(Runs.at(X_ND, self.parameters, self.tokens, self.available_D), return_std)


@dataclass(frozen=True)
class Units:
    """The geometric means of the parameters and the tokens that a law has learned from."""

    parameters: float
    tokens: float

    @classmethod
    def of(cls, runs: Runs) -> Units:
        """Those of these runs."""
        return cls(float(np.exp(np.log(runs.parameters_R).mean())), float(np.exp(np.log(runs.tokens_R).mean())))

    def features(self, runs: Runs) -> FloatArray:
        """[R, 2 + D]: log size and log tokens in these units, and the proportions."""
        log_N_R, log_D_R = np.log(runs.parameters_R / self.parameters), np.log(runs.tokens_R / self.tokens)
        return np.column_stack([log_N_R, log_D_R, runs.mixtures_RD])


@dataclass(frozen=True)
class ScaleFit:
    """A fitted form and the units of what it is asked."""

    units: Units
    fitted: Fitted
    single: bool

    @classmethod
    def of(cls, law: ScaleLaw, shape: Shape, starts_SP: FloatArray, runs: Runs, Y: FloatArray) -> ScaleFit:
        """Learn from runs; the priors of the shape are weighed against the noise that its residuals show."""
        fresh, Y_RM = check_runs(law, runs, Y)
        units = Units.of(fresh)
        fitted = fit_shape(shape, starts_SP, units.features(fresh), Y_RM, ROUNDS, runs.independent())
        return cls(units, fitted, np.ndim(Y) == 1)

    def predict(self, law: ScaleLaw, runs: Runs, return_std: bool) -> Any:
        """What `ScaleLaw.predict` returns."""
        F_NF = self.units.features(check_new(law, runs))
        return self.fitted.predict(F_NF, self.single, return_std)


def check_runs(law: ScaleLaw, runs: Runs, Y: FloatArray) -> tuple[Runs, FloatArray]:
    """The runs without repetition that are worth as much, and the metrics as [R, M].

    Raises SwarmError for too few runs or a single size, for values that are no numbers or not positive, and for rows that
    are not mixtures.
    """
    fresh, Y_RM, name = check_new(law, runs), np.asarray(Y, dtype=float), type(law).__name__
    Y_RM = Y_RM[:, None] if Y_RM.ndim == 1 else Y_RM
    if Y_RM.ndim != 2 or len(Y_RM) != len(runs):
        raise SwarmError(f"{name}: metrics must be [R] or [R, M] for {len(runs)} runs (got shape {np.shape(Y)}).")
    domains = runs.mixtures_RD.shape[1]
    if len(runs) < (needed := law.min_runs(domains)):
        raise SwarmError(
            f"{name}: {len(runs)} good runs are too few for {domains} domains (needs at least {needed}). "
            f"More runs would do."
        )
    if len(sizes := np.unique(runs.parameters_R)) < 2:
        raise SwarmError(
            f"{name}: a law over sizes needs runs of two sizes or more (got {sizes[0]:.6g} parameters alone). "
            f"Train some at another size, or use a law of mixtures alone."
        )
    _refuse(name, "a metric is not finite", ~np.isfinite(Y_RM).all(axis=1))
    return fresh, Y_RM


def check_new(law: ScaleLaw, runs: Runs) -> Runs:
    """The runs without repetition that are worth as much. Raises SwarmError for shapes and values that are no runs."""
    name = type(law).__name__
    X_RD, N_R, T_R = (np.asarray(a, dtype=float) for a in (runs.mixtures_RD, runs.parameters_R, runs.tokens_R))
    if X_RD.ndim != 2 or not N_R.shape == T_R.shape == X_RD.shape[:1]:
        raise SwarmError(
            f"{name}: mixtures [R, D], parameters [R] and tokens [R] are needed "
            f"(got shapes {X_RD.shape}, {N_R.shape} and {T_R.shape})."
        )
    if runs.available_D is not None and np.shape(runs.available_D) != X_RD.shape[1:]:
        raise SwarmError(
            f"{name}: available tokens are needed for each of {X_RD.shape[1]} domains "
            f"(got shape {np.shape(runs.available_D)})."
        )
    _refuse(name, "the parameters must be finite and > 0", ~(np.isfinite(N_R) & (N_R > 0)))
    _refuse(name, "the tokens must be finite and > 0", ~(np.isfinite(T_R) & (T_R > 0)))
    _refuse(name, "a proportion is not finite", ~np.isfinite(X_RD).all(axis=1))
    wrong_R = (X_RD < 0).any(axis=1) | (np.abs(X_RD.sum(axis=1) - 1) > SUM_TOLERANCE)
    _refuse(name, "proportions must be >= 0 and sum to 1", wrong_R)
    return replace(runs, mixtures_RD=X_RD, parameters_R=N_R, tokens_R=T_R).fresh()


def _refuse(name: str, what: str, wrong_R: Any) -> None:
    """Raises SwarmError, naming the first of the rows that are wrong."""
    if len(rows := np.flatnonzero(wrong_R)):
        others = f" and {len(rows) - 1} others" if len(rows) > 1 else ""
        raise SwarmError(f"{name}: {what} (row {rows[0]}{others}). Correct those runs or leave them out.")
