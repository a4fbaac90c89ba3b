"""Megatron-Bridge: prefixes and weights as JSON, for `cfg.dataset.blend` of a `GPTDatasetConfig`.

`blend` is read by every version and wins over `data_path`; a field `blend_weights`, which its migration guide shows, is
not in the class.

Source: NVIDIA-NeMo/Megatron-Bridge, `GPTDatasetConfig.finalize` in src/megatron/bridge/training/config.py; the rest is the
builder of megatron-core 0.16.1.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Tail,
    as_json,
    number,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import SPLIT, one_blend, placeholders, prefixes_of, shares_of, split_notes
from mixopt.backends.megatron import samples_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan

BLEND = "blend.json"


@dataclass(frozen=True)
class MegatronBridge:
    """One blend of indexed datasets for the whole run. One sample is `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "megatron-bridge"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `blend.json`. Raises ExportError for schedules and for prefixes that a blend cannot hold."""
        blend = one_blend(self, plan, prefixes_of(self.name, plan), "a dataset configuration has one blend")
        lists = {"prefixes": list(blend.weights), "weights": list(blend.weights.values())}
        notes = blend.notes(
            *placeholders(plan),
            "`cfg.dataset` must be a `GPTDatasetConfig`: the mock data of a recipe refuses a blend.",
            "`cfg.model.seq_length` must be the same.",
            *split_notes(plan),
        )
        page = readme(plan, "Megatron-Bridge", notes, lines_of(blend.samples, self.sequence, Path()))
        return write(out, {BLEND: as_json(lists), NUMBERS: as_json(blend.numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        numbers = read_numbers(out)
        return lines_of(numbers["samples"], numbers["sequence"], out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the builder requests. Raises ExportError where it asserts."""
        numbers = read_numbers(out)
        blend = json.loads((out / BLEND).read_text(encoding="utf-8"))
        prefixes, weights = blend["prefixes"], blend["weights"]
        if len(prefixes) != len(weights):
            raise ExportError(f"megatron-bridge: {len(prefixes)} prefixes with {len(weights)} weights.")
        words = [word for prefix, p in zip(prefixes, weights, strict=True) for word in (number(p), prefix)]
        return shares_of(samples_of(words, numbers["samples"]), numbers["sources"])


def lines_of(samples: int, sequence: int, out: Path) -> list[str]:
    """Python for the training script, after `cfg` is made and before it is used."""
    return [
        "import json",
        "import math",
        "from pathlib import Path",
        f"blend = json.loads(Path({str(out / BLEND)!r}).read_text(encoding='utf-8'))",
        "cfg.dataset.blend = (blend['prefixes'], blend['weights'])",
        "cfg.dataset.blend_per_split = None",
        f"cfg.dataset.split = {SPLIT!r}",
        f"cfg.dataset.sequence_length = {sequence}",
        f"cfg.train.train_iters = math.ceil({samples} / cfg.train.global_batch_size)",
    ]
