"""The commands that are about the proxies themselves: ranks, tune-proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixopt.errors import JobError
from pipelines.cli import Json, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal

JobFile = Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.yaml")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: --set proxies.tokens=300_000.")]


@app.command()
def ranks(
    job: JobFile,
    size: Annotated[str | None, typer.Option(help="Compare with proxies of this size.")] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Compare with a tokenizer trained to this vocabulary.", min=258, max=1 << 20)
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Compare with this many tokens per proxy.", min=1)] = None,
    seed_only: Annotated[bool, typer.Option("--seed-only", help="Compare with another seed and nothing else.")] = False,
    mixtures: Annotated[int, typer.Option(help="How many of the swarm's mixtures to train.")] = 24,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Do these proxies rank mixtures like larger ones, or like those of a large vocabulary? Trains both and compares.

    Run it again after any interruption: it trains what is missing. A search of the same job shares the runs.

    Example: `mixopt ranks my-job.yaml --size 1m --mixtures 24`
    """
    from mixopt.job import load
    from proxies.sizes import SIZES

    if seed_only == any(given is not None for given in (size, vocabulary, tokens)):
        raise JobError("ranks: say what to compare with: --size, --vocabulary, --tokens, or --seed-only alone.")
    parsed = load(job, overrides or [], SIZES)
    from pipelines import ranks as comparison

    change = comparison.Change(size, tokens, vocabulary)
    found = comparison.run(parsed, job.parent, change, mixtures, Bars())
    Terminal(to_stderr=as_json).ranks(found)
    end(found, as_json)


@app.command("tune-proxy")
def tune_proxy(job: JobFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Sweep the learning rate of this job's proxies once, and keep it for all jobs with such proxies.

    Later jobs of the same store use it if their proxies have the same size and batch and tokens within a factor of
    two, and they give no `proxies.learning_rate` themselves.

    Example: `mixopt tune-proxy my-job.yaml`
    """
    from mixopt.job import load
    from proxies.sizes import SIZES

    parsed = load(job, overrides or [], SIZES)
    from pipelines import tune

    found = tune.run(parsed, job.parent, Bars())
    Terminal(to_stderr=as_json).tuned(found)
    end(found, as_json)
