"""The frameworks that train the real model, and the export of one plan to any of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from mixopt.backends.axolotl import Axolotl
from mixopt.backends.base import NUMBERS, Backend, Tail, deviation
from mixopt.backends.easydel import EasyDel
from mixopt.backends.fairseq2 import Fairseq2
from mixopt.backends.hf_datasets import HFDatasets
from mixopt.backends.levanter import Levanter
from mixopt.backends.llm_foundry import LlmFoundry
from mixopt.backends.megatron import Megatron
from mixopt.backends.olmo_core import OlmoCore
from mixopt.backends.streaming import Streaming
from mixopt.errors import ExportError, JobError, did_you_mean
from mixopt.handoff import Plan

BACKENDS: dict[str, Callable[[Tail, int], Backend]] = {
    "megatron": lambda tail, sequence: Megatron(tail=tail, sequence=sequence),
    "olmo-core": lambda tail, sequence: OlmoCore(tail=tail, sequence=sequence),
    "hf-datasets": lambda tail, sequence: HFDatasets(tail=tail),
    "streaming": lambda tail, sequence: Streaming(tail=tail, sequence=sequence),
    "levanter": lambda tail, sequence: Levanter(tail=tail, sequence=sequence),
    "easydel": lambda tail, sequence: EasyDel(tail=tail),
    "axolotl": lambda tail, sequence: Axolotl(tail=tail, sequence=sequence),
    "fairseq2": lambda tail, sequence: Fairseq2(tail=tail, sequence=sequence),
    "llm-foundry": lambda tail, sequence: LlmFoundry(tail=tail, sequence=sequence),
}


class Exported(TypedDict):
    """What `export_all` wrote, how far each backend is from the plan, and what of the plan was left out."""

    files: dict[str, list[Path]]
    max_deviation: dict[str, float]
    notes: list[str]


def make(name: str, tail: Tail = "drop", sequence: int = 4096) -> Backend:
    """The backend of this name. `sequence` is the real model's, in tokens. Raises JobError for an unknown name."""
    if name not in BACKENDS:
        raise JobError(f"backends: unknown {name!r}; {did_you_mean(name, BACKENDS)}")
    return BACKENDS[name](tail, sequence)


def export_all(
    plan: Plan, backends: Sequence[str], out_dir: Path, tail: Tail = "drop", sequence: int = 4096
) -> Exported:
    """Write one folder for each backend, all of them or none; a folder that is there is complete.

    Raises ExportError with one sentence for each backend that cannot express the plan, JobError for unknown names.
    """
    made = {name: make(name, tail, sequence) for name in backends}
    foreign = [name for name in made if (out_dir / name).exists() and not (out_dir / name / NUMBERS).exists()]
    if foreign:
        raise ExportError(
            f"{out_dir}: {', '.join(foreign)} is there and was not exported by mixopt. Use another folder."
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[Path]] = {}
    deviations: dict[str, float] = {}
    refused: list[str] = []
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".export-") as temporary:
        for name, backend in made.items():
            staged = Path(temporary) / name
            try:
                files[name] = [out_dir / name / path.name for path in backend.export(plan, staged)]
                deviations[name] = deviation(plan, backend, staged)
            except ExportError as e:
                refused.append(str(e))
        if refused:
            raise ExportError("\n".join(refused))
        for name in made:
            if (out_dir / name).exists():
                shutil.move(out_dir / name, Path(temporary) / f"{name}.old")
            (Path(temporary) / name).rename(out_dir / name)
    return {"files": files, "max_deviation": deviations, "notes": notes(plan)}


def notes(plan: Plan) -> list[str]:
    """A sentence where the plan holds a schedule: what is exported is its mean."""
    count = len(plan.schedule)
    if not count:
        return []
    said = f"The search followed a schedule of {count} phases (`schedule` in mixture.json)"
    return [f"{said}; exported is its mean by tokens, one mixture for the whole run."]
