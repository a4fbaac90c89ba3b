"""How far scale laws are off at a size, at tokens and on mixtures that they have not seen, and what few large runs need.

    python benchmarks/scale_laws.py [--swarm PATH] [--seeds 3] [--json]

PATH is a folder of tidy CSV files, one ladder each: a line for every checkpoint with `model_size`, `n_params_nonemb`, `tokens`,
`step`, `ratio` (which mixture), `w_*` and `loss_*`. Checkpoints before 10,000 steps are left out, as in Data Mixing Laws. Of each ladder
three questions are asked:

    next size   all sizes but the largest -> the largest at its last checkpoint, mixtures in no smaller run
    left out    every mixture in turn is left out of all sizes but the largest -> its last checkpoint at the largest of them
    longer      the first half of the tokens of all sizes but the largest -> their last checkpoint

Generated ladders have a truth that is none of the laws' form (capacity by water-filling, data of one domain worth some of
another's, noise 0.004): 16 mixtures of 5 domains at three sizes and four numbers of tokens -> 100 others at a fourth size,
and, for the step from one size to the next, 64 runs of 8 domains at one size and a few at 3.5 times that size.

A row is the mean absolute error in nats, the part of new runs inside the laws' own 90 % intervals, and CPU seconds of a fit.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mixopt.errors import MixoptError
from mixopt.laws.effdata import EffData
from mixopt.mixture import FloatArray
from mixopt.scale_laws import make
from mixopt.scale_laws.base import Runs, ScaleLaw
from mixopt.scale_laws.dai_zheng import DaiZheng, fill
from mixopt.scale_laws.nested import Nested
from mixopt.scale_laws.transfer import Transfer

FIRST_STEP, NOISE, WIDTH_90 = 10_000, 0.004, 1.645
SIZES, NEXT, TOKENS = (19e6, 85e6, 201e6), 302e6, (1e10, 1.5e10, 2e10, 3e10)
LAWS: dict[str, Callable[[list[int]], ScaleLaw]] = {
    "additive": lambda own: make("additive"),
    "multiplicative": lambda own: make("multiplicative"),
    "shukor": lambda own: make("shukor"),
    "shukor_joint": lambda own: make("shukor_joint"),
    "dai_zheng": lambda own: DaiZheng(own=own),
    "nested": lambda own: make("nested"),
    "nested, effdata": lambda own: Nested(mixture="effdata"),
}


@dataclass(frozen=True)
class Row:
    """One law and one question; `why` instead of numbers where it cannot answer."""

    ladder: str
    question: str
    law: str
    mae: float | None = None
    covered: float | None = None
    seconds: float | None = None
    why: str = ""


@dataclass(frozen=True)
class Ladder:
    """A file's runs and losses, the mixture of each run, and each loss's own domain."""

    runs: Runs
    Y_RM: FloatArray
    mixture_R: FloatArray
    own: list[int]

    def take(self, rows_R: FloatArray) -> tuple[Runs, FloatArray]:
        """The runs and losses of some rows."""
        return self.runs.take(rows_R), self.Y_RM[rows_R]


def read(path: Path) -> Ladder:
    """A tidy file."""
    table = pd.read_csv(path)
    weights, losses = (sorted(c for c in table if c.startswith(start)) for start in ("w_", "loss_"))
    table = table[table.step >= FIRST_STEP].dropna(subset=[*weights, *losses])
    runs = Runs(table[weights].to_numpy(), table.n_params_nonemb.to_numpy(float), table.tokens.to_numpy(float))
    own = [weights.index(loss.replace("loss_", "w_")) for loss in losses]
    return Ladder(runs, table[losses].to_numpy(), table.ratio.to_numpy(), own)


def questions(ladder: Ladder) -> Iterator[tuple[str, list[tuple[FloatArray, FloatArray]]]]:
    """What is asked of a ladder: names, and pairs of rows to learn from and rows to predict, as masks."""
    size_R, T_R, mixture_R = ladder.runs.parameters_R, ladder.runs.tokens_R, ladder.mixture_R
    sizes, last_R = np.unique(size_R), np.zeros(len(T_R), dtype=bool)
    for size in sizes:
        last_R |= (size_R == size) & (T_R[size_R == size].max() == T_R)
    smaller_R = size_R < (sizes[-1] if len(sizes) > 2 else np.inf)  # of two sizes both are needed to learn from
    if not smaller_R.all():
        yield "next size", [(smaller_R, ~smaller_R & last_R & ~np.isin(mixture_R, mixture_R[smaller_R]))]
    top_R = smaller_R & last_R & (size_R == size_R[smaller_R].max())
    yield "left out", [(smaller_R & (mixture_R != name), top_R & (mixture_R == name)) for name in mixture_R[top_R]]
    yield "longer", [(smaller_R & (T_R[smaller_R].max() / 2 >= T_R), smaller_R & last_R)]


def judge(law: ScaleLaw, train: tuple[Runs, FloatArray], test: tuple[Runs, FloatArray]) -> tuple[float, float, float]:
    """Error, coverage and CPU seconds of a fit."""
    began = time.process_time()
    law.fit(*train)
    P_NM, std_NM = law.predict(test[0], return_std=True)
    error_NM = np.abs(P_NM - test[1])
    return float(error_NM.mean()), float((error_NM < WIDTH_90 * std_NM).mean()), time.process_time() - began


def ask(name: str, question: str, own: list[int], pairs: list[tuple[tuple[Runs, FloatArray], ...]]) -> Iterator[Row]:
    """A row for every law: means over the pairs of runs to learn from and to predict."""
    for law, build in LAWS.items():
        try:
            mae, covered, seconds = np.mean([judge(build(own), train, test) for train, test in pairs], axis=0)
            yield Row(name, question, law, float(mae), float(covered), float(seconds))
        except MixoptError as error:
            yield Row(name, question, law, why=str(error))


def truth(runs: Runs, domains: int) -> FloatArray:
    """Losses of no law's form, the same function for every swarm of so many domains."""
    rng = np.random.default_rng(domains)
    W, G = np.exp(rng.normal(size=(domains, domains)) - 2.5), rng.uniform(0.4, 0.9, (domains, domains))
    np.fill_diagonal(W, 1.0)
    c, b, a = rng.uniform(0.4, 0.9, domains), rng.uniform(0.2, 0.4, domains), rng.uniform(0.25, 0.45, domains)
    p_RD, N_R = runs.mixtures_RD, domains * runs.parameters_R / 85e6
    wanted_1RD = np.log((p_RD + 1e-12) * c * b)[None]
    least_1R, total_1R = np.full((1, len(runs)), 0.2), (N_R + (domains - 1) * 0.2)[None]
    x_RD = fill(wanted_1RD, (b + 1)[None, None], least_1R, total_1R)[0]
    s_RD = 0.01 + (W * (p_RD[:, None] + 0.005) ** G).sum(axis=2)
    return rng.uniform(1, 2, domains) + c * x_RD**-b + 0.7 * (runs.tokens_R[:, None] / 2e10 * s_RD) ** -a


