"""EasyDeL: a Python file with its mixing stage, which draws documents in blocks; schedules as a step function.

Token proportions become shares of documents through the mean tokens per document of each domain. A schedule's `step` is
not a training step: it counts the documents that were drawn, and is looked at once per block.

Source: erfanzar/EasyDeL, `MixedShardedSource`, `WeightScheduler` and `block_mixture_interleave` in
easydel/data/transforms/mixture.py, `MixStageConfig` in easydel/data/core/config.py; easydel 0.3.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Tail,
    as_json,
    document_lengths,
    left_out,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blocks import Blocked, Samples, shares
from mixopt.errors import ExportError
from mixopt.handoff import Plan

MODULE = "mixture.py"
BLOCKS = tuple(2**k for k in range(6, 18))
SUM_TOLERANCE = 1e-6

CODE = '''"""The mixture of `numbers.json` as EasyDeL's mixing stage; needs easydel >= 0.3."""

import json
from pathlib import Path

from easydel.data.core.config import MixStageConfig, WeightSchedulePoint

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def stage(seed=42):
    """The stage for `Pipeline.mix`, before packing; datasets have the names of the domains."""
    phases = NUMBERS["phases"]
    schedule = [WeightSchedulePoint(step=phase["step"], weights=phase["weights"]) for phase in phases]
    return MixStageConfig(
        weights=phases[0]["weights"],
        weight_schedule=schedule if len(phases) > 1 else None,
        weight_schedule_type="step",
        block_size=NUMBERS["block"],
        stop_strategy="restart",
        seed=seed,
    )
'''


@dataclass(frozen=True)
class EasyDel:
    """Documents in blocks; a domain that is used up starts again."""

    tail: Tail = "drop"
    name: ClassVar[str] = "easydel"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers. Raises ExportError for unknown document lengths."""
        lengths = document_lengths(plan, self.name)
        blocked = Samples(self.name, lengths, BLOCKS).choose(plan, self.tail)
        names = sorted({name for phase in blocked.settled for name in phase.mixture})
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "target_documents": blocked.samples,
            "block": blocked.block,
            "phases": [
                {"step": start, "weights": dict.fromkeys(names, 0.0) | blocked.weights(k)}
                for k, start in enumerate(blocked.starts)
            ],
            "mean_tokens_per_doc": {name: lengths[name] for name in names},
        }
        page = readme(plan, "EasyDeL", notes_of(plan, blocked), lines_of(Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        read_numbers(out)
        return lines_of(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Expected shares of tokens, phase by phase. Raises ExportError where EasyDeL refuses the weights."""
        numbers = read_numbers(out)
        block, phases = numbers["block"], numbers["phases"]
        totals = [sum(phase["weights"].values()) for phase in phases]
        if any(abs(total - 1) > SUM_TOLERANCE for total in totals):
            raise ExportError(f"easydel: the weights of each phase must sum to 1 (got {totals}).")
        if any(set(phase["weights"]) != set(phases[0]["weights"]) for phase in phases):
            raise ExportError("easydel: every point of a schedule must name the same datasets.")
        counts = [counts_of(phase["weights"], block) for phase in phases]
        starts = [math.ceil(phase["step"] / block) * block for phase in phases]
        share = shares(counts, starts, numbers["target_documents"], numbers["mean_tokens_per_doc"])
        return {name: part for name, part in share.items() if part > 0}


def counts_of(weights: Mapping[str, float], block: int) -> dict[str, int]:
    """Documents of each domain in a block: rounded down, and what is missing goes to the largest weight."""
    total = sum(weights.values())
    counts = {name: math.floor(weight / total * block) for name, weight in weights.items()}
    counts[max(weights, key=lambda name: weights[name])] += block - sum(counts.values())
    return counts


def notes_of(plan: Plan, blocked: Blocked) -> list[str]:
    """What to know of the export."""
    notes = [
        "Weights are of documents: token proportions divided by mean tokens per document, then normalised.",
        f"They are whole documents of a block of {blocked.block}, so that its rounding changes nothing.",
        *left_out(blocked.settled),
        "Mix before packing, or the unit is another one.",
        "Set the tokenizing stage's `max_length` (2048) above your longest document: what it cuts off is not in the share.",
        f"Stop at the target, about {blocked.samples:,} documents.",
    ]
    if len({name for phase in blocked.settled for name in phase.mixture}) == 1:
        notes.append(
            "EasyDeL hands a single dataset on as it is: it does not start again, so set the trainer's epochs."
        )
    for k, (start, _) in enumerate(plan.phases[1:], start=1):
        notes.append(
            f"Phase {k} starts at token {start:,}, document {blocked.starts[k]:,} as whole blocks; "
            "`step` counts documents, not training steps."
        )
    return notes


def lines_of(out: Path) -> list[str]:
    """Python for the training script."""
    return [
        "import runpy",
        f"stage = runpy.run_path({str(out / MODULE)!r})['stage']",
        "pipeline = pipeline.source().tokenize().mix(stage()).pack()  # one dataset for each domain, by name",
    ]
