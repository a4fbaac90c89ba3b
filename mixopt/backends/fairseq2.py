"""fairseq2: the sources of the `lm_train` dataset, which are drawn document by document before packing.

Token proportions become weights of documents through the mean tokens per document of each domain. Weights are summed in
single precision and a source is found by one random number of 24 bits, so a weight below 2**-24 may never be drawn.

Source: facebookresearch/fairseq2, `LMTrainDataset` in recipes/lm/train/dataset.py, `sample_data_source` in
native/src/fairseq2n/data/sample_data_source.cc; fairseq2 0.8.1.
"""

from __future__ import annotations

import math
import shlex
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
    document_lengths,
    folder,
    left_out,
    number,
    quoted,
    read_numbers,
    readme,
    refuse_schedule,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "fairseq2.yaml"
SMALLEST_WEIGHT = 2.0**-24
UNIT = "one document of the run or 2**-24 of its documents"


@dataclass(frozen=True)
class Fairseq2:
    """JSONL sources, each read again until all were read once; packed into sequences of `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "fairseq2"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the `dataset` section. Raises ExportError for schedules and for unknown document lengths."""
        refuse_schedule(plan, self.name, "its sources have one weight for the whole run")
        length = document_lengths(plan, self.name)
        rate = documents_per_token(plan.mixture, length)
        one = max(1 / plan.target_tokens, rate * SMALLEST_WEIGHT)
        settled = settle(plan.mixture, {name: tokens * one for name, tokens in length.items()}, self.tail, UNIT)
        kept = settled.mixture
        rate = documents_per_token(kept, length)
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "target_documents": math.ceil(plan.target_tokens * rate),
            "domains": {path_of(name): name for name in kept},
            "mean_tokens_per_doc": {name: length[name] for name in kept},
        }
        notes = notes_of(numbers, settled)
        lines = [
            f"# Mixture {plan.id}.",
            *(f"# {note}" for note in notes),
            "dataset:",
            "  name: null",
            "  family: lm_train",
            f"  max_seq_len: {self.sequence}",
            "  config_overrides:",
            "    sources:",
        ]
        for name, p in kept.items():
            lines += [f"    - path: {quoted(path_of(name))}", f"      weight: {number(p / length[name] / rate)}"]
        page = readme(plan, "fairseq2", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Expected shares of tokens."""
        numbers = read_numbers(out)
        config = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))
        sources = config["dataset"]["config_overrides"]["sources"]
        names = [numbers["domains"][source["path"]] for source in sources]
        drawn = chances([source["weight"] for source in sources])
        tokens = {n: q * numbers["mean_tokens_per_doc"][n] for n, q in zip(names, drawn, strict=True)}
        total = math.fsum(tokens.values())
        return {name: t / total for name, t in tokens.items()}


def path_of(name: str) -> str:
    """The folder where a domain is expected."""
    return f"data/{folder(name)}"


def documents_per_token(mixture: Mapping[str, float], length: Mapping[str, float]) -> float:
    """Documents that are drawn for each token of the run."""
    return math.fsum(p / length[name] for name, p in mixture.items())


def chances(weights: Sequence[float]) -> list[float]:
    """The chance of each source: running sums in single precision, divided by the last; the last source has the rest."""
    if min(weights) < 0 or sum(weights) <= 0:
        raise ExportError(f"fairseq2: weights must be >= 0 with a positive sum (got {list(weights)}).")
    sums = np.cumsum(np.array(weights, dtype=np.float32), dtype=np.float32)
    if abs(sums[-1] - 1) > np.finfo(np.float32).eps:
        sums /= sums[-1]
    edges = [0.0, *(min(1.0, float(edge)) for edge in sums[:-1]), 1.0]
    return [high - low for low, high in pairwise(edges)]


def notes_of(numbers: Mapping[str, Any], settled: Settled) -> list[str]:
    """What to know of the export."""
    return [
        "Weights are of documents: token proportions divided by mean tokens per document, then normalised.",
        *left_out([settled]),
        "Folders `data/<name>` are placeholders: put `*.chunk.*.jsonl` files there, at least one for each rank.",
        f"Set `regime.num_steps` for {numbers['target_tokens']:,} tokens, about {numbers['target_documents']:,} documents.",
    ]


def launch(out: Path) -> list[str]:
    """`base.yaml` is the rest of the configuration, without `dataset`."""
    joined = shlex.join(["cat", "base.yaml", str(out / CONFIG)])
    return [f"{joined} > train.yaml", "python -m recipes.lm.train output --config-file train.yaml"]
