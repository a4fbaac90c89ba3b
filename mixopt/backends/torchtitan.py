"""torchtitan: a Python file with the mixture for either of its text pipelines, with each domain packed before mixing.

`interleaved` is for the loaders of 0.3, which choose the next packed sequence at random and get the proportions;
`mixture` is for the Grain pipeline after it, whose weights become whole numbers (mixopt/backends/grain.py).

Source: pytorch/torchtitan 0.3.0, `InterleavedHuggingFaceTextDataLoader` in torchtitan/hf_datasets/text_datasets.py and
`InterleavedDataset` in interleaved.py; after it, `DatasetMixConfig` in torchtitan/components/data/dataset.py and
`ConcatThenSplitPackingConfig` in packing.py, of 2026-07.
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
    Settled,
    Tail,
    as_json,
    left_out,
    read_numbers,
    readme,
    refuse_schedule,
    settle,
    write,
)
from mixopt.backends.grain import MODULE, SAME_DOMAIN, SMALLEST, drawn_from, whole_numbers
from mixopt.handoff import Plan

CODE = '''"""The mixture of `numbers.json` for torchtitan: `interleaved` for release 0.3, `mixture` for the Grain pipeline."""

import json
from pathlib import Path

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def check(datasets):
    """Raise KeyError if a domain lacks a dataset."""
    missing = [name for name in NUMBERS["weights"] if name not in datasets]
    if missing:
        raise KeyError(f"no dataset for {missing}")


def interleaved(datasets, seed=42):
    """A data loader's config, from one hf_datasets.DatasetConfig (path, loader, sample_processor) for each domain."""
    from torchtitan.hf_datasets.text_datasets import DATASETS, HFDataSource, InterleavedHuggingFaceTextDataLoader

    check(datasets)
    sources = []
    for k, (name, p) in enumerate(NUMBERS["proportions"].items()):
        key = f"{k}-{name.lower()}"
        DATASETS[key] = datasets[name]
        sources.append(HFDataSource(dataset=key, infinite=True, weight=p))
    return InterleavedHuggingFaceTextDataLoader.Config(sources=sources, seed=seed)


def mixture(datasets):
    """The `dataset` of a GrainDataLoader.Config with repeat=True, from one config of documents for each domain."""
    from torchtitan.components.data import ConcatThenSplitPackingConfig, DatasetMixConfig, WeightedDataset

    check(datasets)
    return DatasetMixConfig(
        datasets=tuple(
            WeightedDataset(dataset=ConcatThenSplitPackingConfig(dataset=datasets[name]), weight=weight)
            for name, weight in NUMBERS["weights"].items()
        )
    )
'''


@dataclass(frozen=True)
class TorchTitan:
    """Mixed sequences of `sequence` tokens. Each domain is packed before it is mixed, and repeated without end."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "torchtitan"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers. Raises ExportError for schedules."""
        refuse_schedule(plan, self.name, "it has one set of weights for the whole run")
        settled = settle(plan.mixture, dict.fromkeys(plan.names, self.sequence / plan.target_tokens), self.tail)
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "sequence": self.sequence,
            "sequences": math.ceil(plan.target_tokens / self.sequence),
            "proportions": dict(settled.mixture),
            "weights": whole_numbers(settled.mixture),
        }
        page = readme(plan, "torchtitan", notes_of(numbers, settled), lines_of(Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        read_numbers(out)
        return lines_of(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the sequences that Grain takes from each domain. Release 0.3 has the proportions, on average."""
        numbers = read_numbers(out)
        drawn = drawn_from([(numbers["sequences"], numbers["weights"])])
        return {name: count / numbers["sequences"] for name, count in drawn.items()}


def notes_of(numbers: Mapping[str, object], settled: Settled) -> list[str]:
    """What to know of the export."""
    return [
        (
            "Weights are of packed sequences, so of tokens. Do not mix documents and pack the mixture: that would make them "
            f"shares of documents. For Grain they are whole numbers with {SMALLEST} as the smallest, which is what it keeps."
        ),
        *left_out([settled]),
        (
            f"Domains repeat without end: stop after {numbers['sequences']:,} sequences of {numbers['sequence']} tokens, "
            "all ranks together."
        ),
        SAME_DOMAIN,
        "Domains are in alphabetical order. A domain that is put in later gives those after it another seed.",
    ]


def lines_of(out: Path) -> list[str]:
    """Python for the function that returns the trainer's config."""
    return [
        "import runpy",
        f"mixture = runpy.run_path({str(out / MODULE)!r})",
        "config.dataloader = mixture['interleaved'](datasets)  # torchtitan 0.3",
        "# after it: config.dataloader = GrainDataLoader.Config(dataset=mixture['mixture'](datasets), repeat=True)",
    ]
