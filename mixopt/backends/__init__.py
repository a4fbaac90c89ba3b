"""The frameworks that train the real model, and the export of one plan to any of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from mixopt.backends.axolotl import Axolotl
from mixopt.backends.base import NUMBERS, Backend, Tail, largest_deviation
from mixopt.backends.easydel import EasyDel
from mixopt.backends.fairseq2 import Fairseq2
from mixopt.backends.fast_llm import FastLLM
from mixopt.backends.gpt_neox import GPTNeoX
from mixopt.backends.grain import Grain
from mixopt.backends.hf_datasets import HFDatasets
from mixopt.backends.levanter import Levanter
from mixopt.backends.litdata import LitData
from mixopt.backends.llm_foundry import LlmFoundry
from mixopt.backends.lm_engine import LMEngine
from mixopt.backends.maxtext import MaxText
from mixopt.backends.megatron import Megatron
from mixopt.backends.megatron_bridge import MegatronBridge
from mixopt.backends.nanotron import Nanotron
from mixopt.backends.nemo import NeMo
from mixopt.backends.olmo_composable import OlmoComposable
from mixopt.backends.olmo_core import OlmoCore
from mixopt.backends.streaming import Streaming
from mixopt.backends.torchtitan import TorchTitan
from mixopt.errors import ExportError, JobError, did_you_mean
from mixopt.handoff import Plan

ALL = "all"
"""In the place of names: every backend that can express the plan."""


@dataclass(frozen=True)
class Stack:
    """What its weights are shares of, whether it follows a schedule, and its backend for a tail and a sequence.

    Samples are all of the sequence's length, so their shares are shares of tokens; documents are not.
    """

    unit: str
    schedule: bool
    make: Callable[[Tail, int], Backend]


BACKENDS: dict[str, Stack] = {
    "axolotl": Stack("documents", False, lambda tail, sequence: Axolotl(tail=tail, sequence=sequence)),
    "easydel": Stack("documents", True, lambda tail, sequence: EasyDel(tail=tail)),
    "fairseq2": Stack("documents", False, lambda tail, sequence: Fairseq2(tail=tail, sequence=sequence)),
    "fast-llm": Stack("samples", False, lambda tail, sequence: FastLLM(tail=tail, sequence=sequence)),
    "gpt-neox": Stack("samples", False, lambda tail, sequence: GPTNeoX(tail=tail, sequence=sequence)),
    "grain": Stack("samples", True, lambda tail, sequence: Grain(tail=tail, sequence=sequence)),
    "hf-datasets": Stack("documents", False, lambda tail, sequence: HFDatasets(tail=tail)),
    "levanter": Stack("samples", True, lambda tail, sequence: Levanter(tail=tail, sequence=sequence)),
    "litdata": Stack("samples", False, lambda tail, sequence: LitData(tail=tail, sequence=sequence)),
    "llm-foundry": Stack("samples", True, lambda tail, sequence: LlmFoundry(tail=tail, sequence=sequence)),
    "lm-engine": Stack("samples", False, lambda tail, sequence: LMEngine(tail=tail, sequence=sequence)),
    "maxtext": Stack("documents", True, lambda tail, sequence: MaxText(tail=tail, sequence=sequence)),
    "megatron": Stack("samples", True, lambda tail, sequence: Megatron(tail=tail, sequence=sequence)),
    "megatron-bridge": Stack("samples", False, lambda tail, sequence: MegatronBridge(tail=tail, sequence=sequence)),
    "nanotron": Stack("samples", True, lambda tail, sequence: Nanotron(tail=tail, sequence=sequence)),
    "nemo": Stack("samples", False, lambda tail, sequence: NeMo(tail=tail, sequence=sequence)),
    "olmo-core": Stack("tokens", False, lambda tail, sequence: OlmoCore(tail=tail, sequence=sequence)),
    "olmo-core-composable": Stack("tokens", True, lambda tail, sequence: OlmoComposable(tail=tail, sequence=sequence)),
    "streaming": Stack("samples", True, lambda tail, sequence: Streaming(tail=tail, sequence=sequence)),
    "torchtitan": Stack("samples", False, lambda tail, sequence: TorchTitan(tail=tail, sequence=sequence)),
}


class Exported(TypedDict):
    """What `export_all` wrote, how far each backend is from the plan, and what of the plan was left out.

    `absent` are domains that a backend does not read, though the plan does (`zero` are those that it does not), `epochs` how
    often it reads the others. `lines` are what to paste; `refused` says why of each backend that cannot express the plan.
    """

    files: dict[str, list[Path]]
    max_deviation: dict[str, float]
    absent: dict[str, list[str]]
    epochs: dict[str, dict[str, float]]
    lines: dict[str, list[str]]
    refused: dict[str, str]
    zero: list[str]
    notes: list[str]


def make(name: str, tail: Tail = "drop", sequence: int = 4096) -> Backend:
    """The backend of this name. `sequence` is the real model's, in tokens. Raises JobError for an unknown name."""
    if name not in BACKENDS:
        raise JobError(f"backends: unknown {name!r}; {did_you_mean(name, BACKENDS)}")
    return BACKENDS[name].make(tail, sequence)


