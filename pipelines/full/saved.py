"""The checkpoints of a full run as files: which are complete, and which have lost bytes since."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any


def complete(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder: their last file is written when all others are."""
    return [path.parent for path in folder.glob("step*/.metadata.json") if path.parent.name[4:].isdigit()]


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
