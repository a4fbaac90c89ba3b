"""Hugging Face datasets: a Python file with `mixture(datasets)`, which draws documents.

Token proportions become document probabilities through the mean tokens per document of each domain.

Source: huggingface/datasets 5.2.0, `interleave_datasets` and its randomly cycling examples iterable; the check of the
probabilities is that of numpy's `Generator.choice`, 2.4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
    document_lengths,
    left_out,
    read_numbers,
    readme,
    refuse_schedule,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan

MODULE = "mixture.py"
SIGMAS = 6
SUM_TOLERANCE = math.sqrt(np.finfo(np.float64).eps)

CODE = '''"""The mixture of `numbers.json` as one dataset of documents; needs datasets >= 3.3."""

import json
from pathlib import Path

from datasets import interleave_datasets

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def mixture(datasets, seed=0):
    """Interleave `datasets`: for each domain a Dataset, or an IterableDataset, with one document in each row."""
    probabilities = NUMBERS["probabilities"]
    missing = [name for name in probabilities if name not in datasets]
    if missing:
        raise KeyError(f"no dataset for {missing}")
    return interleave_datasets(
        [datasets[name].repeat(NUMBERS["repeat"][name]) for name in probabilities],
        probabilities=list(probabilities.values()),
        seed=seed,
        stopping_strategy="first_exhausted",
    )
'''


@dataclass(frozen=True)
class HFDatasets:
    """Interleaved documents, each domain repeated as often as the run needs, up to the first that is exhausted."""

    tail: Tail = "drop"
    name: ClassVar[str] = "hf-datasets"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers. Raises ExportError for schedules and for unknown document lengths."""
        refuse_schedule(plan, self.name, "interleave_datasets has one set of probabilities")
        length = document_lengths(plan, self.name)
        least = {name: tokens / plan.target_tokens for name, tokens in length.items()}
        settled = settle(plan.mixture, least, self.tail)
        kept = settled.mixture
        rate = math.fsum(p / length[name] for name, p in kept.items())
        repeat = {name: repeats(plan, name, p, length[name]) for name, p in kept.items()}
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "target_documents": math.ceil(plan.target_tokens * rate),
            "ends_after_tokens": int(min(repeat[name] * plan[name].available_tokens / p for name, p in kept.items())),
            "probabilities": {name: p / length[name] / rate for name, p in kept.items()},
            "repeat": repeat,
            "mean_tokens_per_doc": {name: length[name] for name in kept},
        }
        page = readme(plan, "Hugging Face datasets", notes_of(numbers, settled), lines_of(Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        read_numbers(out)
        return lines_of(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Expected shares of tokens. Raises ExportError where numpy refuses the probabilities."""
        numbers = read_numbers(out)
        q_D = np.array(list(numbers["probabilities"].values()), dtype=np.float64)
        if (q_D < 0).any() or abs(math.fsum(q_D) - 1) > SUM_TOLERANCE:
            raise ExportError(f"hf-datasets: probabilities must be >= 0 and sum to 1 (got {math.fsum(q_D)}).")
        tokens = {name: q * numbers["mean_tokens_per_doc"][name] for name, q in numbers["probabilities"].items()}
        total = math.fsum(tokens.values())
        return {name: t / total for name, t in tokens.items()}


def repeats(plan: Plan, name: str, p: float, length: float) -> int:
    """How often to repeat a domain so that chance does not exhaust it before the target, to six standard deviations."""
    documents = plan.target_tokens * p / length
    return math.ceil((documents + SIGMAS * math.sqrt(documents)) * length / plan[name].available_tokens)


def notes_of(numbers: Mapping[str, object], settled: Settled) -> list[str]:
    """What to know of the export."""
    return [
        "Probabilities are of documents: token proportions divided by mean tokens per document, then normalised.",
        *left_out([settled]),
        "Each domain is repeated, as `repeat` in `numbers.json` says, until it lasts for the target tokens.",
        f"Stop at the target, about {numbers['target_documents']:,} documents.",
        f"Sampling itself ends after about {numbers['ends_after_tokens']:,} tokens.",
    ]


def lines_of(out: Path) -> list[str]:
    """Python for the training script."""
    return [
        "import runpy",
        f"mixture = runpy.run_path({str(out / MODULE)!r})['mixture']",
        "train = mixture(datasets)  # datasets: one for each domain, by name",
    ]
