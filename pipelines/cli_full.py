"""The commands that train the real model, hand it on and learn from it: train, weights, evaluate, feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixopt.errors import JobError
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
def weights(
    run_dir: RunDirectory,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN_DIR/full/hf unless given.")] = None,
    step: Annotated[int | None, typer.Option(help="Of the checkpoint of this step; the last one unless given.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, as they are trained, or bfloat16.")] = "float32",
    shard: Annotated[int, typer.Option(help="Bytes of a file, at most.", min=1)] = 5_000_000_000,
    as_json: Json = False,
) -> None:
    """Write the trained model as Hugging Face transformers reads it: a Llama in safetensors, config, tokenizer.

    Example: `mixopt weights runs/a --dtype bfloat16`
    """
    from pipelines.full import course as courses
    from pipelines.full import engine, llama

    found = courses.load(run_dir)
    folder = out if out is not None else found.folder / "hf"
    files = [str(path) for path in llama.write(found, engine.tensors, folder, step, dtype, shard)]
    Terminal(to_stderr=as_json).lines(files)
    end({"files": files}, as_json)


@app.command()
def evaluate(
    run_dir: RunDirectory,
    tasks: Annotated[str, typer.Option(help="Tasks of the harness, separated by commas.")],
    fewshot: Annotated[
        int | None, typer.Option(help="Examples before each question; the task's own unless given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Documents of each task, for a trial.")] = None,
    batch: Annotated[int, typer.Option(help="Questions at once.", min=1)] = 8,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    include: Annotated[Path | None, typer.Option(help="A folder with task files of your own.")] = None,
    as_json: Json = False,
) -> None:
    """Measure the trained model on tasks of lm-evaluation-harness (pip install 'mixopt[eval]'), after `mixopt weights`.

    Example: `mixopt evaluate runs/a --tasks arc_easy,piqa,hellaswag --device cuda`
    """
    from pipelines.full import harness

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise JobError("--tasks: name at least one task, such as arc_easy.")
    found = harness.evaluate(run_dir / "full", harness.Asked(names, fewshot, limit, batch, device, include))
    Terminal(to_stderr=as_json).table(["task", "metric", "value", "standard error"], harness.rows(found))
    end(found, as_json)


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
