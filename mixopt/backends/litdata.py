"""litdata: a Python file with `mixture(folders)`, a CombinedStreamingDataset of blocks of tokens, as litgpt trains on.

It draws the next block's domain at random and ends with the first dataset that is exhausted; a dataset is read once.
So a domain that the run needs more often becomes several datasets of the same folder, each with its own order:

    needed_d = p_d N,   blocks of each copy = min(what is left of needed_d, 4/5 of the blocks that d holds)

Source: Lightning-AI/litData 0.2.76, `CombinedStreamingDataset` in src/litdata/streaming/combined.py, `TokensLoader` in
item_loader.py; Lightning-AI/litgpt 0.5, blocks of one token more than the sequence in litgpt/data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
    quoted,
    read_numbers,
    readme,
    refuse_schedule,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan

MODULE = "mixture.py"
FILL = 0.8
"""The part of a dataset that the run is planned to draw: what is left is for the chance of the draw."""

CODE = '''"""The mixture of `numbers.json` as one dataset of blocks of tokens; written for litdata 0.2.76."""

import json
from pathlib import Path

from litdata import CombinedStreamingDataset, StreamingDataset, TokensLoader

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def mixture(folders, shuffle=True, seed=42):
    """Combine `folders`: for each domain the one that `litdata.optimize` wrote with a TokensLoader."""
    missing = [stream["domain"] for stream in NUMBERS["streams"] if stream["domain"] not in folders]
    if missing:
        raise KeyError(f"no folder for {missing}")
    datasets = [
        StreamingDataset(
            folders[stream["domain"]],
            item_loader=TokensLoader(block_size=NUMBERS["block_size"]),
            shuffle=shuffle,
            drop_last=True,
            seed=seed + stream["copy"],
        )
        for stream in NUMBERS["streams"]
    ]
    weights = [stream["weight"] for stream in NUMBERS["streams"]]
    return CombinedStreamingDataset(datasets, seed=seed, weights=weights, iterate_over_all=False)
'''


@dataclass(frozen=True)
class LitData:
    """Blocks of `sequence` tokens and the one that the last of them predicts."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "litdata"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers. Raises ExportError for schedules."""
        refuse_schedule(plan, self.name, "CombinedStreamingDataset has one set of weights")
        held = {domain.name: domain.available_tokens // (self.sequence + 1) for domain in plan.domains}
        one = self.sequence / plan.target_tokens
        settled = settle(plan.mixture, {name: one if held[name] else math.inf for name in held}, self.tail)
        blocks = math.ceil(plan.target_tokens / self.sequence)
        streams: list[dict[str, Any]] = [
            {"domain": name, "copy": k, "weight": count / blocks, "blocks": held[name]}
            for name, p in settled.mixture.items()
            for k, count in enumerate(copies(p * blocks, held[name]))
        ]
        numbers = {
            "mixture_id": plan.id,
            "target_tokens": plan.target_tokens,
            "target_blocks": blocks,
            "block_size": self.sequence + 1,
            "ends_after_tokens": self.sequence * int(min(s["blocks"] / s["weight"] for s in streams)),
            "streams": streams,
        }
        page = readme(plan, "litdata", notes_of(numbers, settled), lines_of(Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        read_numbers(out)
        return lines_of(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Expected shares of blocks. Raises ExportError for weights that cannot be chosen by."""
        drawn: dict[str, float] = {}
        for stream in read_numbers(out)["streams"]:
            if not stream["weight"] > 0:
                raise ExportError(f"litdata: weights must be above 0 (got {stream['weight']} of {stream['domain']!r}).")
            drawn[stream["domain"]] = drawn.get(stream["domain"], 0.0) + stream["weight"]
        total = math.fsum(drawn.values())
        return {name: weight / total for name, weight in drawn.items()}


def copies(needed: float, held: int) -> list[float]:
    """Blocks that the run draws from each dataset of one domain: full copies, then what is left."""
    full, rest = divmod(needed, FILL * held)
    return [FILL * held] * int(full) + ([rest] if rest > 0 else [])


def notes_of(numbers: Mapping[str, Any], settled: Settled) -> list[str]:
    """What to know of the export."""
    count = {stream["domain"]: stream["copy"] + 1 for stream in numbers["streams"]}
    repeated = ", ".join(f"{quoted(name)} {k} times" for name, k in count.items() if k > 1)
    return [
        (
            f"Weights are of blocks of {numbers['block_size']} tokens, so of tokens. Each block's domain is drawn at random, "
            "by every worker from the same seed: shares in a batch vary as those of one worker."
        ),
        *left_out([settled]),
        *([f"In the list more than once, each in its own order: {repeated}."] if repeated else []),
        f"Stop at the target, {numbers['target_blocks']:,} blocks, all workers together.",
        f"The first dataset is exhausted, and the run ends, after about {numbers['ends_after_tokens']:,} tokens.",
    ]


def lines_of(out: Path) -> list[str]:
    """Python for the training script."""
    return [
        "import runpy",
        f"mixture = runpy.run_path({str(out / MODULE)!r})['mixture']",
        "train = mixture(folders)  # folders: the optimized one of each domain, by name",
    ]
