"""The commands about methods that adapt during training: audit."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli import Json, RunDirectory, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal


@app.command()
def audit(
    run_dir: RunDirectory,
    methods: Annotated[str, typer.Option(help="Methods, separated by commas; all unless given.")] = "",
    points: Annotated[int, typer.Option(help="At how many points of each run to probe.")] = 3,
    part: Annotated[
        float | None,
        typer.Option(help="Part of the run that one probe trains; unless given 0.02, less if segments are shorter."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Does training obey the laws that online methods follow? Probes on their own ways say what each domain really does.

    Trains the runs again that followed a policy, and writes `audit.json`. Run it again after any interruption; a
    second audit trains nothing.

    Example: `mixopt audit runs/a --points 3`
    """
    from pipelines import audit as auditing

    asked = auditing.Asked(tuple(name.strip() for name in methods.split(",") if name.strip()), points, part)
    found = auditing.run(run_dir, asked, Bars())
    Terminal(to_stderr=as_json).audit(found)
    end(found, as_json)
