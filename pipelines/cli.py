"""The command line. Every command has --help with an example and --json for machines.

Exit codes: 0 done, 2 the user's input is wrong, 3 the run failed. With --json the last line of standard output is one
JSON object, and everything for people goes to standard error.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer
from threadpoolctl import threadpool_limits

from mixopt.errors import JobError, MixoptError, did_you_mean
from pipelines.progress import Bars
from pipelines.terminal import Terminal

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
UsageError: Any = typer.BadParameter.__mro__[1]  # click's, or that of the copy of click which newer typers carry
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON object.")]
RunDirectory = Annotated[Path, typer.Argument(help="The run directory that a search wrote.", metavar="RUN_DIR")]


def _version(value: bool) -> None:
    if value:
        sys.stdout.write(f"mixopt {version('mixopt')}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """In which proportions should a pretraining run sample its domains, how sure are we, what does it cost to know?"""


@app.command()
def search(
    job: Annotated[Path, typer.Argument(help="The job file.", metavar="JOB.yaml")],
    out: Annotated[Path | None, typer.Option(help="Run directory; `runs/NAME` unless given.")] = None,
    executor: Annotated[str | None, typer.Option(help="local or ray; overrides compute.executor.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Override a key: --set proxies.count=64.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done and what it would cost.")] = False,
    as_json: Json = False,
) -> None:
    """Search for the best mixture: prepare the text, train proxies, fit, recommend, validate, write everything down.

    Run it again after any interruption: it trains what is missing and gives the same answer.

    Example: `mixopt search my-job.yaml --set proxies.count=64 --out runs/a`
    """
    from mixopt.job import load
    from proxies.sizes import SIZES

    say = Terminal(to_stderr=as_json)
    settings = [*(overrides or []), *([f"compute.executor={executor}"] if executor else [])]
    parsed = load(job, settings, SIZES)
    if dry_run:
        from pipelines import dry_run as trial

        with Bars().task("measure the speed of this machine", None):
            found = trial.dry_run(parsed, job.parent)
        say.plan(found)
        end(found, as_json)
        return
    from pipelines.mlflow_tracker import screen
    from pipelines.search import run

    directory = out if out is not None else Path("runs") / parsed.name
    results = run(parsed, job.parent, directory, Bars())
    say.results(results, directory)
    if parsed.tracking.mlflow:
        say.comparison(*screen(parsed.tracking.mlflow))
    end(summary(results, directory), as_json)


def summary(results: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """What `search --json` prints."""
    validation = results["validation"]
    gain = validation["gain_over_prior"] if validation else None
    return {
        "run_dir": str(directory),
        "method": results["method"],
        "recommendation": {row["name"]: row["recommended"] for row in results["domains"]},
        "predicted": {key: results["predicted"][key] for key in ("objective", "interval")},
        "validated": {
            "gain_over_prior": gain["mean"] if gain else None,
            "interval": [gain["low"], gain["high"]] if gain else None,
            "seeds": validation["seeds"] if validation else 0,
        },
        "proxies_trained": results["cost"]["proxies_trained"],
        "proxies_reused": results["cost"]["proxies_reused"],
        "seconds": results["cost"]["seconds"],
    }


@app.command()
def export(
    run_dir: RunDirectory,
    to: Annotated[str, typer.Option(help="Backends, separated by commas (`mixopt backends` lists them), or all.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN_DIR/export unless given.")] = None,
    tail: Annotated[str, typer.Option(help="Proportions below a backend's resolution: drop, raise or pool.")] = "drop",
    sequence: Annotated[int, typer.Option(help="Tokens per row of the real model.", min=1)] = 4096,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Export the phases that an online search went through, not their mean.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the recommendation in the unit and syntax of the frameworks that train the real model.

    With `--to all`, backends that cannot express it are listed with the reason; one that is named must.

    Example: `mixopt export runs/a --to megatron,olmo-core`
    """
    from mixopt.backends import BACKENDS, export_all, following
    from mixopt.backends.base import Tail
    from mixopt.handoff import load

    backends = [name.strip() for name in to.split(",") if name.strip()]
    if not backends:
        raise JobError("--to: name at least one backend, such as megatron, or all.")
    if tail not in get_args(Tail):
        raise JobError(f"--tail: {tail!r} is unknown; {did_you_mean(tail, get_args(Tail))}")
    plan = load(run_dir / "mixture.json")
    folder = out if out is not None else run_dir / "export"
    made = export_all(following(plan) if schedule else plan, backends, folder, cast(Tail, tail), sequence)
    files = {name: [str(path) for path in paths] for name, paths in made["files"].items()}
    units = {name: BACKENDS[name].unit for name in (*made["files"], *made["refused"])}
    found = {**made, "files": files, "unit": units, "tail": tail}
    Terminal(to_stderr=as_json).exports(found, folder)
    end(found, as_json)


