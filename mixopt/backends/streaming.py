"""MosaicML Streaming under llm-foundry: `train_loader` streams, and the curriculum callback for schedules.

Source: mosaicml/streaming 0.13.0, `Stream.validate_weights` and `Stream.apply_weights` in streaming/base/stream.py;
mosaicml/llm-foundry 0.22.0, `build_text_dataloader` in llmfoundry/data/text_data.py and `CurriculumLearning` in
llmfoundry/callbacks/curriculum_learning_callback.py.
"""

from __future__ import annotations

import math
import shlex
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
    quoted,
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "llm_foundry.yaml"
SHUFFLE_SEED = 9176


@dataclass(frozen=True)
class Streaming:
    """Streams of MDS samples of `sequence` tokens each; one epoch of the loader is the whole run, or one phase."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "streaming"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the keys that a training YAML needs. Raises ExportError for names that OmegaConf would interpolate."""
        for domain in plan.domains:
            if "${" in domain.name + domain.sources.mds:
                raise ExportError(f"streaming: {domain.name!r} has a '${{', which OmegaConf takes for a reference.")
        settled = [
            settle(mixture, dict.fromkeys(plan.names, self.sequence / tokens), self.tail)
            for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
        ]
        notes = self._notes(plan, settled)
        first, *later = [
            self._dataset(plan, phase.mixture, tokens) for phase, tokens in zip(settled, plan.tokens, strict=True)
        ]
        lines = [
            f"# Mixture {plan.id}, proportions of tokens.",
            *(f"# {note}" for note in notes),
            f"max_duration: {plan.target_tokens}tok",
            "train_loader:",
            "  name: text",
            "  drop_last: true",
            "  num_workers: 8",
            "  dataset:",
            "    shuffle: true",
            f"    shuffle_seed: {SHUFFLE_SEED}",
            f"    max_seq_len: {self.sequence}",
            "    batching_method: random",
            *(f"    {line}" for line in first),
        ]
        if later:
            lines += ["callbacks:", "  curriculum_learning:", f"    duration: {plan.tokens[0]}tok", "    schedule:"]
        for tokens, dataset in zip(plan.tokens[1:], later, strict=True):
            lines += [f"    - duration: {tokens}tok", "      dataset:", *(f"        {line}" for line in dataset)]
        numbers = {"mixture_id": plan.id, "sequence": self.sequence}
        page = readme(plan, "MosaicML Streaming, llm-foundry", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that each stream gives, phase by phase in proportion to its tokens."""
        config = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))
        dataset = config["train_loader"]["dataset"]
        drawn: dict[str, float] = {}
        for duration, streams, epoch_size in phases_of(config):
            chosen = samples_of(streams, epoch_size, dataset["shuffle_seed"])
            for name, count in chosen.items():
                drawn[name] = drawn.get(name, 0.0) + duration * count / epoch_size
        total = math.fsum(drawn.values())
        return {name: tokens / total for name, tokens in drawn.items()}

    def _dataset(self, plan: Plan, mixture: Mapping[str, float], tokens: int) -> list[str]:
        lines = [f"epoch_size: {math.ceil(tokens / self.sequence)}", "streams:"]
        for name, p in mixture.items():
            remote = plan[name].sources.mds or f"data/{folder(name)}"
            lines += [
                f"  {quoted(name)}:",
                f"    remote: {quoted(remote)}",
                f"    local: {quoted(f'cache/{folder(name)}')}",
                "    split: train",
                f"    proportion: {number(p)}",
            ]
        return lines

    def _notes(self, plan: Plan, settled: Sequence[Settled]) -> list[str]:
        notes = [
            f"A sample must be {self.sequence} tokens (concatenated when converted), else shares are of documents."
        ]
        notes += left_out(settled)
        if any(not domain.sources.mds for domain in plan.domains):
            notes.append("Remotes `data/<name>` are placeholders: put your MDS folders there.")
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            notes.append(f"Phase {k} starts at token {start:,}, sample {start // self.sequence:,}.")
        return notes


def launch(out: Path) -> list[str]:
    """`base.yaml` is the rest of the training YAML; a key that is in both files is an error there."""
    joined = shlex.join(["cat", "base.yaml", str(out / CONFIG)])
    return [f"{joined} > train.yaml", "composer scripts/train/train.py train.yaml"]


def phases_of(config: Mapping[str, Any]) -> list[tuple[int, Mapping[str, Any], int]]:
    """(tokens, streams, epoch size) of each phase. Raises ExportError if durations do not add up to the run."""
    total = _tokens(config["max_duration"])
    first = config["train_loader"]["dataset"]
    curriculum = config.get("callbacks", {}).get("curriculum_learning")
    if curriculum is None:
        return [(total, first["streams"], first["epoch_size"])]
    mixes = [{"duration": curriculum["duration"], "dataset": first}, *curriculum["schedule"]]
    durations = [_tokens(mix["duration"]) for mix in mixes]
    if sum(durations) != total or min(durations) <= 0:
        raise ExportError(f"streaming: durations {durations} must be positive and sum to max_duration {total}.")
    datasets = [{**first, **mix["dataset"]} for mix in mixes]
    return [(d, dataset["streams"], dataset["epoch_size"]) for d, dataset in zip(durations, datasets, strict=True)]


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


def _tokens(duration: str) -> int:
    return int(duration.removesuffix("tok"))