def trained(
    domains: int, mixtures: int, sizes: tuple[float, ...], tokens: tuple[float, ...], seed: int
) -> tuple[Runs, FloatArray]:
    """Runs of generated mixtures at all these sizes and tokens, and their losses."""
    rng = np.random.default_rng(seed)
    X_CD = rng.dirichlet(np.ones(domains), mixtures)
    scales = [(N, T) for N in sizes for T in tokens]
    N_R, T_R = np.repeat(np.array(scales).T, mixtures, axis=1)
    runs = Runs(np.tile(X_CD, (len(scales), 1)), N_R, T_R)
    Y_RM = truth(runs, domains)
    return runs, Y_RM + NOISE * rng.normal(size=Y_RM.shape)


def steps_up(seeds: int) -> Iterator[Row]:
    """From one size to the next with 4, 8 and 16 runs: the law moved, an affine map of its predictions, a law alone."""
    names = ("transfer", "affine map", "large runs alone")
    for few in (4, 8, 16):
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in names}
        for seed in range(seeds):
            small_runs, small_Y = trained(8, 64, SIZES[1:2], TOKENS[-1:], seed)
            large_runs, large_Y = trained(8, 100 + few, (NEXT,), TOKENS[-1:], 100 + seed)
            X_ND, Y_NM, new_ND, truth_NM = (
                large_runs.mixtures_RD[:few],
                large_Y[:few],
                large_runs.mixtures_RD[few:],
                large_Y[few:],
            )
            small = EffData(own=range(8)).fit(small_runs.mixtures_RD, small_Y)
            began = time.process_time()
            P_NM, std_NM = Transfer(small).fit(X_ND, Y_NM).predict(new_ND, return_std=True)
            seconds, error_NM = time.process_time() - began, np.abs(P_NM - truth_NM)
            found["transfer"].append((error_NM.mean(), (error_NM < WIDTH_90 * std_NM).mean(), seconds))
            lines = [np.polyfit(x_N, y_N, 1) for x_N, y_N in zip(small.predict(X_ND).T, Y_NM.T, strict=True)]
            mapped_NM = np.stack(
                [np.polyval(line, x_N) for line, x_N in zip(lines, small.predict(new_ND).T, strict=True)], axis=1
            )
            found["affine map"].append((np.abs(mapped_NM - truth_NM).mean(), np.nan, np.nan))
            if few >= EffData().min_runs(8):
                alone_NM = EffData(own=range(8)).fit(X_ND, Y_NM).predict(new_ND)
                found["large runs alone"].append((np.abs(alone_NM - truth_NM).mean(), np.nan, np.nan))
        for name in names:
            if not found[name]:
                yield Row("generated", f"{few} large runs", name, why=f"needs {EffData().min_runs(8)} runs")
                continue
            mae, covered, seconds = (float(t) for t in np.mean(found[name], axis=0))
            known = name == "transfer"
            yield Row(
                "generated", f"{few} large runs", name, mae, covered if known else None, seconds if known else None
            )


def measure(swarm: Path | None, seeds: int) -> Iterator[Row]:
    """All rows."""
    for path in sorted(swarm.glob("*.csv")) if swarm else []:
        ladder = read(path)
        for question, masks in questions(ladder):
            yield from ask(path.stem, question, ladder.own, [tuple(map(ladder.take, pair)) for pair in masks])
    pairs = [
        (trained(5, 16, SIZES, TOKENS, seed), trained(5, 100, (NEXT,), TOKENS[-1:], 50 + seed)) for seed in range(seeds)
    ]
    yield from ask("generated", "next size", list(range(5)), pairs)
    yield from steps_up(seeds)


def main() -> None:
    """Print the table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swarm", type=Path, help="a folder of tidy CSV files")
    parser.add_argument("--seeds", type=int, default=3, help="generated ladders")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = list(measure(options.swarm, options.seeds))
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows]}))
        return
    for row in rows:
        numbers = row.why if row.mae is None else f"{row.mae:8.4f}"
        numbers += "" if row.covered is None else f"{row.covered:7.2f}{row.seconds:8.2f}"
        print(f"{row.ladder:10} {row.question:14} {row.law:18} {numbers}")


if __name__ == "__main__":
    main()
