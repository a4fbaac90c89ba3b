"""The command that writes the token store in the files of other frameworks: shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli import Json, app, end
from pipelines.progress import Bars
from pipelines.terminal import Terminal


@app.command()
def shards(
    run_dir: Annotated[
        Path, typer.Argument(help="A run directory, or a folder of prepared text (store/data/KEY).", metavar="RUN_DIR")
    ],
    to: Annotated[str, typer.Option(help="megatron (.bin and .idx) or olmo (.npy without a header).")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    as_json: Json = False,
) -> None:
    """Write the prepared tokens, without the held-out documents and beside them, as other frameworks read them.

    Of a run directory, mixture.json then names the files, and `mixopt export` with it.

    Example: `mixopt shards runs/a --to megatron --out data/megatron`
    """
    from mixopt import handoff
    from mixopt.domains import Manifest
    from mixopt.errors import DataError
    from pipelines import write_shards

    mixture = run_dir / "mixture.json"
    plan = handoff.load(mixture) if mixture.exists() else None
    prepared = (plan.provenance or {}).get("prepared") if plan else run_dir
    if prepared is None:
        raise DataError(f"{mixture}: does not say where the prepared text is. Give its folder instead of {run_dir}.")
    written = write_shards.write(Manifest.load(Path(prepared).expanduser()), to, out, Bars())
    say, named = Terminal(to_stderr=as_json), {}
    table = [
        [name, split, f"{own['tokens']:,}", own["dtype"], own.get("prefix") or f"{len(own['files'])} files"]
        for name, splits in written["domains"].items()
        for split, own in splits.items()
    ]
    say.table(["domain", "split", "tokens", "type", "where"], table)
    if plan:
        named = write_shards.sources(written, out, plan)
        handoff.complete(mixture, named)
        left = [name for name in plan.names if name not in named]
        say.lines([f"{mixture} names the files of {', '.join(named) or 'no domain'}."])
        say.lines([f"Not of {', '.join(left)}: the real run has more of it than was prepared."] if left else [])
    end({"out": str(out), "shards": written, "named": sorted(named)}, as_json)
