"""How often the 90 % intervals of an answer's uncertainty hold the truth, on truths that are known.

    python benchmarks/uncertainty_coverage.py --law effdata --repeats 100
    python benchmarks/uncertainty_coverage.py --law effdata --runs 64 --swarm FOLDER

Every repeat draws a truth of this law's family over 8 domains and 4 metrics, 64 mixtures as a search draws them and
noise of a tenth of each metric's spread, fits the law, finds the best mixture under epoch caps, and measures its
uncertainty. `--truth` takes another family than the law's. Printed: the share of true values inside their intervals.

With RegMix's published swarm (`--swarm`) the law learns from the first training runs, and the gain is that of each test
run over the test run nearest to the mean mixture; a measured gain also has the noise of two runs, which is added to
the draws.

Shapes: R runs, N test runs, B draws, D domains, M metrics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mixopt import laws, plausible, uncertainty
from mixopt.domains import Domain
from mixopt.laws.base import ConvexLaw
from mixopt.laws.effdata import EffData
from mixopt.laws.loglinear import LogLinear
from mixopt.mixture import FloatArray
from mixopt.proposers import minimise
from mixopt.quality import own_domains
from mixopt.runs import Objective
from mixopt.space import MixtureSpace
from mixopt.tables import read_swarm

TOKENS = (400, 200, 120, 100, 80, 50, 30, 20)
METRICS = 4
PARTS = ("train", "test")
NOISE = 0.1
WAYS = {"up": uncertainty.STEP, "down": -uncertainty.STEP}


def truth(family: str, rng: np.random.Generator) -> ConvexLaw:
    """A law with parameters drawn at random; domain m is metric m's own."""
    domains, own_M = len(TOKENS), range(METRICS)
    if family == "loglinear":
        law = LogLinear()
        law.log_c_, law.t_ = np.zeros(METRICS), np.log(0.5) + rng.normal(0, 0.6, (METRICS, domains))
        law.t_[own_M, own_M] -= 1.5
    else:
        law = EffData()
        law.centre_, law.scale_ = np.zeros(METRICS), np.ones(METRICS)
        log_w_MD, gamma_MD = rng.normal(-3.0, 1.0, (METRICS, domains)), rng.uniform(0.4, 0.95, (METRICS, domains))
        log_w_MD[own_M, own_M] = 0
        height_M, alpha_M = rng.uniform(0.2, 0.5, METRICS), rng.uniform(0.1, 0.4, METRICS)
        head = [np.log(height_M), np.full(METRICS, 0.7), np.full(METRICS, np.log(1e-3)), np.log(alpha_M)]
        eps_MD = np.full((METRICS, domains), np.log(5e-4))
        law.theta_ = np.hstack([np.column_stack(head), log_w_MD, np.log(gamma_MD / (1 - gamma_MD)), eps_MD])
    law.single_ = False
    return law


