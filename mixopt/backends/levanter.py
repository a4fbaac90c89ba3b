"""Levanter, the trainer of marin: the `data` section with `train_weights`, in blocks of sequences; schedules as stages.

A stage starts at a batch index. Levanter turns it into a sequence, which must be a whole number of blocks.

Source: marin-community/marin, `MixtureDataset` and `rescale_mixture_schedule_for_batch_schedule` in
levanter/data/mixture.py, `LmDataConfig` in levanter/data/text/datasets.py; marin-levanter 0.2.20.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import (
    NUMBERS,
    README,
    Tail,
    as_json,
    folder,
    left_out,
    number,
    quoted,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blocks import Blocked, Samples, shares
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "levanter.yaml"
BLOCKS = tuple(2**k for k in range(6, 16))
LARGEST_BLOCK = 2**16 - 1
TOKENIZER = "data/tokenizer"


@dataclass(frozen=True)
class Levanter:
    """Mixtures of token caches. One sample is `sequence` tokens; `batch` is sequences per step."""

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "levanter"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the `data` section. Raises ExportError for phases shorter than a block."""
        batch = max(1, min(self.batch, plan.target_tokens // self.sequence))
        lengths = dict.fromkeys(plan.names, float(self.sequence))
        blocked = Samples(self.name, lengths, BLOCKS, batch).choose(plan, self.tail)
        notes = self._notes(plan, blocked, batch)
        names = sorted({name for phase in blocked.settled for name in phase.mixture})
        lines = [f"# Mixture {plan.id}, proportions of tokens.", *(f"# {note}" for note in notes), "data:"]
        lines += [f"  tokenizer: {quoted(TOKENIZER)}", "  components:"]
        for name in names:
            lines += [f"    {quoted(name)}:", f"      cache_dir: {quoted(f'data/{folder(name)}')}"]
        lines += weights_of(plan, blocked, batch)
        lines += [f"  mixture_block_size: {blocked.block}", "  stop_strategy: restart"]
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "batch": batch,
            "steps": math.ceil(blocked.samples / batch),
            "sequences": blocked.samples,
        }
        page = readme(plan, "Levanter, marin", notes, launch(numbers, Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        return launch(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the sequences of the run, stage by stage."""
        numbers = read_numbers(out)
        data = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))["data"]
        block = data["mixture_block_size"]
        stages = stages_of(data["train_weights"], numbers["batch"], block)
        counts = [counts_of(weights, block) for _, weights in stages]
        lengths = dict.fromkeys(data["components"], 1.0)
        return shares(counts, [start for start, _ in stages], numbers["sequences"], lengths)

    def _notes(self, plan: Plan, blocked: Blocked, batch: int) -> list[str]:
        notes = [
            f"One sample is {self.sequence} tokens, so shares of sequences are shares of tokens.",
            f"Weights are whole sequences of a block of {blocked.block}, so that its rounding changes nothing.",
            *left_out(blocked.settled),
            "Caches `data/<name>` are placeholders: put the folders of your token caches, or a `source` with its URLs.",
            f"`{TOKENIZER}` is a placeholder for the tokenizer of the caches; without the key Levanter takes gpt2.",
        ]
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            at = blocked.starts[k]
            notes.append(
                f"Phase {k} starts at token {start:,}, as whole blocks token {at * self.sequence:,}: "
                f"step {at // batch:,}, sequence {at:,}."
            )
        if len(plan.phases) > 1:
            notes.append(f"The stages count batches of {batch}; with another batch size, export again.")
        return notes


def weights_of(plan: Plan, blocked: Blocked, batch: int) -> list[str]:
    """`train_weights`: one mapping, or [first step, mapping] for each phase; beside each weight what it stands for."""
    several = len(blocked.starts) > 1
    indent = " " * (8 if several else 4)
    lines = ["  train_weights:"]
    for k, ((_, mixture), start) in enumerate(zip(plan.phases, blocked.starts, strict=True)):
        lines += [f"    - - {start // batch}", "      -"] if several else []
        for name, weight in blocked.weights(k).items():
            meant = f"{number(mixture[name])} as {blocked.counts[k][name]} sequences of a block"
            lines.append(f"{indent}{quoted(name)}: {number(weight)}  # {meant}")
    return lines


def launch(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """`base.yaml` is the rest of the configuration, without `data`."""
    joined = shlex.join(["cat", "base.yaml", str(out / CONFIG)])
    flags = ["--config_path", "train.yaml", "--train_seq_len", str(numbers["sequence"])]
    flags += ["--trainer.train_batch_size", str(numbers["batch"]), "--trainer.num_train_steps", str(numbers["steps"])]
    return [f"{joined} > train.yaml", shlex.join(["python", "-m", "levanter.main.train_lm", *flags])]


def stages_of(train_weights: Any, batch: int, block: int) -> list[tuple[int, Mapping[str, float]]]:
    """(first sequence, weights) of each stage. Raises ExportError where Levanter asserts."""
    if isinstance(train_weights, Mapping):
        return [(0, train_weights)]
    starts = [step * batch for step, _ in train_weights]
    if starts[0] != 0 or starts != sorted(set(starts)) or any(start % block for start in starts):
        raise ExportError(f"levanter: stages must start at 0 and then at whole blocks of {block} (got {starts}).")
    return [(start, weights) for start, (_, weights) in zip(starts, train_weights, strict=True)]


def counts_of(weights: Mapping[str, float], block: int) -> dict[str, int]:
    """Sequences of each domain in a block: rounded down, and what is missing goes to the largest count.

    Raises ExportError where Levanter does.
    """
    if block > LARGEST_BLOCK:
        raise ExportError(f"levanter: a block holds at most {LARGEST_BLOCK} sequences (got {block}).")
    total = sum(weights.values())
    if total == 0 or min(weights.values()) < 0:
        raise ExportError(f"levanter: weights must be >= 0 with a positive sum (got {dict(weights)}).")
    counts = {name: int(weight / total * block) for name, weight in weights.items() if weight > 0}
    largest = max(counts, key=lambda name: counts[name])
    counts[largest] += block - sum(counts.values())
    return counts
