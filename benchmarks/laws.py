"""Accuracy, coverage and seconds of every law on a published swarm, against two published procedures in the same run.

    python benchmarks/laws.py --swarm FOLDER [--laws effdata,gp,auto] [--quick] [--json]
    python benchmarks/laws.py --swarm RATIOS METRICS [--test RATIOS METRICS]

FOLDER holds RegMix's four CSV files; two files are any swarm, as `mixopt fit` reads them. Without test files a quarter of the
runs is held out at random. Laws learn from 32, 64, 128, 256 and 512 runs, random subsets of the training runs (5 below all
of them, 1 with --quick), and are measured on the test runs: Spearman's correlation and the mean absolute error, means
over metrics and subsets; the share of runs within 1.645 standard deviations; CPU seconds of a fit of all metrics.
Seconds of 100 000 predictions are those of a sample, scaled.

Peers: RegMix's LightGBM, which is the law `lightgbm`, and Olmix's log-linear procedure: for each metric 300 starts (10
floors, 30 draws of the slopes) of torch's L-BFGS at rate 0.01 with a history of 10 and 20 iterations a step, at most 100 steps,
until the loss no longer falls; sum of Huber's loss with delta 0.02; the start with the lowest loss wins. STARTS of them run for
one metric, and their seconds are scaled to 300 starts and all metrics; its accuracy is that of the best of those.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mixopt.laws import LAWS, make
from mixopt.quality import own_domains, spearman
from mixopt.tables import Table, read_swarm
from pipelines.progress import Bars

SIZES, SUBSETS, CANDIDATES, SAMPLE, STARTS, NORMAL = (32, 64, 128, 256, 512), 5, 100_000, 4_000, 10, 1.6448536269514722
REGMIX = (("train_mixture_1m.csv", "train_pile_loss_1m.csv"), ("test_mixture_1m.csv", "test_pile_loss_1m.csv"))
FIT_REACH = {"effdata": 1.0, "gp": 5.0, "auto": 25.0}
ERROR_REACH = {32: 0.088, 64: 0.066, 128: 0.052, 512: 0.039}
PREDICT_REACH, PEER_REACH = 2.0, 1000.0


def tables(swarm: Sequence[Path], test: Sequence[Path]) -> tuple[Table, Table | None]:
    """Training runs, and test runs where there are any."""
    if len(swarm) == 1:
        train, held_out = (read_swarm(*(swarm[0] / name for name in names)) for names in REGMIX)
        return train, held_out
    return read_swarm(*swarm), read_swarm(*test) if test else None


def halves(train: Table, test: Table | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mixtures and metrics to learn from, then those to measure on."""
    if test is not None:
        return train.X_RD, train.Y_RM, test.X_RD, test.Y_RM
    order_R = np.random.default_rng(0).permutation(len(train.X_RD))
    kept_R, out_R = np.split(order_R, [math.ceil(0.75 * len(order_R))])
    return train.X_RD[kept_R], train.Y_RM[kept_R], train.X_RD[out_R], train.Y_RM[out_R]


def row(
    what: str, value: float, reach: float | None = None, peer: float | None = None, note: str = ""
) -> dict[str, Any]:
    """One line of the answer; where a reach is given, less is better, or more where there is a peer."""
    ratio = float(value / peer) if peer else None
    ok = None if reach is None else bool(ratio >= reach if ratio is not None else value <= reach)
    return {"what": what, "value": value, "peer": peer, "ratio": ratio, "reach": reach, "ok": ok, "note": note}


def measured(name: str, own: Sequence[int | None], runs: Sequence[np.ndarray], some_R: np.ndarray) -> list[float]:
    """Spearman, mean absolute error, coverage and CPU seconds of a fit to these runs."""
    X_RD, Y_RM, new_ND, seen_NM = runs
    law = make(name, own)
    began = time.process_time()
    law.fit(X_RD[some_R], Y_RM[some_R])
    seconds = time.process_time() - began
    P_NM, std_NM = law.predict(new_ND, return_std=True)
    error_NM = np.abs(P_NM - seen_NM)
    ranks = [spearman(seen_NM[:, m], P_NM[:, m]) or 0.0 for m in range(seen_NM.shape[1])]
    return [float(np.mean(ranks)), float(error_NM.mean()), float((error_NM < NORMAL * std_NM).mean()), seconds]


def accuracy(
    name: str, own: Sequence[int | None], runs: Sequence[np.ndarray], subsets: int
) -> Iterator[dict[str, Any]]:
    """Rows of one law, by number of runs."""
    total, domains = runs[0].shape
    for size in sorted({min(size, total) for size in SIZES}):
        if size < make(name).min_runs(domains):
            continue
        repeats = subsets if size < total else 1
        orders = [np.random.default_rng(seed).permutation(total)[:size] for seed in range(repeats)]
        rank, error, covered, seconds = np.mean([measured(name, own, runs, order) for order in orders], axis=0)
        known = total == SIZES[-1]
        yield row(f"{name}, {size} runs: Spearman", rank)
        yield row(f"{name}, {size} runs: error", error, ERROR_REACH.get(size) if known and name == "auto" else None)
        yield row(f"{name}, {size} runs: coverage of nominal 90 %", covered)
        yield row(f"{name}, {size} runs: fit, CPU s", seconds, FIT_REACH.get(name) if known and size == total else None)


