"""How far a policy's own idea of training is from training: the unified framework of online mixing, as numbers.

Methods that adapt differ in one matrix A of the linear dynamic law, and in how they come by it:

    L_i(t + 1) = L_i(t) - sum_j A_ij p_j        A_ij: nats by which domain i falls in a probe trained on domain j

Probes that branch off a method's own trajectory give A* (`transition`); how alike the sums of the columns of A and A*
are, which is all that exponentiated steps use of them, is its fidelity (`similarity`). Two fits say whether such laws
hold on these data at all: of the static law L_i(p) = c_i + b_i exp(-sum_j A_ij p_j) to the ends of runs (`static_fit`),
and of A* to what the policy itself went through next (`forecast`).

Shapes: D domains (evaluated in rows, trained in columns), R runs, M metrics, N stretches of training.

Source: Aioli and LMO, arXiv:2411.05735; cosine, Spearman and the two domains as its reference code's `compute_metric`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mixopt.errors import JobError, SwarmError
from mixopt.laws.loglinear import LogLinear
from mixopt.mixture import FloatArray
from mixopt.policies.aioli import learn
from mixopt.quality import out_of_fold, r2, spearman

SINGULAR = 1e-6


def similarity(A_DD: FloatArray, star_DD: FloatArray) -> float | None:
    """Half the cosine and half Spearman's correlation of the column sums of A and A*: from -1 to 1.

    None where either side's sums are all equal: they prefer no domain, and there is no order to compare. Units cancel.
    """
    a_D, star_D = column_sums(A_DD), column_sums(star_DD)
    ranks = spearman(a_D, star_D)
    if ranks is None:
        return None
    return float(a_D @ star_D / np.linalg.norm(a_D) / np.linalg.norm(star_D) + ranks) / 2


def column_sums(A_DD: FloatArray) -> FloatArray:
    """What each trained domain does for all evaluated ones [D].

    Of two domains p_2 is 1 - p_1, so that a row says only how its columns differ: A becomes diag(A11 - A12, A22 - A21).
    """
    if len(A_DD) == 2:
        return np.array([A_DD[0, 0] - A_DD[0, 1], A_DD[1, 1] - A_DD[1, 0]])
    return np.asarray(A_DD.sum(axis=0), dtype=float)


def transition(drops_DD: FloatArray, weight: float) -> FloatArray:
    """A* [D, D] in nats per probe, from signal "drops": solves W a_i = drops_i for each evaluated domain i.

    Row j of W is the mixture of probe j: `weight` h on j, the rest shared evenly. Noise grows with (D - 1) / (h D - 1).
    Raises JobError for h = 1 / D, where all probes are the same one.
    """
    check_weight(weight, len(drops_DD))
    return learn(drops_DD, weight)


def check_weight(weight: float, domains: int) -> None:
    """Raise JobError for probes of so many domains that cannot be told apart, or are no mixtures."""
    if not 0 <= weight <= 1 or domains < 2 or abs(weight * domains - 1) < SINGULAR:
        raise JobError(
            f"probes: weight {weight:g} does not tell {domains} domains apart (allowed: 0 to 1, but not 1/{domains}, "
            "with two domains or more). Use 0.75."
        )


def forecast(A_DD: FloatArray, p_ND: FloatArray, lengths_N: FloatArray) -> FloatArray:
    """Drops [N, D] of held-out losses that the linear dynamic law expects of mixtures p, trained for so many probes' tokens."""
    return np.asarray(lengths_N[:, None] * (p_ND @ A_DD.T))


@dataclass(frozen=True)
class StaticFit:
    """R^2 of the log-linear law, meaned over metrics: on the runs it was fitted to, as the paper reports, and on others."""

    in_sample: float | None
    out_of_fold: float | None


def static_fit(X_RD: FloatArray, Y_RM: FloatArray) -> StaticFit:
    """The fit to the final losses of runs on fixed mixtures. Raises SwarmError for too few runs to leave some out."""
    law = LogLinear()
    if len(X_RD) <= (needed := law.min_runs(X_RD.shape[1])):
        raise SwarmError(
            f"{len(X_RD)} good runs on fixed mixtures; the log-linear law needs {needed + 1} to be measured."
        )
    left_out_RM = out_of_fold(law, X_RD, Y_RM)
    return StaticFit(_mean_r2(Y_RM, law.fit(X_RD, Y_RM).predict(X_RD)), _mean_r2(Y_RM, left_out_RM))


def _mean_r2(Y_RM: FloatArray, P_RM: FloatArray) -> float | None:
    fits = [fit for y_R, p_R in zip(Y_RM.T, P_RM.T, strict=True) if (fit := r2(y_R, p_R)) is not None]
    return float(np.mean(fits)) if fits else None
