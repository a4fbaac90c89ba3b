"""MaxText: the JSON file for `grain_train_mixture_config_path`, one for each phase of a schedule; it draws documents.

Token proportions become document shares through the mean tokens per document of each domain; these become whole
numbers, as Grain keeps them (mixopt/backends/grain.py), plus a fraction that survives MaxText's division by the sum.

Source: AI-Hypercomputer/maxtext, `get_datasets` in src/maxtext/input_pipeline/grain_data_processing.py of 2026-06, on
`grain.IterDataset.mix` of grain 0.2.18.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    document_lengths,
    folder,
    left_out,
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.backends.grain import SMALLEST, drawn_from, kept_by_grain, refuse_pauses, whole_numbers
from mixopt.errors import ExportError
from mixopt.handoff import Plan

DATA = "data/{}/*.array_record"
FRACTIONS = sorted((k / 64 for k in range(16, 49)), key=lambda fraction: abs(fraction - 0.5))


@dataclass(frozen=True)
class MaxText:
    """Mixed ArrayRecord documents, chunked and packed into `sequence` tokens; `batch` is sequences per step."""

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "maxtext"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `grain_mixture.json`, or `grain_mixture_0.json`, `grain_mixture_1.json`, ... for a schedule.

        Raises ExportError for unknown document lengths, pauses and phases shorter than a step.
        """
        length = document_lengths(plan, self.name)
        settled = [
            settle(mixture, {name: mean / tokens for name, mean in length.items()}, self.tail)
            for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
        ]
        refuse_pauses(self.name, settled)
        several = len(settled) > 1
        names = [f"grain_mixture_{k}.json" if several else "grain_mixture.json" for k in range(len(settled))]
        documents = [
            math.ceil(tokens * math.fsum(p / length[name] for name, p in phase.mixture.items()))
            for tokens, phase in zip(plan.tokens, settled, strict=True)
        ]
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "batch": self.batch,
            "num_epoch": 1 + math.ceil(max(plan.epochs.values())),
            "phases": [
                {"file": name, "documents": count, "last_step": step}
                for name, count, step in zip(names, documents, self._steps(plan), strict=True)
            ],
            "mean_tokens_per_doc": {name: length[name] for phase in settled for name in phase.mixture},
        }
        mixtures = {name: as_json(entries(phase, length)) for name, phase in zip(names, settled, strict=True)}
        page = readme(plan, "MaxText", self._notes(plan, numbers, settled), launch(numbers, Path()))
        return write(out, {**mixtures, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The arguments of the training script, one line for each launch."""
        return launch(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the tokens in the documents that Grain takes from each domain."""
        numbers = read_numbers(out)
        drawn = drawn_from(
            [
                (phase["documents"], weights_of(json.loads((out / phase["file"]).read_text(encoding="utf-8"))))
                for phase in numbers["phases"]
            ]
        )
        tokens = {name: count * numbers["mean_tokens_per_doc"][name] for name, count in drawn.items()}
        total = math.fsum(tokens.values())
        return {name: t / total for name, t in tokens.items()}

    def _steps(self, plan: Plan) -> list[int]:
        """The last step of each phase."""
        ends = [*(start for start, _ in plan.phases[1:]), plan.target_tokens]
        steps = [math.ceil(end / (self.sequence * self.batch)) for end in ends]
        if any(later <= earlier for earlier, later in pairwise([0, *steps])):
            raise ExportError(f"maxtext: a phase is shorter than one step of {self.batch * self.sequence:,} tokens.")
        return steps

    def _notes(self, plan: Plan, numbers: Mapping[str, Any], settled: Sequence[Settled]) -> list[str]:
        notes = [
            (
                "Weights are of documents: token proportions divided by mean tokens per document, as whole numbers with "
                f"{SMALLEST} as the smallest, which is how Grain keeps them; the fractions survive its rounding down."
            ),
            *left_out(settled),
            "Paths `data/<name>/*.array_record` are placeholders. Only ArrayRecord files can be mixed.",
            f"Steps are of {self.batch} sequences of {self.sequence} tokens; padding of packed sequences counts as tokens.",
            "`use_truncation=false`: else documents are cut at the sequence length, and shares of tokens change.",
            "`num_epoch` is more than any domain needs, so that none ends the run.",
        ]
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            before = numbers["phases"][k - 1]
            notes.append(
                f"Phase {k} starts at token {start:,}, step {before['last_step']:,}: launch again from the checkpoint "
                "with the next file. Domains go on where they were, found by name."
            )
        return notes


def entries(phase: Settled, length: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """The content of one file."""
    shares = {name: p / length[name] for name, p in phase.mixture.items()}
    weights = surviving(whole_numbers(shares))
    return {name: {"path": DATA.format(folder(name)), "weight": weight} for name, weight in weights.items()}


def surviving(numbers: Mapping[str, int]) -> dict[str, float]:
    """Weights that are these whole numbers after MaxText has divided them by their sum and Grain has scaled them.

    Of the smallest, 100 or 99 is left, as the last bit of the division falls: another fraction on top of the others
    moves the sum, and with it that bit.
    """
    for fraction in FRACTIONS:
        weights = {name: number + (fraction if number > SMALLEST else 0.0) for name, number in numbers.items()}
        kept = kept_by_grain(divided(weights))
        if all(kept[name] * sum(numbers.values()) == number * sum(kept.values()) for name, number in numbers.items()):
            return weights
    raise ExportError(f"maxtext: no weights give {dict(numbers)} after its division. Leave out the smallest domain.")


def weights_of(mixture: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """What MaxText gives to Grain: weights by name, which are sorted there."""
    return divided({name: float(mixture[name]["weight"]) for name in mixture})


def divided(weights: Mapping[str, float]) -> dict[str, float]:
    """Weights divided by their sum, which is taken in the order of the file."""
    total = sum(weights.values())
    return {name: weights[name] / total for name in sorted(weights)}


def launch(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """One line for each launch; the later ones go on from the checkpoint of the one before."""
    return [
        shlex.join(
            [
                *("dataset_type=grain", "grain_file_type=arrayrecord"),
                f"grain_train_mixture_config_path={out / phase['file']}",
                *(f"num_epoch={numbers['num_epoch']}", "packing=true", "use_truncation=false"),
                *(f"max_target_length={numbers['sequence']}", f"steps={phase['last_step']}"),
            ]
        )
        for phase in numbers["phases"]
    ]
