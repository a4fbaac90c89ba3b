"""GPT-NeoX: `train-data-paths` and `train-data-weights` in a file of their own, beside the other configuration files.

Source: EleutherAI/gpt-neox, `build_train_valid_test_data_loaders` and `validate_train_epochs` in megatron/data/data_utils.py,
`BlendableDataset` (a uint8 index), and `validate_values` in megatron/neox_arguments/arguments.py.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Tail,
    as_json,
    folder,
    number,
    quoted,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import drawn_of, head, one_blend, placeholders, prefixes_of, shares_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "gpt_neox.yml"
LARGEST_BLEND = 254


@dataclass(frozen=True)
class GPTNeoX:
    """One blend of whole indexed datasets for the whole run. One sample is `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "gpt-neox"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `gpt_neox.yml`. Raises ExportError for schedules and for more than 254 domains with a proportion."""
        prefixes = prefixes_of(self.name, plan)
        blend = one_blend(self, plan, prefixes, "it has one list of weights", LARGEST_BLEND)
        notes = blend.notes(
            *placeholders(plan),
            "GPT-NeoX takes these datasets whole and wants others to validate and test: `data/<name>_valid` is a placeholder.",
            f"`seq_length` must be {self.sequence} and `train_iters` x `train_batch_size` {blend.samples:,} samples.",
            "`train_epochs` is refused with weights.",
            "A key that is in two files is an error; `data_path` must be in none.",
        )
        held_out = [f"- {quoted(f'data/{folder(name)}_valid_text_document')}" for name in blend.settled.mixture]
        lines = [
            *head(plan, notes),
            '"train-data-paths":',
            *(f"- {quoted(prefix)}" for prefix in blend.weights),
            '"train-data-weights":',
            *(f"- {number(p)}" for p in blend.weights.values()),
            '"valid-data-paths":',
            *held_out,
            '"test-data-paths":',
            *held_out,
            '"weight_by_num_documents": false  # true would override the weights',
        ]
        page = readme(plan, "GPT-NeoX", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(blend.numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell line."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the blend draws of each prefix."""
        numbers = read_numbers(out)
        config = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))
        return shares_of(samples_of(config, numbers["samples"]), numbers["sources"])


def launch(out: Path) -> list[str]:
    """`base.yml` is the rest of the configuration."""
    return [shlex.join(["python", "deepy.py", "train.py", "base.yml", str(out / CONFIG)])]


def samples_of(config: Mapping[str, Any], size: int) -> dict[str, int]:
    """Samples of each prefix in a run of `size` samples. Raises ExportError where GPT-NeoX asserts or ignores weights."""
    arguments = {key.replace("-", "_"): value for key, value in config.items()}
    paths: Sequence[str] = arguments["train_data_paths"]
    weights: Sequence[float] = arguments["train_data_weights"]
    if not all(arguments.get(f"{split}_data_paths") for split in ("valid", "test")):
        raise ExportError("gpt-neox: needs valid-data-paths and test-data-paths beside train-data-paths.")
    if len(paths) != len(weights) or len(paths) > LARGEST_BLEND or not sum(weights) > 0:
        raise ExportError(f"gpt-neox: needs as many weights as paths, at most {LARGEST_BLEND}, with a sum above 0.")
    if arguments.get("weight_by_num_documents") or arguments.get("train_epochs"):
        raise ExportError("gpt-neox: weight_by_num_documents overrides the weights and train_epochs excludes them.")
    return drawn_of(paths, weights, size)