@app.command()
def backends(as_json: Json = False) -> None:
    """List the frameworks that `export` writes for, what their weights are shares of, and which follow a schedule.

    Example: `mixopt backends`
    """
    from mixopt.backends import BACKENDS, make

    rows: dict[str, dict[str, Any]] = {
        name: {
            "unit": stack.unit,
            "schedule": stack.schedule,
            "summary": (type(make(name)).__doc__ or "").partition("\n")[0],
        }
        for name, stack in BACKENDS.items()
    }
    table = [[n, row["unit"], "yes" if row["schedule"] else "no", row["summary"]] for n, row in rows.items()]
    Terminal(to_stderr=as_json).table(["backend", "shares of", "follows a schedule", "what it reads"], table)
    end(rows, as_json)


@app.command()
def report(run_dir: RunDirectory, as_json: Json = False) -> None:
    """Write report.html and report.md again from results.json, or from a comparison's compare.json.

    Example: `mixopt report runs/a`
    """
    from mixopt import report as searched
    from mixopt import report_comparison as compared

    comparison = (run_dir / "compare.json").exists()
    path = run_dir / ("compare.json" if comparison else "results.json")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise JobError(
            f"{path}: cannot be read ({e}). Is this the run directory of a finished search or comparison?"
        ) from e
    files = [str(file) for file in (compared if comparison else searched).write(results, run_dir)]
    Terminal(to_stderr=as_json).lines(files)
    end({"files": files}, as_json)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the methods, their knobs and what each does.

    Example: `mixopt methods`
    """
    from mixopt.methods import METHODS

    rows: dict[str, dict[str, Any]] = {
        name: {
            "summary": (method.__doc__ or "").partition("\n")[0],
            "knobs": {f.name: f.default for f in fields(method)},
        }
        for name, method in METHODS.items()
    }
    table = [[n, ", ".join(f"{k}={v}" for k, v in row["knobs"].items()), row["summary"]] for n, row in rows.items()]
    Terminal(to_stderr=as_json).table(["method", "knobs", "what it does"], table)
    end(rows, as_json)


@app.command()
def laws(as_json: Json = False) -> None:
    """List the laws that relate mixtures to losses.

    Example: `mixopt laws`
    """
    from mixopt import laws as known
    from mixopt import scale_laws

    rows = {
        name: {"summary": known.summary(name), **asdict(known.capabilities(known.make(name))), "scale_aware": False}
        for name in known.LAWS
    }
    rows |= {name: {"summary": scale_laws.summary(name), "scale_aware": True} for name in scale_laws.SCALE_LAWS}
    shown = ["convex", "smooth", "posterior", "scale_aware", "min_runs", "summary"]
    titles = ["law", "convex", "gradient", "draws", "sizes, tokens, epochs", "runs for 10 domains", "what it is"]
    words = {True: "yes", False: "no", None: ""}
    table = [[name, *(words.get(row.get(key), str(row.get(key))) for key in shown)] for name, row in rows.items()]
    Terminal(to_stderr=as_json).table(titles, table)
    end(rows, as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this machine: versions, cores, memory, what is missing and how to install it.

    Example: `mixopt doctor`
    """
    from pipelines.doctor import examine

    findings = examine()
    Terminal(to_stderr=as_json).table(
        ["check", "found", "note"], [[f["check"], f["found"], f["note"]] for f in findings]
    )
    end({"findings": findings, "ok": all(f["ok"] for f in findings)}, as_json)


def end(body: Mapping[str, Any], as_json: bool) -> None:
    """The last line of standard output for machines."""
    if as_json:
        sys.stdout.write(json.dumps(body, allow_nan=False) + "\n")
        sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; errors that are meant for the user become a sentence and an exit code."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Laws multiply small matrices, which more threads only wait for: libraries still to be loaded, then numpy's.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    threadpool_limits(1, user_api="blas")
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for module in ("cli_tables", "cli_proxies", "cli_online", "cli_compare", "cli_full", "cli_shards"):
        importlib.import_module(f"pipelines.{module}")  # registers its commands
    try:
        code = app(args=argv, standalone_mode=False, prog_name="mixopt")
        sys.exit(code if isinstance(code, int) else 0)
    except UsageError as e:
        e.show()
        _fail(e.format_message(), 2, argv)
    except MixoptError as e:
        Terminal(to_stderr=True).error(str(e))
        _fail(str(e), e.exit_code, argv)
    except OSError as e:
        Terminal(to_stderr=True).error(f"{e.filename or 'files'}: {e.strerror or e}.")
        _fail(str(e), 2, argv)
    except (typer.Abort, KeyboardInterrupt):
        Terminal(to_stderr=True).error("stopped; run the same command again to go on where it was.")
        _fail("stopped", 130, argv)


def _fail(message: str, code: int, argv: Sequence[str]) -> None:
    end({"error": message, "exit_code": code}, "--json" in argv)
    sys.exit(code)
