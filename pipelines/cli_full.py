"""The commands around the real model: train, feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import Json, RunDirectory, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal


@app.command()
def train(
    run_dir: RunDirectory,
    config: Annotated[Path, typer.Option(help="The configuration of the full run.", metavar="full.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set launch.workers=8.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, say what would be trained.")] = False,
    as_json: Json = False,
) -> None:
    """Train the real model on the recommended mixture, its schedule, or an online policy.

    Run it again after any interruption: it goes on from the last complete checkpoint.

    Example: `mixopt train runs/a --config full.yaml --set launch.workers=8`
    """
    from mixopt import full
    from pipelines.full import train as training

    say = Terminal(to_stderr=as_json)
    course = training.prepare(run_dir, full.load(config, overrides or []))
    if dry_run:
        found = training.plan(course)
        say.lines(training.said(found))
        end(found, as_json)
        return
    if course.full.launch.by == "external":
        training.lock(course)
        say.lines(["The run is locked. Start on every machine:", training.command(course)])
        end({"command": training.command(course)}, as_json)
        return
    record = training.run(course, Bars(), say.lines)
    say.lines(training.ended(course, record))
    end(record, as_json)


@app.command()
def feedback(
    run_dir: RunDirectory,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="Another full run: a record.json, or JSON with parameters, tokens, metrics. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Did the real run do what the search predicted, and what should the next search know? Trains nothing.

    Reads RUN_DIR/full/record.json and the files given, keeps the full runs in the store, and writes `feedback.json`. From two
    runs of one size on different mixtures on, later searches carry their law to that size.

    Example: `mixopt feedback runs/a --metrics runs/prior/full/record.json`
    """
    from pipelines import feedback as feeding_back

    found = feeding_back.run(run_dir, metrics or [], Bars())
    Terminal(to_stderr=as_json).feedback(found)
    end(found, as_json)
