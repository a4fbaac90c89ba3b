"""NeMo 2: the words of a blend as JSON, for `PreTrainingDataModule(paths=...)`.

Source: NVIDIA/NeMo, `is_zipped_list` and `PreTrainingDataModule` in nemo/collections/llm/gpt/data/pre_training.py, which
gives the words to `get_blend_from_list` of megatron-core and drops the weight of a single path.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from mixopt.backends.megatron import blend_of, samples_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan

PATHS = "paths.json"


@dataclass(frozen=True)
class NeMo:
    """One blend of indexed datasets for the whole run. One sample is `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "nemo"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `paths.json`. Raises ExportError for schedules and for prefixes that a blend cannot hold."""
        blend = one_blend(self, plan, prefixes_of(self.name, plan), "a data module has one blend")
        words = [word for prefix, p in blend.weights.items() for word in (number(p), prefix)]
        notes = blend.notes(
            *placeholders(plan),
            "NeMo looks for all files before it starts.",
            *split_notes(plan),
            "`limit_val_batches` must be a count of batches: fractions up to 1.0 are refused with one blend.",
        )
        page = readme(plan, "NeMo", notes, lines_of(blend.samples, self.sequence, Path()))
        return write(out, {PATHS: as_json({"paths": words}), NUMBERS: as_json(blend.numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        numbers = read_numbers(out)
        return lines_of(numbers["samples"], numbers["sequence"], out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the builder requests of each prefix."""
        numbers = read_numbers(out)
        words = json.loads((out / PATHS).read_text(encoding="utf-8"))["paths"]
        return shares_of(samples_of_paths(words, numbers["samples"]), numbers["sources"])


def samples_of_paths(words: Sequence[str], size: int) -> dict[str, int]:
    """Samples of each prefix for a run of `size` samples. Raises ExportError where NeMo or Megatron asserts."""
    numeric = [is_number(word) for word in words[::2]]
    if any(numeric) and not all(numeric):
        raise ExportError("nemo: some weights of the blend are not numbers.")
    prefixes, _ = blend_of(words)
    return {prefixes[0]: size} if len(prefixes) == 1 else samples_of(words, size)


def is_number(word: str) -> bool:
    """Whether NeMo takes a word for a weight."""
    try:
        float(word)
    except ValueError:
        return False
    return True


def lines_of(samples: int, sequence: int, out: Path) -> list[str]:
    """Python for the training script, which has a `tokenizer` and a `global_batch_size` in samples."""
    return [
        "import json",
        "import math",
        "from pathlib import Path",
        "from nemo.collections.llm.gpt.data.pre_training import PreTrainingDataModule",
        "data = PreTrainingDataModule(",
        f"    paths=json.loads(Path({str(out / PATHS)!r}).read_text(encoding='utf-8'))['paths'],",
        f"    seq_length={sequence},",
        "    tokenizer=tokenizer,",
        "    global_batch_size=global_batch_size,",
        f"    split={SPLIT!r},",
        ")",
        f"max_steps = math.ceil({samples} / global_batch_size)  # of the trainer",
    ]
