"""CPU seconds that the exact proposer takes under caps, floors and a trust region, against scipy's solvers on the same program.

    OMP_NUM_THREADS=1 python benchmarks/proposers.py [--json] [--repeats 5]

Laws are drawn, not fitted, so that only the proposer is timed; every metric has a floor of zero, which only the prior is
sure to keep. A peer gets the same values and gradients and starts at the prior: cvxpy where it can be imported (log-linear
laws only), else scipy's SLSQP. `peer_gap` is by how much the peer's objective is above ours, as a part of it;
`peer_miss` its largest relative excess over a floor.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize

from mixopt.domains import Domain
from mixopt.laws.base import ConvexLaw
from mixopt.laws.effdata import EffData
from mixopt.laws.loglinear import LogLinear
from mixopt.limits import Trust
from mixopt.mixture import FloatArray, Mixture
from mixopt.proposers import Proposal, propose
from mixopt.proposers.exact import curves
from mixopt.runs import Objective
from mixopt.space import MixtureSpace

KL = 0.01
REACH = {17: 0.1, 200: 5.0}
PEER_DOMAINS = 17  # SLSQP's work grows with the cube of the domains, and each step asks for all floors


def loglinear(rng: np.random.Generator, domains: int, metrics: int) -> LogLinear:
    """A law whose metrics each fall with a few domains."""
    law = LogLinear()
    law.single_, law.log_c_ = False, np.log(rng.uniform(0.5, 1, metrics))
    law.t_ = -3 * rng.gamma(1.0, 1.0, (metrics, domains))
    return law


def effdata(rng: np.random.Generator, domains: int, metrics: int) -> EffData:
    """A law drawn from its own prior."""
    law = EffData()
    law.single_, law.centre_, law.scale_ = False, np.full(metrics, 3.0), np.full(metrics, 0.3)
    head = np.array([0.0, -1.5, -6.9, -1.75]) + 0.2 * rng.normal(size=(metrics, 4))
    worth, powers = -3.5 + 1.5 * rng.normal(size=(metrics, domains)), 0.43 + rng.normal(size=(metrics, domains))
    law.theta_ = np.hstack([head, worth, powers, np.tile(rng.normal(-7.6, 0.5, domains), (metrics, 1))])
    return law


def space(rng: np.random.Generator, domains: int) -> MixtureSpace:
    """Epoch caps at three times the prior, and a trust region."""
    names = [f"d{j:03}" for j in range(domains)]
    prior_D = np.maximum(rng.dirichlet(np.ones(domains)), 1e-4)
    tokens_D = np.maximum(prior_D / prior_D.sum() * 1e9, 1)
    parts = tuple(Domain(name, int(tokens)) for name, tokens in zip(names, tokens_D, strict=True))
    return MixtureSpace(parts, int(4e9 / 3), 4.0, trust=Trust(kl=0.3))


def slsqp(law: ConvexLaw, objective: Objective, where: MixtureSpace, limits_C: FloatArray) -> FloatArray:
    """The mixture that SLSQP ends at."""
    convex = curves(law, objective)
    whole, guarded = convex
    prior_D = where.prior_D

    def pulled(p_D: FloatArray) -> tuple[float, FloatArray]:
        odds_D = np.log(np.maximum(p_D, 1e-12) / prior_D)
        value, slope_D, _ = whole(np.maximum(p_D, 0))
        return value + KL * float(p_D @ odds_D), slope_D + KL * (odds_D + 1)

    def room(p_D: FloatArray) -> FloatArray:
        p_D = np.maximum(p_D, 1e-12)
        kl = float(p_D @ np.log(p_D / prior_D))
        return np.append(limits_C - law.predict(p_D[None])[0], where.trust.kl - kl)

    def slopes(p_D: FloatArray) -> FloatArray:
        p_D = np.maximum(p_D, 1e-12)
        return -np.vstack([*(curve(p_D)[1] for curve in guarded), np.log(p_D / prior_D) + 1])

    found = minimize(
        pulled,
        prior_D,
        jac=True,
        method="SLSQP",
        bounds=[(0, float(high)) for high in where.upper_D],
        constraints=[
            {"type": "eq", "fun": lambda p_D: p_D.sum() - 1, "jac": lambda p_D: np.ones(len(p_D))},
            {"type": "ineq", "fun": room, "jac": slopes},
        ],
        options={"maxiter": 500, "ftol": 1e-10},
    )
    return np.asarray(found.x)


def cvxpy(law: LogLinear, where: MixtureSpace, limits_C: FloatArray) -> FloatArray:
    """The mixture of cvxpy's default solver for a log-linear law."""
    import cvxpy as cp

    p, prior_D = cp.Variable(len(where.names), nonneg=True), where.prior_D
    metrics = np.exp(law.log_c_) + cp.exp(law.t_ @ p)
    pull = cp.sum(cp.kl_div(p, prior_D))
    asked = [cp.sum(p) == 1, p <= where.upper_D, metrics <= limits_C, pull <= where.trust.kl]
    cp.Problem(cp.Minimize(cp.sum(metrics) / len(limits_C) + KL * pull), asked).solve()
    return np.asarray(p.value)


