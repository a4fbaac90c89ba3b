"""A run in the middle of its training, as one file: tensors, and JSON in the file's header.

    folder/<run id>.safetensors

One file, written under another name and renamed: a killed writer leaves the checkpoint before it. A run is kept by
itself, not with its stack, so that it can go on in any stack. What searches that were given up have left may be deleted
at any time. The only home of safetensors, which training without checkpoints does not need.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

VERSION = "mixopt.checkpoint/v1"


def save(folder: Path, run_id: str, tensors: dict[str, Tensor], body: dict[str, Any]) -> None:
    """Keep this state in place of any before it."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, run_id)
    half = path.with_suffix(f".{os.getpid()}.half")
    save_file(tensors, half, {"schema": VERSION, "run": json.dumps(body)})
    half.replace(path)


def load(folder: Path, run_id: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The state of a run, or None where there is none that can be read: then the run begins again."""
    from safetensors import SafetensorError, safe_open

    path = _path(folder, run_id)
    try:
        with safe_open(path, "pt") as f:
            header = f.metadata() or {}
            if header.get("schema") != VERSION:
                return None
            return {name: f.get_tensor(name) for name in f.keys()}, json.loads(header["run"])  # noqa: SIM118 - no mapping
    except (FileNotFoundError, SafetensorError, ValueError):
        return None


def drop(folder: Path, run_id: str) -> None:
    """Forget a run that has ended."""
    _path(folder, run_id).unlink(missing_ok=True)


def _path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.safetensors"
