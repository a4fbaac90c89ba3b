"""A run as one file: tensors, and JSON in the file's header.

    partial/<run id>.safetensors    what `save` keeps: weights, moments, and where its policy is
    weights/<run id>.safetensors    what `keep` keeps: final weights, for runs that refer to this one

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

from mixopt.errors import DataError, RunFailed
from mixopt.runs import Proxy

VERSION = "mixopt.checkpoint/v2"
KEPT = "mixopt.weights/v1"


def save(folder: Path, run_id: str, tensors: dict[str, Tensor], body: dict[str, Any]) -> None:
    """Keep this state in place of any before it."""
    _write(folder, run_id, tensors, {"schema": VERSION, "run": json.dumps(body)})


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
    except (FileNotFoundError, SafetensorError, ValueError, RuntimeError):  # the last of torch, if replaced meanwhile
        return None


def drop(folder: Path, run_id: str) -> None:
    """Forget a run that has ended."""
    _path(folder, run_id).unlink(missing_ok=True)


def keep(folder: Path, run_id: str, weights: Tensor, proxy: Proxy) -> None:
    """Keep the weights [P] with which a run of this proxy has ended. They are on the disk when this returns."""
    header = {"schema": KEPT} | {name: str(value) for name, value in _form(proxy).items()}
    _write(folder, run_id, {"weights": weights}, header, synced=True)


def kept(folder: Path, run_id: str, proxy: Proxy) -> Tensor:
    """The weights [P] that a run kept, for runs of this proxy to be compared with.

    Raises RunFailed where there are none that can be read, DataError where they are those of another kind of proxy.
    """
    from safetensors import SafetensorError, safe_open

    path = _path(folder, run_id)
    again = f"delete its record runs/{run_id[:2]}/{run_id}.json in the store, to train it again."
    try:
        with safe_open(path, "pt") as f:
            header, weights = f.metadata() or {}, f.get_tensor("weights")
    except FileNotFoundError as e:
        raise RunFailed(f"reference run {run_id}: its weights are not in {path}. If it has ended, {again}") from e
    except (SafetensorError, OSError) as e:
        raise RunFailed(f"reference run {run_id}: {path} cannot be read ({e}). Delete the file, and {again}") from e
    for name, wanted in _form(proxy).items():
        if header.get(name) != str(wanted):
            raise DataError(
                f"reference run {run_id}: its {name} is {header.get(name)}, that of the runs which refer to it {wanted} ({path}). "
                f"Losses of the two cannot be compared: refer to a run of the same {name}. If that one should be, {again}"
            )
    return weights


def _form(proxy: Proxy) -> dict[str, str | int]:
    """What two runs must share for their losses on a row to be comparable; `data` stands for the tokenizer too."""
    return {"size": proxy.size, "sequence": proxy.sequence, "data": proxy.data}


def _write(folder: Path, run_id: str, tensors: dict[str, Tensor], header: dict[str, str], synced: bool = False) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = _path(folder, run_id)
    half = path.with_suffix(f".{os.getpid()}.half")
    save_file(tensors, half, header)
    if synced:
        with half.open("rb") as f:
            os.fsync(f.fileno())
    half.replace(path)


def _path(folder: Path, run_id: str) -> Path:
    return folder / f"{run_id}.safetensors"