def timed(what: Callable[[], object], repeats: int) -> float:
    """The median of CPU seconds."""
    seconds = []
    for _ in range(repeats):
        began = time.process_time()
        what()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def row(name: str, make: Callable[..., ConvexLaw], size: tuple[int, int], repeats: int) -> dict[str, object]:
    """Ours and the peer's seconds on one drawn law."""
    domains, metrics = size
    rng = np.random.default_rng([domains, metrics])
    law, where = make(rng, domains, metrics), space(rng, domains)
    names = [f"m{m:02}" for m in range(metrics)]
    objective = Objective(dict.fromkeys(names, 1.0), dict.fromkeys(names, 0.0))
    found: list[Proposal] = []

    def ours() -> None:
        fresh = MixtureSpace(where.domains, where.target_tokens, where.max_epochs, trust=where.trust)
        found.append(propose(law, objective, fresh, rng, KL))

    line: dict[str, object] = {"what": f"{name}, {domains} domains, {metrics} metrics with floors"}
    line |= {"seconds": (seconds := timed(ours, repeats)), "reach": REACH[domains], "ok": seconds <= REACH[domains]}
    line |= {"binding": sum(floor.predicted > floor.limit * (1 - 1e-5) for floor in found[0].floors)}
    line |= {"violations": where.violations(Mixture.from_array(where.names, found[0].p_D)), "peer": None}
    limits_C = np.array([floor.limit for floor in found[0].floors])
    has_cvxpy = importlib.util.find_spec("cvxpy") is not None and isinstance(law, LogLinear)
    if not has_cvxpy and domains > PEER_DOMAINS:
        return line
    solved = [prior_D := where.prior_D]

    def peer() -> None:
        solved.append(cvxpy(law, where, limits_C) if has_cvxpy else slsqp(law, objective, where, limits_C))

    line |= {"peer": "cvxpy" if has_cvxpy else "SLSQP", "peer_seconds": timed(peer, max(1, repeats // 2))}
    values = [
        float(objective.weights_M @ law.predict(p_D[None])[0])
        + KL * float(p_D @ np.log(np.maximum(p_D, 1e-300) / prior_D))
        for p_D in (np.maximum(solved[-1], 0), found[0].p_D)
    ]
    excess_C = (law.predict(np.maximum(solved[-1], 0)[None])[0] - limits_C) / limits_C
    return line | {"peer_gap": (values[0] - values[1]) / values[1], "peer_miss": float(excess_C.max())}


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    rows = [
        row(name, make, size, given.repeats)
        for size in ((17, 13), (200, 60))
        for name, make in (("loglinear", loglinear), ("effdata", effdata))
    ]
    if given.json:
        print(json.dumps({"rows": rows}))
        return
    for line in rows:
        print(
            ", ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items()
            )
        )


if __name__ == "__main__":
    main()
