"""A generated swarm of the shape of RegMix's: what its golden tests say of laws, where its files are absent.

17 domains, 13 losses, a third of the proportions zero, all rounded to three decimals under its names. Each loss is a
floor and a power of what domains are worth to it, its own domain most: the form of `effdata` and of no other law.
The bounds are a little below our own figures.
"""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.domains import Domain
from mixopt.laws import make
from mixopt.mixture import FloatArray
from mixopt.quality import own_domains, spearman
from mixopt.space import MixtureSpace
from mixopt.tables import Table, read_swarm

DOMAINS, METRICS, RUNS = 17, 13, 384
NAMES = tuple(f"the_pile_{letter}" for letter in "abcdefghijklmnopq")


def losses(X_RD: FloatArray) -> FloatArray:
    rng = np.random.default_rng(1)
    worth_MD = 0.05 * rng.lognormal(0, 1, (METRICS, DOMAINS))
    worth_MD[range(METRICS), range(METRICS)] = 1
    power_MD, alpha_M = rng.uniform(0.4, 0.8, (METRICS, DOMAINS)), rng.uniform(0.12, 0.25, METRICS)
    data_RM = 1e-3 + ((X_RD[:, None, :] + 5e-4) ** power_MD * worth_MD).sum(axis=2)
    return np.asarray(1 + 2 * data_RM**-alpha_M)


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder, rng = tmp_path_factory.mktemp("generated"), np.random.default_rng(0)
    tokens_D = 10**9 * rng.lognormal(2, 1.2, DOMAINS)
    space = MixtureSpace(tuple(Domain(n, int(t)) for n, t in zip(NAMES, tokens_D, strict=True)), 1)
    X_RD = space.dirichlet(RUNS, rng)
    X_RD = np.where(X_RD < 0.01, 0, X_RD)
    X_RD /= X_RD.sum(axis=1, keepdims=True)
    Y_RM = losses(X_RD) + 0.01 * rng.normal(size=(RUNS, METRICS))
    for name, heads, cells, form in (
        ("mixture", [f"train_{n}" for n in NAMES], X_RD, "{:.3f}"),
        ("loss", [f"metric/{n}_val_loss" for n in NAMES[:METRICS]], Y_RM, "{:.6f}"),
    ):
        lines = [",".join([str(i), *map(form.format, row)]) for i, row in enumerate(cells)]
        (folder / f"{name}.csv").write_text("\n".join([",".join(["index", *heads]), *lines]))
    return read_swarm(folder / "mixture.csv", folder / "loss.csv")


def test_rounded_files_are_understood(swarm: Table) -> None:
    assert (swarm.X_RD.shape, swarm.Y_RM.shape) == ((RUNS, DOMAINS), (RUNS, METRICS))
    assert set(swarm.metrics) < set(swarm.names)
    assert 0.25 < (swarm.X_RD == 0).mean() < 0.45
    assert "were scaled to sum 1" in swarm.notes[0]


def measured(swarm: Table, name: str, runs: int) -> tuple[float, float, float]:
    """Mean Spearman, mean error, and coverage of 90 % intervals on the last 128 runs."""
    law = make(name, own_domains(swarm.names, swarm.metrics)).fit(swarm.X_RD[:runs], swarm.Y_RM[:runs])
    P_NM, std_NM = law.predict(swarm.X_RD[-128:], return_std=True)
    error_NM = np.abs(P_NM - swarm.Y_RM[-128:])
    ranks = [spearman(P_NM[:, m], swarm.Y_RM[-128:, m]) or 0 for m in range(METRICS)]
    return float(np.mean(ranks)), float(error_NM.mean()), float((error_NM < 1.645 * std_NM).mean())


@pytest.mark.parametrize(
    ("name", "runs", "rank", "error"),
    [
        ("linear", 256, 0.80, 0.14),
        ("loglinear", 256, 0.935, 0.056),
        ("lightgbm", 64, 0.945, 0.055),
        ("lightgbm", 256, 0.96, 0.042),
        ("autoscale", 256, 0.96, 0.045),
        ("bimix", 64, 0.90, 0.07),
        ("mixinglaws", 256, 0.96, 0.048),
        ("implicit", 256, 0.945, 0.053),
        ("quadratic", 256, 0.87, 0.083),
        ("effdata", 64, 0.985, 0.02),
    ],
)
def test_laws_rank_runs_that_they_have_not_seen(swarm: Table, name: str, runs: int, rank: float, error: float) -> None:
    found = measured(swarm, name, runs)
    assert found[0] > rank
    assert found[1] < error
    assert 0.82 <= found[2] <= 0.99
