"""Megatron-LM: a blend file for `--data-args-path`, one for each phase of a schedule.

Source: NVIDIA/Megatron-LM, `get_blend_from_list` and `normalize` in megatron/core/datasets/utils.py,
`_get_size_per_split_per_dataset` in blended_megatron_dataset_builder.py, the assertions of `BlendedDataset`,
`--phase-transition-iterations` in megatron/training; megatron-core 0.16.1.
"""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    folder,
    left_out,
    number,
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan

LARGEST_BLEND = 32766


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
        settled = [
            settle(mixture, dict.fromkeys(plan.names, 1 / n), self.tail)
            for n, (_, mixture) in zip(samples, plan.phases, strict=True)
        ]
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
        notes = [f"One sample is {self.sequence} tokens, so shares of samples are shares of tokens."]
        notes += left_out(settled)
        notes += placeholders(plan)
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            iteration = sum(samples[:k]) // self.batch
            notes.append(
                f"Phase {k} starts at token {start:,}, iteration {iteration:,}; launch it when phase {k - 1} stops."
            )
        return [
            *notes,
            "`--split 990,8,2` keeps 1 % of each dataset for validation; its epochs rise by as much.",
            "If building the blend ends in an IndexError, raise `--mid-level-dataset-surplus` above 0.005.",
            "`--dataloader-fast-cache-load` needs the form by split: put the words into the train list of a JSON file.",
            "A blend that is changed on resume sees samples again or never, except at a phase transition.",
        ]


def prefixes_of(stack: str, plan: Plan) -> dict[str, str]:
    """The prefix of each domain, a placeholder where nobody said. Raises ExportError for what a blend cannot hold."""
    prefixes = {d.name: d.sources.megatron_prefix or f"data/{folder(d.name)}_text_document" for d in plan.domains}
    for name, prefix in prefixes.items():
        if not prefix.isprintable() or any(c.isspace() for c in prefix):
            raise ExportError(f"{stack}: prefix {prefix!r} of {name!r} has white space, which a blend does not hold.")
        if prefix.endswith((".bin", ".idx")):
            raise ExportError(f"{stack}: prefix {prefix!r} of {name!r} must come without .bin or .idx.")
    if len(set(prefixes.values())) < len(prefixes):
        raise ExportError(f"{stack}: two domains share one prefix. Give each its own megatron_prefix.")
    if len(prefixes) > LARGEST_BLEND:
        raise ExportError(f"{stack}: at most {LARGEST_BLEND} datasets in a blend (got {len(prefixes)}).")
    return prefixes


def placeholders(plan: Plan) -> list[str]:
    """One sentence where a prefix is not known."""
    if all(domain.sources.megatron_prefix for domain in plan.domains):
        return []
    return ["Prefixes `data/<name>_text_document` are placeholders: put yours, without .bin or .idx."]


def samples_of_phases(stack: str, plan: Plan, sequence: int, batch: int) -> list[int]:
    """Samples of each phase; with several of them, whole iterations. Raises ExportError for a phase without one."""
    if len(plan.phases) == 1:
        return [math.ceil(plan.target_tokens / sequence)]
    per_iteration = sequence * batch
    starts = [round(start / per_iteration) for start, _ in plan.phases]
    ends = [*starts[1:], math.ceil(plan.target_tokens / per_iteration)]
    samples = [batch * (end - start) for start, end in zip(starts, ends, strict=True)]
    if min(samples) < batch:
        raise ExportError(f"{stack}: a phase is shorter than one iteration of {per_iteration:,} tokens.")
    return samples


def launch(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """The flags of each launch; a schedule is launched once per phase and stops by itself in between."""
    phases = numbers["phases"]
    flags = ["--split", "990,8,2", "--seq-length", str(numbers["sequence"])]
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


def drawn_of(names: Sequence[str], weights: Sequence[float], size: int) -> dict[str, int]:
    """Samples that a blend of `size` draws of each dataset: always of the one furthest behind its share.

    Whatever surplus a stack prepares, that keeps each within one sample of its share. All stacks with Megatron's
    `build_blending_indices` draw like this.
    """
    shares = (np.array(weights) / np.sum(weights)).tolist()
    return {name: math.ceil(size * share) for name, share in zip(names, shares, strict=True)}


def shares_of(drawn: Mapping[str, int], sources: Mapping[str, str]) -> dict[str, float]:
    """Share of each domain, whose source is a prefix or a folder."""
    total = sum(drawn.values())
    return {name: drawn[source] / total for name, source in sources.items() if source in drawn}


def _weight(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None
