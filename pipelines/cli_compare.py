"""The command that compares methods."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli import Json, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal


@app.command()
def compare(
    job: Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.yaml")],
    methods: Annotated[
        str | None,
        typer.Option(help="Methods, separated by commas; overrides compare.methods. Uniform is always added."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Paired seeds of the final runs, at least 3; compare.seeds.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; `runs/NAME-compare` unless given.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set compare.tokens=2_000_000.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it would cost.")] = False,
    as_json: Json = False,
) -> None:
    """Which method is best on my data, at equal cost? Every method searches with one budget, then trains the same larger proxy.

    Two readings: the same final run for all, and the same total, where a final run gets what its method did not spend on
    searching. Run it again after any interruption: it trains what is missing and says the same.

    Example: `mixopt compare my-job.yaml --methods regmix,olmix,prior --seeds 3`
    """
    from mixopt.job import load
    from proxies.sizes import SIZES

    say = Terminal(to_stderr=as_json)
    settings = list(overrides or [])
    if methods is not None:
        names = [name.strip() for name in methods.split(",") if name.strip()]
        settings.append(f"compare.methods={json.dumps(names)}")
    settings += [f"compare.seeds={seeds}"] if seeds is not None else []
    parsed = load(job, settings, SIZES)
    if dry_run:
        from pipelines import dry_run as trial

        with Bars().task("measure the speed of this machine", None):
            found = trial.compare_dry_run(parsed, job.parent)
        say.comparison_plan(found)
        end(found, as_json)
        return
    from pipelines.compare import run
    from pipelines.mlflow_tracker import screen

    directory = out if out is not None else Path("runs") / f"{parsed.name}-compare"
    document = run(parsed, job.parent, directory, Bars())
    say.leaderboard(document, directory)
    if parsed.tracking.mlflow:
        say.comparison(*screen(parsed.tracking.mlflow, out=directory))
    end(summary(document), as_json)


def summary(document: Mapping[str, Any]) -> dict[str, Any]:
    """What `compare --json` prints."""
    from mixopt.compare import leaderboard

    return {"experiment": document["experiment"], "rows": leaderboard(document["rows"])}
