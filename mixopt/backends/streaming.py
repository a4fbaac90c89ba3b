"""MosaicML Streaming: a Python file with `mixture(batch_size)`, one streaming dataset for each phase.

Source: mosaicml/streaming 0.13.0, `Stream.validate_weights` and `Stream.apply_weights` in streaming/base/stream.py.
"""

from __future__ import annotations

import math
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
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan, PlannedDomain

MODULE = "mixture.py"
SHUFFLE_SEED = 9176

CODE = '''"""The mixture of `numbers.json` as MosaicML streaming datasets; needs mosaicml-streaming >= 0.13."""

import json
from pathlib import Path

from streaming import Stream, StreamingDataset

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def mixture(batch_size, phase=0):
    """The dataset of one phase, whose only epoch is the phase; `batch_size` is of one device.

    Each phase has a cache of its own: two datasets that live at the same time must not share one.
    """
    drawn = NUMBERS["phases"][phase]
    streams = []
    for name, proportion in drawn["proportions"].items():
        stream = NUMBERS["streams"][name]
        streams.append(Stream(**stream | {"local": f"{stream['local']}/phase-{phase}"}, proportion=proportion))
    return StreamingDataset(
        streams=streams,
        epoch_size=drawn["epoch_size"],
        batch_size=batch_size,
        shuffle=True,
        shuffle_seed=NUMBERS["shuffle_seed"],
        batching_method="random",
    )
'''


@dataclass(frozen=True)
class Streaming:
    """Streams of MDS samples of `sequence` tokens each; one epoch of a dataset is the whole run, or one phase."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "streaming"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers."""
        settled = settled_phases(plan, self.sequence, self.tail)
        names = sorted({name for phase in settled for name in phase.mixture})
        phases = [
            {
                "start_token": start,
                "tokens": tokens,
                "epoch_size": math.ceil(tokens / self.sequence),
                "proportions": dict(phase.mixture),
            }
            for (start, _), tokens, phase in zip(plan.phases, plan.tokens, settled, strict=True)
        ]
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "shuffle_seed": SHUFFLE_SEED,
            "streams": {
                name: {"remote": remote_of(plan[name]), "local": f"cache/{folder(name)}", "split": "train"}
                for name in names
            },
            "phases": phases,
        }
        notes = notes_of(plan, settled, self.sequence)
        if len(phases) > 1:
            notes.append("Each phase is a dataset of its own: what an earlier phase read may come again.")
        page = readme(plan, "MosaicML Streaming", notes, lines_of(numbers, Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines of Python."""
        return lines_of(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that each stream gives, phase by phase in proportion to its tokens."""
        numbers = read_numbers(out)
        return shares(
            [
                (phase["tokens"], {n: {"proportion": p} for n, p in phase["proportions"].items()}, phase["epoch_size"])
                for phase in numbers["phases"]
            ],
            numbers["shuffle_seed"],
        )


def settled_phases(plan: Plan, sequence: int, tail: Tail) -> list[Settled]:
    """Each phase as samples can express it."""
    return [
        settle(mixture, dict.fromkeys(plan.names, sequence / tokens), tail)
        for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
    ]


def remote_of(domain: PlannedDomain) -> str:
    """The domain's MDS folder, or where it is expected when nobody said."""
    return domain.sources.mds or f"data/{folder(domain.name)}"


def notes_of(plan: Plan, settled: Sequence[Settled], sequence: int) -> list[str]:
    """What to know of the export."""
    notes = [f"A sample must be {sequence} tokens (concatenated when converted), else shares are of documents."]
    notes += left_out(settled)
    if any(not domain.sources.mds for domain in plan.domains):
        notes.append("Remotes `data/<name>` are placeholders: put your MDS folders there.")
    for k, (start, _) in enumerate(plan.phases[1:], start=1):
        notes.append(f"Phase {k} starts at token {start:,}, sample {start // sequence:,}.")
    return notes


def lines_of(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """Python for the training script, which has a `batch_size`."""
    lines = ["import runpy", f"mixture = runpy.run_path({str(out / MODULE)!r})['mixture']"]
    for k, phase in enumerate(numbers["phases"]):
        lines.append(
            f"phase_{k} = mixture(batch_size, phase={k})  # {phase['epoch_size']} samples, from {phase['start_token']} tokens on"
        )
    return lines


def shares(phases: Sequence[tuple[int, Mapping[str, Mapping[str, Any]], int]], seed: int) -> dict[str, float]:
    """Shares of the run's tokens from the (tokens, streams, epoch size) of each phase."""
    drawn: dict[str, float] = {}
    for tokens, streams, epoch_size in phases:
        for name, count in samples_of(streams, epoch_size, seed).items():
            drawn[name] = drawn.get(name, 0.0) + tokens * count / epoch_size
    total = math.fsum(drawn.values())
    return {name: tokens / total for name, tokens in drawn.items()}


def samples_of(streams: Mapping[str, Mapping[str, Any]], epoch_size: int, seed: int) -> dict[str, int]:
    """Samples of each stream in one epoch: rounded down, and the shortfall given to streams drawn at random.

    Raises ExportError where Streaming refuses: a negative proportion, or a stream without one.
    """
    proportions = [stream.get("proportion") for stream in streams.values()]
    if not all(isinstance(p, float) and p >= 0 for p in proportions):
        raise ExportError(f"streaming: every stream needs a proportion >= 0 (got {proportions}).")
    p_D = np.array(proportions, dtype=np.float64)
    count_D = (epoch_size * (p_D / p_D.sum())).astype(np.int64)
    lucky = np.random.default_rng(seed).choice(len(count_D), epoch_size - count_D.sum(), replace=False)
    count_D[lucky] += 1
    return dict(zip(streams, count_D.tolist(), strict=True))