def repeat(name: str, family: str, draws: int, seed: int) -> dict[str, float]:
    """Coverage of one answer's intervals, by what they are about."""
    rng = np.random.default_rng(seed)
    space = MixtureSpace(tuple(Domain(f"d{j}", tokens) for j, tokens in enumerate(TOKENS)), 1000, max_epochs=4.0)
    objective = Objective({f"bpb/d{m}": 1.0 for m in range(METRICS)})
    real, X_RD = truth(family, rng), space.dirichlet(64, rng)
    Y_RM = real.predict(X_RD)
    Y_RM = Y_RM + NOISE * Y_RM.std(axis=0) * rng.standard_normal(Y_RM.shape)
    law = laws.make_convex(name, range(METRICS)).fit(X_RD, Y_RM)

    def optimum(law: ConvexLaw) -> FloatArray:
        return minimise(law.curve(objective.weights_M), space)

    drawn = plausible.plausible(law, X_RD, Y_RM, rng, draws)
    answer = uncertainty.Answer.of(space, objective, law, optimum(law), drawn, optimum)
    found = uncertainty.measure(answer, rng)

    def value(p_D: FloatArray) -> float:
        return float(real.predict(p_D[None])[0] @ objective.weights_M)

    best_D, here = optimum(real), value(answer.p_D)
    gain = found["gain"]
    inside = {"gain": [gain["low"] <= value(answer.prior_D) - here <= gain["high"]], "effects": [], "proportions": []}
    for j, (domain, ways) in enumerate(found["effects"].items()):
        low, high = found["proportions"][domain]
        inside["proportions"].append(low - 1e-6 <= best_D[j] <= high + 1e-6)
        for way, step in WAYS.items():
            if (moved_D := uncertainty.cox(space, answer.p_D, j, step)) is not None:
                inside["effects"].append(ways[way]["low"] <= here - value(moved_D) <= ways[way]["high"])
    inside["regret"] = [here - value(best_D) <= found["regret"]["quantile"]]
    inside["region holds the true best"] = [
        low - 1e-6 <= p <= high + 1e-6
        for p, (low, high) in zip(best_D, found["region"]["ranges"].values(), strict=True)
    ]
    return {what: float(np.mean(held)) for what, held in inside.items()}


def published(folder: Path, name: str, runs: int, draws: int) -> dict[str, float]:
    """Coverage of the gains of held-out runs, with and without the noise of runs in the intervals."""
    train, test = (read_swarm(folder / f"{part}_mixture_1m.csv", folder / f"{part}_pile_loss_1m.csv") for part in PARTS)
    X_RD, Y_RM, weights_M = train.X_RD[:runs], train.Y_RM[:runs], np.full(len(train.metrics), 1 / len(train.metrics))
    rng = np.random.default_rng(0)
    law = laws.make(name, own_domains(train.names, train.metrics)).fit(X_RD, Y_RM)
    drawn = plausible.plausible(law, X_RD, Y_RM, rng, draws)
    near = int(np.abs(test.X_RD - train.X_RD.mean(axis=0)).sum(axis=1).argmin())
    value_BN = np.array([other.predict(test.X_RD) @ weights_M for other in drawn])
    gain_BN, measured_N = value_BN[:, [near]] - value_BN, (test.Y_RM[near] - test.Y_RM) @ weights_M
    noise = plausible.noise(law, X_RD, Y_RM, weights_M).objective
    noisy_BN = gain_BN + np.sqrt(2) * noise * rng.standard_normal(gain_BN.shape)
    others_N = np.arange(len(measured_N)) != near
    found = {}
    for what, values_BN in {"gain": gain_BN, "gain with noise": noisy_BN}.items():
        low_N, high_N = uncertainty.interval(values_BN)
        found[what] = float(((low_N <= measured_N) & (measured_N <= high_N))[others_N].mean())
        found[f"{what}, mean width"] = float((high_N - low_N)[others_N].mean())
    return found | {"spread of measured gains": float(measured_N.std()), "noise by the law": noise}


def main() -> None:
    """Print the mean coverage over the repeats, or that on a published swarm."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--law", choices=list(laws.LAWS), default="effdata")
    parser.add_argument("--swarm", type=Path)
    parser.add_argument("--runs", type=int, default=64)
    parser.add_argument("--truth", choices=("effdata", "loglinear"))
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--draws", type=int, default=plausible.MANY)
    asked = parser.parse_args()
    if asked.swarm:
        print(f"{asked.law}, {asked.runs} training runs, {asked.draws} draws")
        for what, held in published(asked.swarm, asked.law, asked.runs, asked.draws).items():
            print(f"{what}: {held:.3f}")
        return
    family = asked.truth or asked.law
    rows = [repeat(asked.law, family, asked.draws, seed) for seed in range(asked.repeats)]
    print(f"{asked.law} on truths of {family}, {asked.repeats} repeats, {asked.draws} draws")
    for what in rows[0]:
        print(f"{what}: {np.mean([row[what] for row in rows]):.3f}")


if __name__ == "__main__":
    main()
