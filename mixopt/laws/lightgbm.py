"""RegMix's law: gradient-boosted trees, one model for each metric.

    f_m(p) = sum of the trees' leaves, each tree fitted to what the ones before it left of y_m

From 256 runs on these are RegMix's settings, 530 trees of at most 31 leaves with 20 runs each, learning rate 0.01.
With 40 runs or fewer those settings return one constant for every mixture, and up to 255 they are less accurate than
300 trees of at most 4 leaves with 2 runs each, learning rate 0.05; proportions get no coarser bins than the runs have.
`settings="climb"` are CLIMB's for its rounds of 64 to 112 runs: depth 4, 5 runs a leaf, L1 and L2 penalties, and no
more trees once 20 have not helped on a fifth of the runs, which is held out from the trees.
Trees cannot extrapolate: no mixture is predicted to be much better than the best run.

Equal runs give equal bits: one thread, a fixed seed, and domains and runs sorted by their values before the fit, so
that neither the order of a file nor the names of the domains can matter. Metrics are learned in their own standard
deviations, so that neither their unit nor single precision does.

Shapes: R runs, N candidates, D domains, M metrics.

Source: RegMix (arXiv:2407.01492), reference notebook `regression.ipynb`, without its early stopping on the test runs;
530 trees is the mean of where that ends (333 to 651). The settings for few runs are ours, chosen on its swarm. CLIMB:
Nemotron-CLIMB (arXiv:2504.13161); UNVERIFIED: settings from secondary reading, which do not say how strong the
penalties are, how fast it learns and how much is held out; these are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import JobError, SwarmError
from mixopt.laws.base import SMALLEST_NOISE, answer, check_mixtures, check_runs, sorted_by_value
from mixopt.mixture import FloatArray

FOLDS = 5
FLAT = 1e-9
MANY_RUNS = 256
MANY = {"num_iterations": 530, "learning_rate": 0.01}
FEW = {
    "num_iterations": 300,
    "learning_rate": 0.05,
    "num_leaves": 4,
    "min_data_in_leaf": 2,
    "min_data_in_bin": 1,
}
CLIMB = {
    "num_iterations": 1000,
    "learning_rate": 0.05,
    "max_depth": 4,
    "num_leaves": 16,
    "min_data_in_leaf": 5,
    "min_data_in_bin": 1,
    "lambda_l1": 0.1,
    "lambda_l2": 0.1,
    "early_stopping_round": 20,
}
EXACT = {
    "objective": "regression",
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass
class LightGBM:
    """RegMix's boosted trees for each metric; any shape, no extrapolation.

    Learned: boosters_, one for each metric, centre_ [M], scale_ [M].
    """

    settings: Literal["regmix", "climb"] = "regmix"
    seed: int = 42

    def __post_init__(self) -> None:
        """Raises JobError for settings that do not exist."""
        if self.settings not in ("regmix", "climb"):
            raise JobError(f"LightGBM: settings must be regmix or climb (got {self.settings!r}).")

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least sixteen: with fewer the trees hardly split."""
        return max(16, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M].

        Raises SwarmError for runs that it cannot use, and for a metric in which the trees find nothing to split.
        """
        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        self.columns_, rows_R = sorted_by_value(X_RD, Y_RM)
        X_RD, Y_RM = X_RD[rows_R][:, self.columns_], Y_RM[rows_R]
        self.centre_ = Y_RM.mean(axis=0)
        self.scale_ = np.maximum(Y_RM.std(axis=0), FLAT * np.maximum(np.abs(self.centre_), FLAT))
        self.X_, self.Y_ = X_RD, (Y_RM - self.centre_) / self.scale_
        self.boosters_ = self._train(np.ones(len(X_RD), dtype=bool))
        self.spread_: tuple[list[list[Any]], FloatArray] | None = None
        flat_M = np.ptp(_values(self.boosters_, X_RD), axis=0) == 0
        if (flat_M & (np.ptp(Y_RM, axis=0) > 0)).any():
            raise SwarmError(
                f"LightGBM: predicts one constant for metrics {np.flatnonzero(flat_M).tolist()}, {len(X_RD)} runs. "
                "Raise proxies.count or choose another law."
            )
        return self

    def predict(self, X_ND: FloatArray, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`.

        With `return_std` also standard deviations: the first call after a fit costs FOLDS more fits, and every call
        FOLDS more predictions.
        """
        X_ND = check_mixtures(X_ND, len(self.columns_))[:, self.columns_]
        P_NM = self.centre_ + self.scale_ * _values(self.boosters_, X_ND)
        return answer(self.single_, P_NM, self.scale_ * self._std(X_ND) if return_std else None)

    def _train(self, kept_R: NDArray[np.bool_]) -> list[Any]:
        """Trees for each metric, from the runs kept, with the settings for as many runs as there are."""
        from lightgbm import Dataset, train  # here, so that importing the laws does not load it

        params, learned_R, held_R = EXACT | {"seed": self.seed}, np.flatnonzero(kept_R), None
        if self.settings == "climb":
            params |= CLIMB
            held_R, learned_R = learned_R[FOLDS - 1 :: FOLDS], np.delete(learned_R, slice(FOLDS - 1, None, FOLDS))
        else:
            params |= MANY if len(self.X_) >= MANY_RUNS else FEW
        boosters = []
        for y_R in self.Y_.T:
            data = Dataset(self.X_[learned_R], y_R[learned_R])
            stop = None if held_R is None else [Dataset(self.X_[held_R], y_R[held_R], reference=data)]
            boosters.append(train(params, data, valid_sets=stop))
        return boosters

    def _std(self, X_ND: FloatArray) -> FloatArray:
        """Standard deviations [N, M], as metrics were learned: noise and delete-a-group jackknife over FOLDS groups.

        The noise is what is left of the mean square of the out-of-fold errors, at least half of it.
        Source: the jackknife's variance, Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 11.
        """
        if self.spread_ is None:
            fold_R = np.arange(len(self.X_)) % FOLDS
            folds = [self._train(fold_R != fold) for fold in range(FOLDS)]
            values_FRM = np.array([_values(boosters, self.X_) for boosters in folds])
            error_M = np.square(self.Y_ - values_FRM[fold_R, np.arange(len(self.X_))]).mean(axis=0)
            noise_M = np.maximum(error_M - _jackknife(values_FRM).mean(axis=0), error_M / 2)
            self.spread_ = folds, np.maximum(noise_M, SMALLEST_NOISE**2)
        folds, noise_M = self.spread_
        return np.sqrt(noise_M + _jackknife(np.array([_values(boosters, X_ND) for boosters in folds])))


def _values(boosters: Sequence[Any], X_ND: FloatArray) -> FloatArray:
    return np.column_stack([booster.predict(X_ND, num_threads=1) for booster in boosters])


def _jackknife(values_FNM: FloatArray) -> FloatArray:
    """Variances [N, M] of what was learned from all runs, from values with one group of runs left out at a time."""
    return (FOLDS - 1) * values_FNM.var(axis=0)
