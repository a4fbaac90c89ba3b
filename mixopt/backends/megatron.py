"""Megatron-LM: a blend file for `--data-args-path`, one for each phase of a schedule.

Source: NVIDIA/Megatron-LM, `get_blend_from_list` and `normalize` in megatron/core/datasets/utils.py,
`_get_size_per_split_per_dataset` in blended_megatron_dataset_builder.py, the assertions of `BlendedDataset`,
`--phase-transition-iterations` in megatron/training; megatron-core 0.16.1.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    left_out,
    number,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import (
    LARGEST_BLEND,
    SPLIT,
    drawn_of,
    placeholders,
    prefixes_of,
    samples_of_phases,
    settle_phases,
    shares_of,
    split_notes,
    unit_note,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan


@dataclass(frozen=True)
class Megatron:
    """Blends of indexed datasets. One sample is `sequence` tokens; `batch` is samples per iteration.

    A blend file is split at white space and has no comments, so what is to be said stands in the README.
    """

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "megatron"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `blend.txt`, or `blend_0.txt`, `blend_1.txt`, ... for a schedule.

        Raises ExportError for prefixes that the file cannot hold and for phases shorter than an iteration.
        """
        prefixes = prefixes_of(self.name, plan)
        several = len(plan.phases) > 1
        samples = samples_of_phases(self.name, plan, self.sequence, self.batch)
        settled = settle_phases(self, plan, samples)
        names = [f"blend_{k}.txt" if several else "blend.txt" for k in range(len(settled))]
        blends = {
            name: "".join(f"{number(p)} {prefixes[domain]}\n" for domain, p in phase.mixture.items())
            for name, phase in zip(names, settled, strict=True)
        }
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "batch": self.batch,
            "phases": [{"file": name, "samples": n} for name, n in zip(names, samples, strict=True)],
            "prefixes": prefixes,
        }
        page = readme(plan, "Megatron-LM", self._notes(plan, samples, settled), launch(numbers, Path()))
        return write(out, {**blends, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The flags of each launch."""
        return launch(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the builder requests of each prefix."""
        numbers = read_numbers(out)
        drawn: Counter[str] = Counter()
        for phase in numbers["phases"]:
            text = (out / phase["file"]).read_text(encoding="utf-8")
            drawn.update(samples_of(text.split(), phase["samples"]))
        return shares_of(drawn, numbers["prefixes"])

    def _notes(self, plan: Plan, samples: Sequence[int], settled: Sequence[Settled]) -> list[str]:
        notes = [unit_note(self.sequence), *left_out(settled), *placeholders(plan)]
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            iteration = sum(samples[:k]) // self.batch
            notes.append(
                f"Phase {k} starts at token {start:,}, iteration {iteration:,}; launch it when phase {k - 1} stops."
            )
        return [
            *notes,
            *split_notes(plan),
            "If building the blend ends in an IndexError, raise `--mid-level-dataset-surplus` above 0.005.",
            "`--dataloader-fast-cache-load` needs the form by split: put the words into the train list of a JSON file.",
            "A blend that is changed on resume sees samples again or never, except at a phase transition.",
        ]


def launch(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """The flags of each launch; a schedule is launched once per phase and stops by itself in between."""
    phases = numbers["phases"]
    flags = ["--split", SPLIT, "--seq-length", str(numbers["sequence"])]
    flags += ["--train-samples", str(sum(phase["samples"] for phase in phases))]
    if len(phases) > 1:
        ends = [sum(p["samples"] for p in phases[:k]) // numbers["batch"] for k in range(1, len(phases))]
        flags += ["--global-batch-size", str(numbers["batch"])]
        flags += ["--phase-transition-iterations", ",".join(str(end) for end in ends)]
    return [shlex.join(["--data-args-path", str(out / phase["file"]), *flags]) for phase in phases]


def blend_of(words: Sequence[str]) -> tuple[list[str], list[float] | None]:
    """Prefixes and weights as Megatron parses them, its slips included.

    An odd number of words is all prefixes. So is a list whose weights begin with numbers and end with words, since
    `any` has used the iterator up before `all` looks at it.
    Raises ExportError where Megatron asserts: a number after a word in a weight's place.
    """
    if len(words) % 2:
        return list(words), None
    weights = [_weight(word) for word in words[::2]]
    if None in weights:
        if any(weight is not None for weight in weights[weights.index(None) :]):
            raise ExportError("megatron: some weights of the blend are not numbers.")
        return list(words), None
    return list(words[1::2]), [weight for weight in weights if weight is not None]


def samples_of(words: Sequence[str], size: int) -> dict[str, int]:
    """Samples requested of each prefix for a run of `size` samples. Raises ExportError where Megatron asserts."""
    prefixes, weights = blend_of(words)
    if weights is None:
        raise ExportError(f"megatron: the blend is read as {len(prefixes)} prefixes without weights.")
    if not all(weight > 0 for weight in weights) or len(prefixes) > LARGEST_BLEND:
        raise ExportError("megatron: a blend needs weights above 0 and fewer than 32767 datasets.")
    return drawn_of(prefixes, weights, size)


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
