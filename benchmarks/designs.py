"""How many runs each experimental design needs to reach the same held-out error, on generated truths.

    python benchmarks/designs.py [--seeds 8] [--json]

Three kinds of truth over 6 and 12 domains, one metric for each domain: effective data (random weights, returns and
exponents, drawn wider than the law's prior), log-linear, and sums of exponentials (a hidden mixture of three domains).
Each metric has noise of 3 % of its standard deviation over the test mixtures. A law is fitted to the first n mixtures
of a design; its error is the root mean square error of the mean metric over 400 allowed mixtures around the prior,
in units of that metric's standard deviation, and its regret is what the law's optimum loses against the truth's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np

from mixopt import designs, laws
from mixopt.domains import Domain
from mixopt.proposers import minimise
from mixopt.space import MixtureSpace

Truth = Callable[[np.ndarray], np.ndarray]
SIZES, NOISE, PLACES, TOLD = (12, 16, 24, 32, 48, 64, 96), 0.03, 400, 32


def effective(domains: int, rng: np.random.Generator) -> Truth:
    """Effective data: (e + sum_j w_mj (p_j + eps)^gamma_mj)^-alpha."""
    w_MD = np.exp(rng.normal(-3.5, 1.8, (domains, domains)))
    w_MD[range(domains), range(domains)] = 1
    gamma_MD = 1 / (1 + np.exp(-rng.normal(0.4, 1.5, (domains, domains))))
    alpha_M, e_M = np.exp(rng.normal(-1.75, 0.4, domains)), np.exp(rng.normal(-6, 1, domains))

    def value(p_ND: np.ndarray) -> np.ndarray:
        worth_NMD = w_MD * (p_ND[:, None] + 5e-4) ** gamma_MD
        return np.asarray((e_M + worth_NMD.sum(axis=2)) ** -alpha_M)

    return value


def loglinear(domains: int, rng: np.random.Generator) -> Truth:
    """Log-linear: 1 + exp(t p)."""
    t_MD = rng.normal(0, 0.7, (domains, domains)) - 1.5 * np.eye(domains)
    return lambda p_ND: 1 + np.exp(p_ND @ t_MD.T)


def hidden(domains: int, rng: np.random.Generator) -> Truth:
    """Hidden parts: sum_k s_mk exp(t_mk p) over three of them."""
    share_MK = rng.dirichlet(np.ones(3), domains)
    t_MKD = rng.normal(0, 1.0, (domains, 3, domains)) - 2 * np.eye(domains)[:, None]
    return lambda p_ND: np.einsum("mk,nmk->nm", share_MK, np.exp(np.einsum("mkd,nd->nmk", t_MKD, p_ND)))


TRUTHS = {"effective data": effective, "log-linear": loglinear, "hidden parts": hidden}


def one(kind: str, domains: int, law: str, seed: int) -> dict[str, list[tuple[float, float]]]:
    """Error and regret by design at each of SIZES; infinite where these are too few for the law."""
    rng = np.random.default_rng([seed, domains, len(kind)])
    tokens = (1e6 * np.exp(rng.normal(0, 1.2, domains))).astype(int)
    space = MixtureSpace(tuple(Domain(f"d{i:02}", int(t)) for i, t in enumerate(tokens)), int(tokens.sum()), 4.0)
    truth = TRUTHS[kind](domains, rng)
    test_ND = space.project(space.dirichlet(PLACES, rng))
    truth_NM = truth(test_ND)
    scale_M, scale = truth_NM.std(axis=0), truth_NM.mean(axis=1).std()
    found = {}
    for name in designs.DESIGNS:
        w_ND = designs.draw(name, space, max(SIZES), np.random.default_rng([seed, 1]), law)
        noise_NM = NOISE * scale_M * np.random.default_rng([seed, 2]).standard_normal((len(w_ND), domains))
        Y_NM, rows = truth(w_ND) + noise_NM, []
        for n in SIZES:
            fitted = laws.make(law, list(range(domains)))
            if n < fitted.min_runs(domains):
                rows.append((float("inf"), float("inf")))
                continue
            fitted.fit(w_ND[:n], Y_NM[:n])
            error = np.sqrt(np.mean((fitted.predict(test_ND) - truth_NM).mean(axis=1) ** 2)) / scale
            p_D = minimise(fitted.curve(np.full(domains, 1 / domains)), space)
            rows.append((float(error), float(truth(p_D[None]).mean() / scale)))
        found[name] = rows
    best = min(value for rows in found.values() for _, value in rows)
    return {name: [(error, value - best) for error, value in rows] for name, rows in found.items()}


def runs_needed(errors: np.ndarray, wanted: float) -> float:
    """Runs at which the curve of errors crosses what is wanted, between sizes by logarithms; infinite beyond the last."""
    errors = np.minimum.accumulate(errors)
    if errors[-1] > wanted:
        return float("inf")
    k = int(np.argmax(errors <= wanted))
    if k == 0 or np.isinf(errors[k - 1]):
        return float(SIZES[k])
    part = np.log(errors[k - 1] / wanted) / np.log(errors[k - 1] / errors[k])
    return float(np.exp(np.log(SIZES[k - 1]) + part * np.log(SIZES[k] / SIZES[k - 1])))


def main() -> None:
    """A line for each case and design: runs needed to be as good as `dirichlet` is with TOLD runs, error and regret."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--laws", nargs="+", default=["effdata", "linear"])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for law in options.laws:
        for kind in TRUTHS:
            for domains in (6, 12):
                cases = [one(kind, domains, law, seed) for seed in range(options.seeds)]
                mean = {name: np.mean([case[name] for case in cases], axis=0) for name in designs.DESIGNS}
                wanted = float(mean["dirichlet"][SIZES.index(TOLD), 0])
                for name, curve in mean.items():
                    needed = runs_needed(curve[:, 0], wanted)
                    row = {"law": law, "truth": kind, "domains": domains, "design": name, "runs": min(needed, 1e9)}
                    row |= {f"error{n}": round(float(curve[SIZES.index(n), 0]), 4) for n in (16, 32, 64)}
                    rows.append(row | {f"regret{n}": round(float(curve[SIZES.index(n), 1]), 4) for n in (16, 32, 64)})
                    sys.stderr.write(" ".join(str(value) for value in rows[-1].values()) + "\n")
    if options.json:
        sys.stdout.write(json.dumps({"rows": rows}) + "\n")


if __name__ == "__main__":
    main()
