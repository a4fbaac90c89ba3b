"""lm-engine: the `datasets` section with one `MegatronDataset`, its `data_path` a weight and a prefix by turns.

`data_sampling_ratio` is for the lists of fine-tuning; pretraining reads the first dataset alone.

Source: open-lm-engine/lm-engine, `get_megatron_gpt_dataloaders` in lm_engine/data/megatron/__init__.py and
`_get_prefixes_weights_and_sizes_for_blend` in blended_megatron_dataset_builder.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Tail,
    as_json,
    number,
    quoted,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import (
    LARGEST_BLEND,
    SPLIT,
    drawn_of,
    head,
    one_blend,
    placeholders,
    prefixes_of,
    shares_of,
    split_notes,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "lm_engine.yml"


@dataclass(frozen=True)
class LMEngine:
    """One blend of indexed datasets for the whole run. One sample is `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "lm-engine"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `lm_engine.yml`. Raises ExportError for schedules and for prefixes that a blend cannot hold."""
        blend = one_blend(self, plan, prefixes_of(self.name, plan), "its pretraining reads one blend")
        notes = blend.notes(
            *placeholders(plan),
            f"`num_training_steps` times the samples of a step, over all devices, should be {blend.samples:,} samples.",
            *split_notes(plan),
        )
        lines = [
            *head(plan, notes),
            "datasets:",
            "- class_name: MegatronDataset",
            "  data_name: Megatron",
            "  data_sampling_ratio: 1",
            "  class_args:",
            "    data_path:",
            *(f"    - {word}" for prefix, p in blend.weights.items() for word in (number(p), quoted(prefix))),
            f'    split: "{SPLIT}"',
            f"    sequence_length: {self.sequence}",
            "    data_cache_path: cache",
            "    eval_steps: 2",
        ]
        page = readme(plan, "lm-engine", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(blend.numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the blend draws of each prefix."""
        numbers = read_numbers(out)
        datasets = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))["datasets"]
        if len(datasets) != 1:
            raise ExportError(f"lm-engine: pretraining wants one dataset (got {len(datasets)}).")
        return shares_of(samples_of(datasets[0]["class_args"]["data_path"], numbers["samples"]), numbers["sources"])


def launch(out: Path) -> list[str]:
    """`base.yml` is the rest of the configuration, without `datasets`."""
    joined = shlex.join(["cat", "base.yml", str(out / CONFIG)])
    return [f"{joined} > train.yml", "torchrun --nproc_per_node=8 -m lm_engine.pretrain --config train.yml"]


def samples_of(blend: Sequence[Any], size: int) -> dict[str, int]:
    """Samples of each prefix in a run of `size` samples. Raises ExportError where lm-engine stops."""
    if len(blend) == 1:
        return {blend[0]: size}
    if len(blend) % 2 or len(blend) // 2 > LARGEST_BLEND:
        raise ExportError(f"lm-engine: a blend is pairs of a weight and a prefix (got {len(blend)} words).")
    try:
        weights = [float(word) for word in blend[::2]]
    except ValueError as e:
        raise ExportError(f"lm-engine: a weight of the blend is not a number ({e}).") from e
    return drawn_of([prefix.strip() for prefix in blend[1::2]], weights, size)
