"""Grain: a Python file with `mixture(datasets)`, which packs each domain into sequences and mixes the sequences.

Grain scales weights until the smallest is 100 and rounds them down. So whole numbers are exported, which it keeps:

    n_d = round(s p_d),   s near 100 / min_d p_d, the one of 201 values whose n are nearest to p

Shapes: p_D proportions; n_SD whole numbers for each of S scales.

Source: google/grain 0.2.18, `_float_to_int_proportions` and `_dataset_and_key_of_next_element` in
grain/_src/python/dataset/transformations/mix.py, `ConcatThenSplitIterDataset` in packing_concat_then_split.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    left_out,
    quoted,
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan

MODULE = "mixture.py"
SMALLEST = 100
SAME_DOMAIN = "All processes take the same domain at once: a global batch has the shares of one process's part of it."

CODE = '''"""The mixture of `numbers.json` as one endless dataset of packed sequences; written for grain 0.2.18."""

import json
from pathlib import Path

import grain
from grain.experimental import ConcatThenSplitIterDataset

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def mixture(datasets, phase=0, feature="tokens"):
    """Mix `datasets`: for each domain a MapDataset of documents, {feature: token ids}, and nothing else in them.

    Shuffle and slice each for this process before. A later phase goes on from the state of the iterator before it.
    """
    weights = NUMBERS["phases"][phase]["weights"]
    missing = [name for name in weights if name not in datasets]
    if missing:
        raise KeyError(f"no dataset for {missing}")
    packed = {
        name: ConcatThenSplitIterDataset(
            datasets[name].repeat().to_iter_dataset(), length_struct={feature: NUMBERS["sequence"]}
        )
        for name in weights
    }
    return grain.IterDataset.mix(packed, weights)
'''


@dataclass(frozen=True)
class Grain:
    """Mixed sequences of `sequence` tokens. Each domain is packed before it is mixed, and repeated without end."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "grain"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers. Raises ExportError for a domain that pauses and comes back."""
        settled = [
            settle(mixture, dict.fromkeys(plan.names, self.sequence / tokens), self.tail)
            for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
        ]
        refuse_pauses(self.name, settled)
        starts = [math.ceil(start / self.sequence) for start in (*(s for s, _ in plan.phases), plan.target_tokens)]
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "sequence": self.sequence,
            "phases": [
                {"start_sequence": start, "sequences": end - start, "weights": whole_numbers(phase.mixture)}
                for (start, end), phase in zip(pairwise(starts), settled, strict=True)
            ],
        }
        page = readme(plan, "Grain", self._notes(plan, starts, settled), lines_of(numbers, Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        return lines_of(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the sequences that Grain takes from each domain."""
        phases = read_numbers(out)["phases"]
        drawn = drawn_from([(phase["sequences"], phase["weights"]) for phase in phases])
        total = sum(drawn.values())
        return {name: count / total for name, count in drawn.items()}

    def _notes(self, plan: Plan, starts: Sequence[int], settled: Sequence[Settled]) -> list[str]:
        notes = [
            (
                f"Weights are of packed sequences of {self.sequence} tokens, so of tokens. Grain keeps whole numbers with "
                f"{SMALLEST} as the smallest; the nearest are given."
            ),
            *left_out(settled),
            f"Domains repeat without end: stop after {starts[-1]:,} sequences, all processes together.",
            SAME_DOMAIN,
        ]
        for k, ((start, _), sequence) in enumerate(zip(plan.phases[1:], starts[1:], strict=False), start=1):
            notes.append(
                f"Phase {k} starts at token {start:,}, sequence {sequence:,}: save the iterator's state there and set "
                f"it on the iterator of phase {k}. Domains go on where they were, found by name."
            )
        return notes


def lines_of(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """Python for the training script."""
    several = len(numbers["phases"]) > 1
    return [
        "import runpy",
        f"mixture = runpy.run_path({str(out / MODULE)!r})['mixture']",
        f"train = mixture(datasets{', phase=0' if several else ''})  # datasets: one MapDataset for each domain, by name",
    ]


def whole_numbers(shares: Mapping[str, float]) -> dict[str, int]:
    """Weights with 100 as the smallest, as near to the shares as whole numbers of this size come; sorted by name."""
    names = sorted(shares)
    p_D = np.array([shares[name] for name in names], dtype=np.float64)
    s_S = np.linspace(SMALLEST - 0.5, SMALLEST + 0.5, 201) / p_D.min()
    n_SD = np.maximum(np.rint(s_S[:, None] * p_D), SMALLEST)
    miss_S = np.abs(n_SD / n_SD.sum(axis=1, keepdims=True) - p_D / p_D.sum()).max(axis=1)
    return dict(zip(names, n_SD[miss_S.argmin()].astype(np.int64).tolist(), strict=True))


def kept_by_grain(weights: Mapping[str, float]) -> dict[str, int]:
    """The whole numbers that Grain makes of weights. Raises ExportError where it refuses them."""
    if not weights or min(weights.values()) <= 0:
        raise ExportError(f"grain: weights must be above 0 (got {dict(weights)}).")
    scale = SMALLEST / min(weights.values())
    return {name: int(weight * scale) for name, weight in weights.items()}


def drawn_from(phases: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, int]:
    """Elements of each domain after (elements, weights) of each phase; the position goes on over the phases."""
    drawn: dict[str, int] = {}
    position = 0
    for count, weights in phases:
        numbers = kept_by_grain(weights)
        before, after = taken(position, numbers), taken(position + count, numbers)
        drawn = {name: drawn.get(name, 0) + after.get(name, 0) - before.get(name, 0) for name in {**drawn, **numbers}}
        position += count
    return drawn


def taken(position: int, numbers: Mapping[str, int]) -> dict[str, int]:
    """How many of the first elements are of each domain: each takes its part of what those before it left."""
    counts, left, remaining = {}, position, sum(numbers.values())
    for name, number in numbers.items():
        after = left * (remaining - number) // remaining
        counts[name], left, remaining = left - after, after, remaining - number
    return counts


def refuse_pauses(backend: str, settled: Sequence[Settled]) -> None:
    """Raise ExportError for a domain that pauses: a checkpoint without it forgets where it was."""
    for name in sorted({name for phase in settled for name in phase.mixture}):
        reading = [name in phase.mixture for phase in settled]
        first, last = reading.index(True), len(reading) - reading[::-1].index(True)
        if not all(reading[first:last]):
            raise ExportError(
                f"{backend}: {quoted(name)} pauses and comes back, and would start again from its beginning. "
                "Export it with megatron or streaming, or give it a small proportion in between."
            )
