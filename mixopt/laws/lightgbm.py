"""RegMix's law: gradient-boosted trees, one model for each metric.

    f_m(p) = sum of the trees' leaves, each tree fitted to what the ones before it left of y_m

From 256 runs on these are RegMix's settings, 530 trees of at most 31 leaves with 20 runs each, learning rate 0.01.
With 40 runs or fewer those settings return one constant for every mixture, and up to 255 they are less accurate than
300 trees of at most 4 leaves with 2 runs each, learning rate 0.05; proportions get no coarser bins than the runs have.
Trees cannot extrapolate: no mixture is predicted to be much better than the best run.

Equal runs give equal bits: one thread, a fixed seed, and domains and runs sorted by their values before the fit, so
that neither the order of a file nor the names of the domains can matter.

Shapes: R runs, N candidates, D domains, M metrics.

Source: RegMix (arXiv:2407.01492), reference notebook `regression.ipynb`, without its early stopping on the test runs;
530 trees is the mean of where that ends (333 to 651). The settings for few runs are ours, chosen on its swarm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mixopt.errors import SwarmError
from mixopt.laws.base import check_runs
from mixopt.mixture import FloatArray

MANY_RUNS = 256
MANY = {"num_iterations": 530, "learning_rate": 0.01}
FEW = {
    "num_iterations": 300,
    "learning_rate": 0.05,
    "num_leaves": 4,
    "min_data_in_leaf": 2,
    "min_data_in_bin": 1,
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

    Learned: boosters_, one for each metric.
    """

    seed: int = 42

    def min_runs(self, domains: int) -> int:
        """As many as domains, at least sixteen: with fewer the trees hardly split."""
        return max(16, domains)

    def fit(self, X_RD: FloatArray, Y: FloatArray) -> Self:
        """Learn from mixtures [R, D] and metrics [R] or [R, M].

        Raises SwarmError for runs that it cannot use, and for a metric in which the trees find nothing to split.
        """
        from lightgbm import Dataset, train  # here, so that importing the laws does not load it

        self.single_ = np.ndim(Y) == 1
        X_RD, Y_RM = check_runs(self, X_RD, Y)
        self.columns_ = np.lexsort(np.sort(X_RD, axis=0))
        X_RD = X_RD[:, self.columns_]
        rows_R = np.lexsort(np.hstack([Y_RM, X_RD]).T)
        X_RD, Y_RM = X_RD[rows_R], Y_RM[rows_R]

        params = EXACT | (MANY if len(X_RD) >= MANY_RUNS else FEW) | {"seed": self.seed}
        self.boosters_: list[Any] = [train(params, Dataset(X_RD, y_R)) for y_R in Y_RM.T]
        flat_M = np.ptp(self._predict(X_RD), axis=0) == 0
        if (flat_M & (np.ptp(Y_RM, axis=0) > 0)).any():
            raise SwarmError(
                f"LightGBM: predicts one constant for metrics {np.flatnonzero(flat_M).tolist()}, {len(X_RD)} runs. "
                "Raise proxies.count or choose another law."
            )
        return self

    def predict(self, X_ND: FloatArray) -> FloatArray:
        """Metrics [N] or [N, M], as in `fit`."""
        P_NM = self._predict(np.asarray(X_ND)[:, self.columns_])
        return P_NM[:, 0] if self.single_ else P_NM

    def _predict(self, X_ND: FloatArray) -> FloatArray:
        return np.column_stack([booster.predict(X_ND, num_threads=1) for booster in self.boosters_])