def export_all(
    plan: Plan, backends: Sequence[str], out_dir: Path, tail: Tail = "drop", sequence: int = 4096
) -> Exported:
    """Write one folder for each backend, all of them or none; a folder that is there is complete.

    With "all" among the names, those that are not named and cannot express the plan are left out, and earlier exports of
    them removed. Raises ExportError with one sentence for each backend that cannot, JobError for unknown names.
    """
    every = ALL in backends
    named = [name for name in backends if name != ALL]
    made = {name: make(name, tail, sequence) for name in [*named, *(BACKENDS if every else [])]}
    foreign = [name for name in made if (out_dir / name).exists() and not (out_dir / name / NUMBERS).exists()]
    if foreign:
        raise ExportError(
            f"{out_dir}: {', '.join(foreign)} is there and was not exported by mixopt. Use another folder."
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".export-") as temporary:
        staging = Path(temporary)
        exported, refused = _stage(plan, made, staging)
        if not exported or any(name in refused for name in named):
            raise ExportError("\n".join(f"{name}: {why}" for name, why in refused.items()))
        for name in made:
            if (out_dir / name).exists():
                shutil.move(out_dir / name, staging / f"{name}.old")
            if name in exported:
                (staging / name).rename(out_dir / name)
    mixture = plan.mixture
    return {
        "files": {name: [out_dir / name / file for file in files] for name, (files, _) in exported.items()},
        "max_deviation": {name: largest_deviation(plan, shares) for name, (_, shares) in exported.items()},
        "absent": {n: [d for d, p in mixture.items() if p > 0 and d not in e] for n, (_, e) in exported.items()},
        "epochs": {
            name: {d: p * plan.target_tokens / plan[d].available_tokens for d, p in shares.items()}
            for name, (_, shares) in exported.items()
        },
        "lines": {name: made[name].command(out_dir / name) for name in exported},
        "refused": refused,
        "zero": [name for name, p in mixture.items() if p == 0],
        "notes": notes(plan),
    }


def following(plan: Plan) -> Plan:
    """The plan with the schedule that the search followed in the place of its mean. Raises ExportError without one."""
    if not plan.schedule:
        raise ExportError("--schedule: mixture.json holds no schedule; the search followed none. Leave the option out.")
    return replace(plan, phases=plan.schedule, schedule=())


def notes(plan: Plan) -> list[str]:
    """A sentence where the plan holds a schedule: what is exported is its mean."""
    count = len(plan.schedule)
    if not count:
        return []
    said = f"The search followed a schedule of {count} phases (`schedule` in mixture.json)"
    return [f"{said}; exported is its mean by tokens, one mixture for the whole run. `--schedule` exports the phases."]


def _stage(
    plan: Plan, made: Mapping[str, Backend], staging: Path
) -> tuple[dict[str, tuple[list[str], dict[str, float]]], dict[str, str]]:
    """Export to folders in `staging`: file names and the shares read back of each backend, and why others refuse."""
    exported: dict[str, tuple[list[str], dict[str, float]]] = {}
    refused: dict[str, str] = {}
    for name, backend in made.items():
        try:
            files = backend.export(plan, staging / name)
            exported[name] = [path.name for path in files], backend.read_back(staging / name)
        except ExportError as e:
            refused[name] = str(e).removeprefix(f"{name}: ")
    return exported, refused
