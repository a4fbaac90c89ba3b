"""The commands that work on two CSV files of runs made anywhere: fit, propose, predict, plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import Json, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal

Ratios = Annotated[Path, typer.Option(help="CSV of proportions: one row per run, one column per domain.")]
Metrics = Annotated[Path, typer.Option(help="CSV of metrics: one row per run, joined on run, run_id or index.")]
TargetOption = Annotated[str, typer.Option(help="A metric's name, mean, or all.")]
LawOption = Annotated[str, typer.Option(help="The law; `mixopt laws` lists them.")]


@app.command()
def fit(
    ratios: Ratios,
    metrics: Metrics,
    target: TargetOption = "mean",
    law: LawOption = "loglinear",
    test_ratios: Annotated[Path | None, typer.Option(help="Measure on these runs instead of out of fold.")] = None,
    test_metrics: Annotated[Path | None, typer.Option(help="The metrics of the test runs.")] = None,
    as_json: Json = False,
) -> None:
    """Fit a law to runs and say how well it predicts runs that it has not seen.

    Example: `mixopt fit --ratios ratios.csv --metrics metrics.csv --target all --law lightgbm`
    """
    from pipelines import swarm_files

    with Bars().task(f"fit {law}", None):
        found = swarm_files.fit(swarm_files.Request(ratios, metrics, target, law), test_ratios, test_metrics)
    Terminal(to_stderr=as_json).fit(found)
    end(found, as_json)


@app.command()
def propose(
    ratios: Ratios,
    metrics: Metrics,
    domains: Annotated[Path, typer.Option(help="CSV with columns domain, tokens and optionally prior, lower, upper.")],
    target_tokens: Annotated[str, typer.Option(help="Tokens of the real run, such as 25_000_000_000.")],
    max_epochs: Annotated[float, typer.Option(help="How often the real run may repeat a domain.")] = 4.0,
    target: TargetOption = "mean",
    law: LawOption = "loglinear",
    kl: Annotated[float, typer.Option(help="Pull to the prior, per nat of KL divergence.", min=0)] = 0.05,
    floor: Annotated[
        list[str] | None,
        typer.Option(help="A metric and by which fraction it may be worse than at the prior: code=0.01. Repeatable."),
    ] = None,
    trust_kl: Annotated[float | None, typer.Option(help="Largest KL divergence from the prior, in nats.")] = None,
    trust_l1: Annotated[float | None, typer.Option(help="Largest sum of absolute differences to the prior.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the search for laws that are not convex.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Propose the best mixture for a real run, from runs made anywhere.

    Example: `mixopt propose --ratios ratios.csv --metrics metrics.csv --domains domains.csv --target-tokens 25_000_000_000`
    """
    from mixopt.limits import Trust
    from pipelines import swarm_files

    trust = Trust(trust_kl, trust_l1)
    wanted = swarm_files.Target(domains, _count(target_tokens), max_epochs, kl, seed, tuple(floor or ()), trust)
    with Bars().task(f"fit {law} and propose", None):
        found = swarm_files.propose(swarm_files.Request(ratios, metrics, target, law), wanted)
    Terminal(to_stderr=as_json).proposal(found)
    end(found, as_json)


@app.command()
def predict(
    ratios: Ratios,
    metrics: Metrics,
    mixture: Annotated[Path, typer.Option(help='mixture.json of a search, or a plain {"web": 0.5, ...}.')],
    target: TargetOption = "mean",
    law: LawOption = "loglinear",
    as_json: Json = False,
) -> None:
    """Predict the metrics of one mixture, from runs made anywhere.

    Example: `mixopt predict --ratios ratios.csv --metrics metrics.csv --law loglinear --mixture mixture.json`
    """
    from pipelines import swarm_files

    with Bars().task(f"fit {law}", None):
        found = swarm_files.predict(swarm_files.Request(ratios, metrics, target, law), mixture)
    Terminal(to_stderr=as_json).prediction(found)
    end(found, as_json)


@app.command()
def plan(
    ratios: Ratios,
    metrics: Metrics,
    interval: Annotated[float, typer.Option(help="Half the width of the 90 % interval that is wanted.")],
    gain: Annotated[bool, typer.Option("--gain", help="Of the gain over another mixture, such as the prior.")] = False,
    target: TargetOption = "mean",
    law: LawOption = "effdata",
    seed: Annotated[int, typer.Option(help="Seed of the subsets.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """How many proxies like a pilot's would a wanted interval take, and what would they cost? Trains nothing.

    The pilot is any small swarm: `ratios.csv` and `metrics.csv` of a run directory, or results made elsewhere.

    Example: `mixopt plan --ratios ratios.csv --metrics metrics.csv --target mean --law effdata --interval 0.01`
    """
    from pipelines import swarm_files, swarm_plan

    wanted = swarm_plan.Wanted(interval, gain, seed)
    with Bars().task(f"fit {law} to subsets", None):
        found = swarm_plan.plan(swarm_files.Request(ratios, metrics, target, law), wanted)
    Terminal(to_stderr=as_json).swarm_plan(found)
    end(found, as_json)


def _count(text: str) -> int:
    try:
        value = float(text.replace("_", "").replace(",", ""))
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e30 or value != int(value):
        raise typer.BadParameter(f"must be a whole number of tokens such as 25_000_000_000 (got {text!r}).")
    return int(value)
