"""RegMix-D's transition, learned from the checkpoints of a swarm of static runs, for each metric by itself.

    L = c + d u^-k,    u_i(q) = b_i + a_i sum_j w_j (q_j + eps_j)^g_j    after interval i of a run on the mixture q

Where a run ends a is 1 and this is the effective-data law of `mixopt.laws.effdata`, fitted to the last losses. The
checkpoints before say a_i and b_i, and nothing else:

    min over log a_i, log b_i of  sum_r ((L_i(q_r) - L_ri) / sd_i)^2 + PULL^2 (log^2 (a_i / end_i) + log^2 (b_i / b_I))

Shapes: R runs, D domains, I intervals, M metrics.

Source: ours, for RegMix-D (arXiv:2606.18663), whose transition is made of trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from mixopt.errors import SwarmError
from mixopt.laws.effdata import EffData
from mixopt.laws.effective import EACH, HEAD
from mixopt.mixture import FloatArray
from mixopt.policies.regmixd import RECENT, Transition
from mixopt.policy import tuples

PULL = 0.1
FEWEST = 9


def fit(
    names: Sequence[str],
    metrics: Sequence[str],
    ends: Sequence[float],
    X_RD: FloatArray,
    L_RIM: FloatArray,
    recent: float = RECENT,
) -> Transition:
    """Learn from mixtures [R, D] and the losses [R, I, M] at the end of each interval. Raises SwarmError for too few."""
    refuse_too_few(*X_RD.shape)
    law = at_the_end(names, metrics).fit(X_RD, L_RIM[:, -1])
    head_SM = law.theta_[:, : len(HEAD)].T
    log_w_MD, logit_MD, log_eps_MD = np.split(law.theta_[:, len(HEAD) :], len(EACH), axis=1)
    ones_MI = np.ones((len(metrics), len(ends)))
    end = Transition(
        tuple(names),
        tuple(metrics),
        tuple(ends),
        recent,
        floor=_plain(law.centre_ + law.scale_ * head_SM[1]),
        size=_plain(law.scale_ * np.exp(head_SM[0])),
        power=_plain(np.exp(head_SM[3])),
        worth=_plain(np.exp(log_w_MD)),
        bend=_plain(1 / (1 + np.exp(-logit_MD))),
        least=_plain(np.exp(log_eps_MD[0])),
        grown=_plain(ones_MI),
        rest=_plain(np.exp(head_SM[2])[:, None] * ones_MI),
    )
    return _with_checkpoints(end, X_RD, L_RIM)


def at_the_end(names: Sequence[str], metrics: Sequence[str]) -> EffData:
    """The law of the losses of these domains where a run ends."""
    return EffData(own=[names.index(metric) for metric in metrics])


def refuse_too_few(runs: int, domains: int) -> None:
    """Raise SwarmError for fewer runs than domains, or than eight and one to leave out."""
    if runs < (needed := max(FEWEST, domains)):
        raise SwarmError(
            f"regmixd: {runs} good runs are too few for {domains} domains (needs at least {needed}). "
            "More runs (proxies.count) would do."
        )


def _with_checkpoints(end: Transition, X_RD: FloatArray, L_RIM: FloatArray) -> Transition:
    """The transition with a and b of the intervals before the last."""
    h_RM, grown_MI, rest_MI = end.effective(X_RD), np.array(end.grown), np.array(end.rest)
    for i, part in enumerate(end.ends[:-1]):
        for m, curve in enumerate(zip(end.floor, end.size, end.power, strict=True)):
            a, b = _level(curve, h_RM[:, m], L_RIM[:, i, m], (part, rest_MI[m, -1]))
            grown_MI[m, i], rest_MI[m, i] = a, b
    return replace(end, grown=_plain(grown_MI), rest=_plain(rest_MI))


def _level(
    curve: tuple[float, float, float], h_R: FloatArray, L_R: FloatArray, around: tuple[float, float]
) -> tuple[float, float]:
    """The a and b by which c + d (b + a h)^-k is nearest to these losses, pulled towards others."""
    (c, d, k), centre_2 = curve, np.array(around)
    spread = max(float(L_R.std()), 1e-6 * float(np.abs(L_R).mean()))

    def off(v_2: FloatArray) -> FloatArray:
        a, b = centre_2 * np.exp(v_2)
        return np.append((c + d * (b + a * h_R) ** -k - L_R) / spread, PULL * v_2)

    a, b = centre_2 * np.exp(least_squares(off, np.zeros(2)).x)
    return float(a), float(b)


def _plain(values: FloatArray) -> Any:
    """Nested tuples of floats."""
    return tuples(values.tolist())
