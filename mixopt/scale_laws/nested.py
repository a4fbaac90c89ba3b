"""Data Mixing Laws, nested: a law of tokens inside a law of sizes inside a law of mixtures.

    1. step law     L(D) = c + k D^-alpha for each size and mixture, alpha that of all its metrics
    2. size law     L(N) = c + k N^-alpha of what the step laws say at the wanted tokens, alpha that of all mixtures
    3. mixture law  any of `mixopt.laws` of what the size law says at the wanted size; loglinear is the paper's

A law of mixtures is learned for each size and number of tokens that is asked for. A size that was trained needs no size
law, and tokens that were trained no step law. Extrapolating tokens needs three numbers of them for a mixture and size,
extrapolating sizes three sizes for a mixture; mixtures without are left out. Losses may not be negative.

Standard deviations add three variances: those of the step law at the largest size and of the size law, means over
mixtures, and that of the mixture law. How far the nested form itself is from the truth is not in them.

Shapes: R runs, N new runs, D domains, M metrics, C mixtures, K numbers of tokens or sizes.

Source: Data Mixing Laws (arXiv:2403.16952), algorithm and released pipeline; there Huber's loss and L-BFGS, step laws from
10k to 30k steps. Ours: least squares, standard deviations, a choice of mixture laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import SwarmError
from mixopt.laws import make
from mixopt.laws.base import answer
from mixopt.mixture import FloatArray
from mixopt.scale_laws.base import Runs, check_new, check_runs
from mixopt.scale_laws.power import fit_power

POINTS = 3
SAME = 1e-9
DECIMALS = 9


@dataclass
class Nested:
    """Step law, then size law, then a law of mixtures; for the same mixtures at three sizes and many checkpoints.

    `mixture` names the last law. Learned: runs_, Y_.
    """

    mixture: str = "loglinear"
    scale_aware: ClassVar[bool] = True
    repetition_aware: ClassVar[bool] = True

    def min_runs(self, domains: int) -> int:
        """Those of the law of mixtures, at two sizes."""
        return 2 * make(self.mixture).min_runs(domains)

    def fit(self, runs: Runs, Y: FloatArray) -> Self:
        """Keep the runs: what is learned depends on what is asked. Raises SwarmError for runs that it cannot use."""
        _, self.Y_ = check_runs(self, runs, Y)
        self.single_, self.runs_ = np.ndim(Y) == 1, runs
        if (self.Y_ < 0).any():
            raise SwarmError(f"Nested: losses must not be negative (got {self.Y_.min():.6g}). Drop that metric.")
        return self

    def predict(self, runs: Runs, return_std: bool = False) -> Any:
        """Metrics [N] or [N, M], as in `fit`; with `return_std` also the standard deviation of a new run's.

        Raises SwarmError for sizes and tokens that its runs do not reach with enough mixtures.
        """
        fresh = check_new(self, runs)
        P_NM, std_NM = np.empty((2, len(runs), self.Y_.shape[1]))
        scales_N2 = np.column_stack([runs.parameters_R, runs.tokens_R])
        for parameters, tokens in np.unique(scales_N2, axis=0):
            here_N = (scales_N2 == (parameters, tokens)).all(axis=1)
            X_CD, Y_CM, variance_M = self._at_scale(parameters, tokens, runs.available_D)
            law = make(self.mixture).fit(X_CD, Y_CM)
            P_NM[here_N], law_std_NM = law.predict(fresh.mixtures_RD[here_N], return_std=True)
            std_NM[here_N] = np.sqrt(law_std_NM**2 + variance_M)
        return answer(self.single_, P_NM, std_NM if return_std else None)

    def _at_scale(
        self, parameters: float, tokens: float, available_D: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mixtures [C, D], their metrics [C, M] at this size and these tokens, and the variance [M] of having gone there."""
        sizes_K = np.unique(self.runs_.parameters_R)
        same_K = np.abs(sizes_K / parameters - 1) < SAME
        sizes_K = sizes_K[same_K] if same_K.any() else sizes_K
        X_CD, Y_CKM, variance_CKM = self._at_tokens(sizes_K, tokens, available_D)
        seen_CK = np.isfinite(Y_CKM[:, :, 0])
        enough_C = seen_CK.sum(axis=1) >= (1 if same_K.any() else POINTS)
        self._check(int(enough_C.sum()), parameters, tokens)
        X_CD, Y_CKM, seen_CK, variance_CKM = (t[enough_C] for t in (X_CD, Y_CKM, seen_CK, variance_CKM))
        fresh = Runs.at(X_CD, parameters, tokens, available_D).fresh()
        last_C = seen_CK.shape[1] - 1 - seen_CK[:, ::-1].argmax(axis=1)
        step_M = variance_CKM[np.arange(len(last_C)), last_C].mean(axis=0)
        if same_K.any():
            return fresh.mixtures_RD, Y_CKM[:, 0], step_M
        x_CK = np.broadcast_to(sizes_K, seen_CK.shape)
        Y_CM, variance_CM = fit_power(x_CK, Y_CKM, seen_CK.astype(float), tied=True).at(np.full(len(X_CD), parameters))
        return fresh.mixtures_RD, Y_CM, step_M + variance_CM.mean(axis=0)

    def _at_tokens(
        self, sizes_K: FloatArray, tokens: float, available_D: FloatArray | None
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """All mixtures [C, D], and by step laws their metrics and variances [C, K, M] at these tokens; nan: not known."""
        X_CD, which_R = np.unique(np.round(self.runs_.mixtures_RD, DECIMALS), axis=0, return_inverse=True)
        wanted_C = Runs.at(X_CD, 1.0, tokens, available_D).fresh().tokens_R
        x_R, mixture_R = self.runs_.fresh().tokens_R, which_R.ravel()
        Y_CKM = np.full((len(X_CD), len(sizes_K), self.Y_.shape[1]), np.nan)
        variance_CKM, follow = np.zeros_like(Y_CKM), []
        for c, wanted in enumerate(wanted_C):
            for k, size in enumerate(sizes_K):
                rows = np.flatnonzero((mixture_R == c) & (self.runs_.parameters_R == size))
                there = rows[np.abs(x_R[rows] / wanted - 1) < SAME]
                if len(there):
                    Y_CKM[c, k] = self.Y_[there].mean(axis=0)
                elif len(np.unique(x_R[rows])) >= POINTS:
                    follow.append((c, k, rows))
        if follow:
            c_L, k_L = np.array([(c, k) for c, k, _ in follow]).T
            rows_LT, seen_LT = _padded([rows for _, _, rows in follow])
            laws = fit_power(x_R[rows_LT], self.Y_[rows_LT], seen_LT, tied=False)
            Y_CKM[c_L, k_L], variance_CKM[c_L, k_L] = laws.at(wanted_C[c_L])
        return X_CD, Y_CKM, variance_CKM

    def _check(self, mixtures: int, parameters: float, tokens: float) -> None:
        """Raises SwarmError for too few mixtures that laws of steps and sizes can take there."""
        needed = make(self.mixture).min_runs(self.runs_.mixtures_RD.shape[1])
        if mixtures < needed:
            raise SwarmError(
                f"Nested: {mixtures} mixtures can be followed to {parameters:.6g} parameters and {tokens:.6g} tokens (needs "
                f"at least {needed}: three numbers of tokens or those that are asked for, at three sizes or the one that is "
                f"asked for). Train more of them, or use additive or multiplicative."
            )


def _padded(rows_L: list[NDArray[np.intp]]) -> tuple[NDArray[np.intp], FloatArray]:
    """Lists of rows as one matrix [L, T], and 1 where there is one, 0 where a list was too short."""
    longest = max(len(rows) for rows in rows_L)
    filled_LT = np.stack([np.resize(rows, longest) for rows in rows_L])
    return filled_LT, (np.arange(longest) < np.array([[len(rows)] for rows in rows_L])).astype(float)
