"""The laws that the runs leave plausible beside the fitted one, and how noisy one run is.

The runs are drawn again with replacement and a copy of the law is fitted to each such swarm (the bootstrap): what the
copies disagree on is what the runs leave open, errors that metrics share included. Only a law that is not convex and
knows its posterior is asked for draws from it instead: it takes seconds to fit, and its draws treat metrics as independent.
Runs of equal mixtures (other seeds) are drawn together: they share what the law gets wrong about their mixture, so
that each of them alone says less than a run of a mixture of its own.

How many laws: a count of fits, never the clock, so that equal runs give equal answers.

Shapes: R runs, D domains, M metrics, C distinct mixtures.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 7.3 (pairs, not residuals) and 8.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from mixopt.errors import SwarmError
from mixopt.laws.base import ConvexLaw, Law, PosteriorLaw
from mixopt.mixture import FloatArray

MANY, FEW = 39, 24
LEAST = 19  # with fewer draws the ends of a 90 % interval are not inside of them
TRIES = 2  # fits for each law wanted, where some swarms drawn are refused


@dataclass(frozen=True)
class Noise:
    """Standard deviation of the metrics [M] and of the objective between runs of one mixture, and how it is known.

    `source` is "replicates" (runs of equal mixtures, `runs` of them) or "law" (what the law leaves unexplained).
    """

    metrics_M: FloatArray
    objective: float
    source: str
    runs: int


def draws(law: Law) -> int:
    """How many plausible laws are worth their time: each takes a fit and the search for its optimum.

    Convex laws are fitted and minimised in a fraction of a second, others take seconds for each.
    """
    return MANY if isinstance(law, ConvexLaw) else FEW


def drawn(law: Law) -> TypeGuard[PosteriorLaw]:
    """Whether plausible laws are draws from this one's posterior, not fits to runs drawn again."""
    return isinstance(law, PosteriorLaw) and not isinstance(law, ConvexLaw)


def plausible(
    law: Law, X_RD: FloatArray, Y_RM: FloatArray, rng: np.random.Generator, count: int | None = None
) -> list[Law]:
    """Fitted laws that these runs leave plausible, `draws(law)` of them unless told; `law` is fitted to the runs.

    Raises SwarmError if too few of the swarms drawn can be fitted.
    """
    count = draws(law) if count is None else count
    if drawn(law):
        return law.draw(rng, count)
    cluster_R = np.unique(X_RD, axis=0, return_inverse=True)[1].reshape(-1)
    found: list[Law] = []
    refused = ""
    for _ in range(TRIES * count):
        if len(found) == count:
            break
        rows = resampled(cluster_R, law.min_runs(X_RD.shape[1]), rng)
        try:
            found.append(copy.deepcopy(law).fit(X_RD[rows], Y_RM[rows]))
        except SwarmError as e:
            refused = str(e)
    if len(found) < min(count, LEAST):
        raise SwarmError(
            f"uncertainty: of {TRIES * count} swarms drawn from these {len(X_RD)} runs {type(law).__name__} could learn "
            f"from {len(found)} (needs {min(count, LEAST)}). More runs (proxies.count) help. The last time: {refused}"
        )
    return found


def resampled(cluster_R: NDArray[np.intp], needed: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows drawn with replacement, whole clusters at a time, with at least `needed` distinct rows among them.

    As many clusters are drawn as there are. Where they hold too few distinct rows, clusters that are missing take the
    place of repeated ones.
    """
    clusters = int(cluster_R.max()) + 1
    drawn_C = rng.integers(0, clusters, clusters)
    size_C = np.bincount(cluster_R)
    times_C = np.bincount(drawn_C, minlength=clusters)
    for missing in rng.permutation(np.flatnonzero(times_C == 0)):
        if size_C[times_C > 0].sum() >= min(needed, len(cluster_R)):
            break
        times_C[times_C.argmax()] -= 1
        times_C[missing] = 1
    return np.repeat(np.arange(len(cluster_R)), times_C[cluster_R])


def noise(law: Law, X_RD: FloatArray, Y_RM: FloatArray, weights_M: FloatArray) -> Noise:
    """How much runs of one mixture differ: from such runs where there are any, else at most what the law leaves.

    Replicates give the pooled deviation; their seeds differ, so it is the noise of initialisation and order of data.
    The law's deviation at its own runs also holds what the law gets wrong, and is the larger for it.
    """
    both_RM = np.column_stack([Y_RM, Y_RM @ weights_M])
    _, cluster_R, size_C = np.unique(X_RD, axis=0, return_inverse=True, return_counts=True)
    cluster_R = cluster_R.reshape(-1)
    free = len(X_RD) - len(size_C)
    if free:
        sum_CM = np.zeros((len(size_C), both_RM.shape[1]))
        np.add.at(sum_CM, cluster_R, both_RM)
        left_RM = both_RM - (sum_CM / size_C[:, None])[cluster_R]
        sd_M = np.sqrt((left_RM**2).sum(axis=0) / free)
        return Noise(sd_M[:-1], float(sd_M[-1]), "replicates", int(size_C[size_C > 1].sum()))
    P_RM, std_RM = law.predict(X_RD, return_std=True)
    residual_RM, sd_M = Y_RM - P_RM, np.sqrt((std_RM**2).mean(axis=0))
    size_M = np.sqrt((residual_RM**2).mean(axis=0))
    scaled_RM = residual_RM * np.divide(sd_M, size_M, out=np.zeros_like(sd_M), where=size_M > 0)
    return Noise(sd_M, float(np.sqrt(np.mean((scaled_RM @ weights_M) ** 2))), "law", len(X_RD))
