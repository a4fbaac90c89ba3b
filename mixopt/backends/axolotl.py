"""axolotl: a list of datasets, of which `weight` keeps a fraction; whole further epochs are the dataset once more.

`weight` is not a share: the datasets are put one after another and shuffled, and one epoch of that is the run. A domain
that is read 2.3 times is there twice whole and once with weight 0.3. Documents are kept by chance, so a fraction of the
documents is the same fraction of the tokens.

Source: axolotl-ai-cloud/axolotl, `_load_and_process_single_dataset` in axolotl/utils/data/sft.py, `merge_datasets` in
shared.py, `SFTDataset.weight` in axolotl/utils/schemas/datasets.py; axolotl 0.21.0.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Settled,
    Tail,
    as_json,
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
from mixopt.handoff import Plan, PlannedDomain
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "axolotl.yaml"
LEAST_PASS = 1e-9


@dataclass(frozen=True)
class Axolotl:
    """Raw text as `completion` datasets, packed into rows of `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "axolotl"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the `datasets` of a training YAML. Raises ExportError for schedules."""
        refuse_schedule(plan, self.name, "it shuffles all datasets into one")
        least = {d.name: (d.mean_tokens_per_doc or self.sequence) / plan.target_tokens for d in plan.domains}
        settled = settle(plan.mixture, least, self.tail)
        notes = self._notes(settled)
        lines = [f"# Mixture {plan.id}, proportions of tokens.", *(f"# {note}" for note in notes), "datasets:"]
        for name, p in settled.mixture.items():
            for weight in passes(plan.target_tokens * p, plan[name]):
                lines += entry(name, weight)
        lines += [
            "num_epochs: 1",
            f"sequence_len: {self.sequence}",
            "sample_packing: true",
            "shuffle_merged_datasets: true",
            "dataset_exact_deduplication: false",
            "val_set_size: 0.0",
            "streaming: false",
        ]
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "datasets": {
                path_of(name): {"name": name, "tokens": plan[name].available_tokens, "documents": documents(plan[name])}
                for name in settled.mixture
            },
        }
        page = readme(plan, "axolotl", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the tokens that are kept. Raises ExportError where axolotl refuses a weight."""
        config = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))
        known = read_numbers(out)["datasets"]
        kept: dict[str, float] = {}
        for dataset in config["datasets"]:
            held = known[dataset["path"]]
            tokens = held["tokens"] * kept_of(dataset["weight"], held["documents"]) * config["num_epochs"]
            kept[held["name"]] = kept.get(held["name"], 0.0) + tokens
        total = math.fsum(kept.values())
        return {name: tokens / total for name, tokens in kept.items()}

    def _notes(self, settled: Settled) -> list[str]:
        return [
            "Needs axolotl 0.21 or later; earlier ones do not know `weight`, and streaming ignores it.",
            "A weight is the fraction of the dataset that is kept; a dataset that is listed again is read again.",
            *left_out([settled]),
            "Files `data/<name>.jsonl` are placeholders: put your texts there, or a dataset of the hub.",
            f"What a document has beyond 64 sequences, {64 * self.sequence:,} tokens, is cut off: split such documents.",
            "One epoch of the merged datasets is the run. `pretraining_dataset` would use its first entry alone.",
        ]


def path_of(name: str) -> str:
    """Where a domain is expected."""
    return f"data/{folder(name)}.jsonl"


def documents(domain: PlannedDomain) -> int | None:
    """About how many documents the domain has, where that is known."""
    if domain.mean_tokens_per_doc is None:
        return None
    return max(1, round(domain.available_tokens / domain.mean_tokens_per_doc))


def passes(tokens: float, domain: PlannedDomain) -> list[float]:
    """The weight of each pass over a domain: 1 for the whole epochs, then what remains of one."""
    whole, rest = divmod(tokens / domain.available_tokens, 1.0)
    least = 0.5 / (documents(domain) or math.inf)
    return [1.0] * int(whole) + ([rest] if rest > max(least, LEAST_PASS) or not whole else [])


def entry(name: str, weight: float) -> list[str]:
    """One entry of the list."""
    return [
        f"- path: {quoted(path_of(name))}",
        "  ds_type: json",
        "  type: completion",
        "  split: train",
        f"  weight: {number(weight)}",
    ]


def kept_of(weight: float, count: int | None) -> float:
    """The fraction of a dataset that is kept: whole documents, rounded down, at least one."""
    if not 0 < weight <= 1:
        raise ExportError(f"axolotl: a weight must be above 0 and at most 1 (got {weight}).")
    return weight if count is None else min(count, max(1, int(count * weight))) / count


def launch(out: Path) -> list[str]:
    """`base.yaml` is the rest of the configuration, without the keys that are here."""
    joined = shlex.join(["cat", "base.yaml", str(out / CONFIG)])
    return [f"{joined} > train.yaml", "axolotl preprocess train.yaml", "axolotl train train.yaml"]
