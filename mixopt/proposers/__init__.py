"""From a law and a space to a mixture: exactly where the law is convex, by descent or simulation where it is not."""

from __future__ import annotations

import copy

import numpy as np

from mixopt.laws.base import Law, SmoothLaw
from mixopt.mixture import FloatArray
from mixopt.proposers.descent import descent, descent_near
from mixopt.proposers.exact import curves, exact, minimise
from mixopt.proposers.proposal import Cap, Floor, Proposal
from mixopt.proposers.simulation import CANDIDATES, KEEP, simulate, simulation
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

__all__ = [
    "COARSE",
    "Cap",
    "Floor",
    "Proposal",
    "best_runs",
    "minimise",
    "propose",
    "propose_near",
    "simulate",
    "simulation",
]


STARTS = 4
COARSE = 40  # one in so many candidates is simulated for each law that is only plausible


def best_runs(X_RD: FloatArray, objective_R: FloatArray) -> FloatArray:
    """The mixtures of the best runs: where a descent may start."""
    return X_RD[np.argsort(objective_R, kind="stable")[:STARTS]]


def propose(
    law: Law,
    objective: Objective,
    space: MixtureSpace,
    rng: np.random.Generator,
    kl: float = 0.0,
    starts_ND: FloatArray | None = None,
) -> Proposal:
    """The mixture with the lowest predicted objective plus kl * KL(p || prior) that is allowed and keeps all floors.

    Exact for what is convex, else by descent from several points (`starts_ND` among them) where the law has
    derivatives, else by simulation. Raises InfeasibleSpace, naming them, for floors that cannot be kept.
    """
    convex = curves(law, objective)
    if convex is not None:
        return exact(law, objective, convex, space, kl)
    if isinstance(law, SmoothLaw):
        return descent(law, objective, space, rng, kl, starts_ND)
    return simulation(law, objective, space, rng, kl)


def propose_near(
    p_D: FloatArray, law: Law, objective: Objective, space: MixtureSpace, rng: np.random.Generator, kl: float = 0.0
) -> FloatArray:
    """The mixture [D] that another law of the same kind would have given, where `propose` gave `p_D`.

    Cheaper: one rough descent from `p_D`, or one in COARSE of the candidates, equal ones at each call.
    """
    convex = curves(law, objective)
    if convex is not None:
        return exact(law, objective, convex, space, kl).p_D
    if isinstance(law, SmoothLaw):
        return descent_near(p_D, law, objective, space, kl).p_D
    again, (candidates, keep) = copy.deepcopy(rng), (CANDIDATES // COARSE, max(1, KEEP // COARSE))
    return simulation(law, objective, space, again, kl, candidates, keep).p_D
