"""nanotron: `data_stages` over folders that datatrove tokenized, one file for each launch.

A launch reads its last stage alone, which must start one step after the launch before ended. So a schedule is as many
launches as phases, each with one stage more than the last; a folder goes on where the stages before left it.

Source: huggingface/nanotron, `get_dataloader` in run_train.py, `NanosetDatasetsArgs` and the checks of `data_stages` in
src/nanotron/config/config.py, `get_tb_datasets` in data/tokenized_bytes.py, `BlendableDataset` in data/nemo_dataset;
huggingface/datatrove, `DatatroveFolderDataset`, which ends where its folder ends.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    folder,
    left_out,
    number,
    quoted,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import LARGEST_BLEND, drawn_of, head, samples_of_phases, settle_phases, shares_of, unit_note
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CERTAINLY_ONE_PASS = 0.99
"""Epochs up to which a folder lasts for sure: every file in it ends with less than a sample that is not read."""


@dataclass(frozen=True)
class Nanotron:
    """Stages of blended folders. One sample is `sequence` tokens; `batch` is samples per step."""

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "nanotron"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `nanotron.yaml`, or `nanotron_0.yaml`, `nanotron_1.yaml`, ... for a schedule.

        Raises ExportError for phases shorter than a step.
        """
        samples = samples_of_phases(self.name, plan, self.sequence, self.batch)
        settled = settle_phases(self, plan, samples)
        names = [f"nanotron_{k}.yaml" if len(samples) > 1 else "nanotron.yaml" for k in range(len(samples))]
        ends = [math.ceil(n / self.batch) for n in accumulate(samples)]
        folders = {name: f"data/{folder(name)}" for name in plan.names}
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "batch": self.batch,
            "launches": [
                {"file": name, "samples": n, "train_steps": end}
                for name, n, end in zip(names, samples, ends, strict=True)
            ],
            "folders": folders,
        }
        again = [name for name, epochs in plan.epochs.items() if epochs > CERTAINLY_ONE_PASS]
        notes = self._notes(plan, settled, ends, again)
        stages: list[str] = []
        files: dict[str, str] = {}
        for k, phase in enumerate(settled):
            start = ends[k - 1] + 1 if k else 1
            stages += stage_of(k, start, {folders[name]: p for name, p in phase.mixture.items()}, loops=bool(again))
            files[names[k]] = "\n".join([*head(plan, notes), "data_stages:", *stages]) + "\n"
        page = readme(plan, "nanotron", notes, launch(numbers, Path()))
        return write(out, {**files, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines of each launch."""
        return launch(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the launches draw from each folder. Raises ExportError where nanotron stops."""
        numbers = read_numbers(out)
        drawn: Counter[str] = Counter()
        done = 0
        for step in numbers["launches"]:
            stages = parse_as_pyyaml((out / step["file"]).read_text(encoding="utf-8"))["data_stages"]
            drawn.update(samples_of(stages, done, step["samples"]))
            done = step["train_steps"]
        return shares_of(drawn, numbers["folders"])

    def _notes(self, plan: Plan, settled: Sequence[Settled], ends: Sequence[int], again: Sequence[str]) -> list[str]:
        notes = [
            unit_note(self.sequence),
            *left_out(settled),
            "Folders `data/<name>` are placeholders: put those that datatrove wrote. nanotron's main wants `s3` in paths.",
        ]
        if again:
            notes.append(
                f"Read more than once: {', '.join(quoted(name) for name in again)}. Only `use_old_brrr_dataloader` begins "
                "a folder again; the other loader ends with an IndexError."
            )
        if len(ends) == 1:
            samples = math.ceil(plan.target_tokens / self.sequence)
            return [*notes, f"`tokens.train_steps` x the global batch should be {samples:,} samples."]
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            notes.append(
                f"Phase {k} starts at token {start:,}, step {ends[k - 1] + 1:,} of {self.batch} samples; its launch "
                f"resumes from the checkpoint of step {ends[k - 1]:,} (`checkpoints.resume_checkpoint_path`)."
            )
        return [*notes, "Set `lr_decay_steps`: else it follows `train_steps`, which differ from launch to launch."]


def stage_of(k: int, start: int, sources: Mapping[str, float], loops: bool) -> list[str]:
    """Stage `k`, from step `start` on."""
    return [
        f"- name: phase_{k}",
        f"  start_training_step: {start}",
        "  data:",
        "    seed: 42",
        "    num_loading_workers: 1",
        "    dataset:",
        *(["      use_old_brrr_dataloader: true"] if loops else []),
        "      dataset_folder:",
        *(f"      - {quoted(source)}" for source in sources),
        "      dataset_weights:",
        *(f"      - {number(p)}" for p in sources.values()),
    ]


def launch(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """`base.yaml` is the rest of the configuration, without `data_stages`; a schedule is launched phase by phase."""
    lines = []
    for step in numbers["launches"]:
        file = shlex.quote(str(out / step["file"]))
        base = f"cat base.yaml {file}"
        if len(numbers["launches"]) > 1:
            change = f"s/^\\( *train_steps:\\).*/\\1 {step['train_steps']}/"
            base = f"sed {shlex.quote(change)} base.yaml | cat - {file}"
        lines += [f"{base} > train.yaml", "torchrun --nproc_per_node=8 run_train.py --config-file train.yaml"]
    return lines


def samples_of(stages: Sequence[Mapping[str, Any]], done: int, size: int) -> dict[str, int]:
    """Samples of each folder in a launch of `size` samples after `done` steps. Raises ExportError where nanotron stops."""
    starts = [stage["start_training_step"] for stage in stages]
    if starts[0] != 1 or starts != sorted(set(starts)) or len({stage["name"] for stage in stages}) < len(stages):
        raise ExportError(f"nanotron: stages need names of their own and rising starts from 1 (got {starts}).")
    if starts[-1] != done + 1:
        raise ExportError(f"nanotron: the last stage must start at step {done + 1} (got {starts[-1]}).")
    dataset = stages[-1]["data"]["dataset"]
    folders, weights = dataset["dataset_folder"], dataset["dataset_weights"]
    if len(folders) != len(weights) or len(folders) > LARGEST_BLEND or not sum(weights) > 0:
        raise ExportError(f"nanotron: needs as many weights as folders, with a sum above 0 (got {len(weights)}).")
    return drawn_of(folders, weights, size)