def speed(name: str, own: Sequence[int | None], runs: Sequence[np.ndarray]) -> Iterator[dict[str, Any]]:
    """Rows of one law that knows all runs: CPU seconds of CANDIDATES predictions."""
    law = make(name, own).fit(*runs[:2])
    X_ND = np.random.default_rng(0).dirichlet(np.ones(runs[0].shape[1]), SAMPLE)
    for deviations in (False, True):
        law.predict(X_ND[:1], return_std=deviations)
        began = time.process_time()
        law.predict(X_ND, return_std=deviations)
        seconds = (time.process_time() - began) * CANDIDATES / SAMPLE
        what = f"{name}: {CANDIDATES} predictions{' with deviations' if deviations else ''}, CPU s"
        yield row(what, seconds, PREDICT_REACH if deviations and name in FIT_REACH else None)


def olmix(X_RD: np.ndarray, y_R: np.ndarray, starts: int) -> tuple[np.ndarray, float]:
    """Olmix's procedure for one metric from the first starts: log c and t of the best, CPU seconds."""
    X, y = torch.tensor(X_RD, dtype=torch.float32), torch.tensor(y_R, dtype=torch.float32)
    rng = torch.Generator().manual_seed(42)
    floors = torch.linspace(-2.0, 1.5, 10).repeat(30)
    best, lowest, began = np.zeros(X.shape[1] + 1), math.inf, time.process_time()
    for start in range(starts):
        drawn = 0.1 * torch.randn(X.shape[1], generator=rng)
        theta = torch.cat([floors[start : start + 1], drawn]).requires_grad_()
        steps = torch.optim.LBFGS([theta], lr=0.01, history_size=10, max_iter=20)

        def loss(theta: torch.Tensor = theta, steps: torch.optim.Optimizer = steps) -> torch.Tensor:
            steps.zero_grad()
            value = torch.nn.functional.huber_loss(
                theta[0].exp() + (X @ theta[1:]).exp(), y, reduction="sum", delta=0.02
            )
            value.backward()
            return value

        last = math.inf
        for _ in range(100):
            value = steps.step(loss).item()
            if not value < last:
                break
            last = value
        if last < lowest:
            best, lowest = theta.detach().double().numpy(), last
    return best, time.process_time() - began


def against_olmix(own: Sequence[int | None], runs: Sequence[np.ndarray], starts: int) -> Iterator[dict[str, Any]]:
    """Olmix's error on the first metric and its seconds for all of them, and how much sooner effective data are fitted."""
    X_RD, Y_RM, new_ND, seen_NM = runs
    theta_P, seconds = olmix(X_RD, Y_RM[:, 0], starts)
    everything = seconds * 300 / starts * Y_RM.shape[1]
    law = make("effdata", own)
    began = time.process_time()
    law.fit(X_RD, Y_RM)
    fit = time.process_time() - began
    said_N = np.exp(theta_P[0]) + np.exp(new_ND @ theta_P[1:])
    note = f"{starts} starts of one metric took {seconds:.1f} s, scaled to 300 starts of {Y_RM.shape[1]} metrics"
    yield row("olmix procedure, first metric: error", float(np.abs(said_N - seen_NM[:, 0]).mean()))
    yield row("effdata, first metric: error", float(np.abs(law.predict(new_ND)[:, 0] - seen_NM[:, 0]).mean()))
    yield row("fits of effdata in the time of one of olmix's procedure", everything, PEER_REACH, fit, note)


def main() -> None:
    """Measure, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swarm", nargs="+", type=Path, required=True, help="a folder, or ratios and metrics")
    parser.add_argument("--test", nargs=2, type=Path, default=(), help="ratios and metrics to measure on")
    parser.add_argument("--laws", default=",".join(LAWS), help="which, with commas between")
    parser.add_argument("--quick", action="store_true", help="one subset, two of Olmix's starts")
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    given = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")  # seconds are those of one core
    train, test = tables(given.swarm, given.test)
    runs, own = halves(train, test), own_domains(train.names, train.metrics)
    names, rows = given.laws.split(","), []
    with Bars().task("laws", len(names) + 1) as advance:
        for name in names:
            if len(runs[0]) < make(name).min_runs(runs[0].shape[1]):
                print(f"{name}: needs more runs")
            else:
                rows += [*accuracy(name, own, runs, 1 if given.quick else SUBSETS), *speed(name, own, runs)]
            advance(1)
        rows += against_olmix(own, runs, 2 if given.quick else STARTS)
        advance(1)
    for found in rows:
        aim = f" (reach {found['reach']:g}: {'ok' if found['ok'] else 'NOT MET'})" if found["reach"] else ""
        against = f", {found['ratio']:.3g} times {found['peer']:.3g}" if found["peer"] else ""
        print(f"{found['what']}: {found['value']:.4g}{against}{aim}{'; ' + found['note'] if found['note'] else ''}")
    if given.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
