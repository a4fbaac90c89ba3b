"""The checkpoints of a full run as files: which are complete, and which have lost bytes since."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

from mixopt.errors import RunFailed

BYTES = 12  # of a checkpoint for each parameter: the weight and two moments, in float32


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder: their last file is written when all others are."""
    return [path.parent for path in folder.glob("step*/.metadata.json") if path.parent.name[4:].isdigit()]


def refuse_full_disk(folder: Path, parameters: int) -> None:
    """Raise RunFailed where a checkpoint would not fit; those that are there stay as they are."""
    each, free = BYTES * parameters, shutil.disk_usage(folder).free
    if free < each:
        steps = sorted(int(path.name[4:]) for path in complete(folder))
        kept = f"That of step {steps[-1]} is kept" if steps else "There is none yet"
        raise RunFailed(
            f"{folder}: {free / 1e9:,.2f} GB are free, and a checkpoint of {parameters:,} parameters takes {each / 1e9:,.2f} GB. "
            f"{kept}: make room, or lower checkpoint.keep, and run the same command again."
        )


def sound(checkpoint: Path) -> bool:
    """Whether all files of a checkpoint are as long as its own index says."""
    data = checkpoint / "model_and_optim"
    try:
        with (data / ".metadata").open("rb") as file:
            parts = _Index(file).load().storage_data.values()
        return all((data / part.relative_path).stat().st_size >= part.offset + part.length for part in parts)
    except Exception:  # noqa: BLE001 - a pickle of half a file may raise anything
        return False


class _Part:
    """Where a tensor is: file, offset and length, whoever's class that was."""


class _Index(pickle.Unpickler):
    """Reads an index without loading the engine that wrote it."""

    def find_class(self, module: str, name: str) -> Any:
        return _Part if module.startswith("olmo_core.") else super().find_class(module, name)


def set_damaged_aside(folder: Path) -> None:
    """Rename checkpoints that lack bytes they should have, so that the one before is found."""
    for path in complete(folder):
        if not sound(path):
            aside = path.with_name(f"{path.name}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
