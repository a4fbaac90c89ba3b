"""The command that compares a full run with the search that proposed its mixture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import Json, RunDirectory, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal


@app.command()
def feedback(
    run_dir: RunDirectory,
    metrics: Annotated[
        list[Path] | None,
        typer.Option(help="A full run made elsewhere, .json or .csv: parameters, tokens, bpb/<domain>. Repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Did the real run do what the proxies said, and what should the next search know? Trains nothing.

    Reads RUN_DIR/full/record.json and the files given, keeps the full runs in the store, and writes `feedback.json`. From two
    runs of one size on different mixtures on, later searches carry their law to that size.

    Example: `mixopt feedback runs/a --metrics prior-run.json`
    """
    from pipelines import feedback as feeding_back

    found = feeding_back.run(run_dir, metrics or [], Bars())
    Terminal(to_stderr=as_json).feedback(found)
    end(found, as_json)
