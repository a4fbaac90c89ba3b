"""llm-foundry: `train_loader` with streams of MosaicML Streaming, and the curriculum callback for schedules.

Source: mosaicml/llm-foundry 0.22.0, `build_text_dataloader` in llmfoundry/data/text_data.py and `CurriculumLearning` in
llmfoundry/callbacks/curriculum_learning_callback.py; the streams are those of `mixopt.backends.streaming`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mixopt.backends.base import NUMBERS, README, Tail, as_json, folder, number, quoted, read_numbers, readme, write
from mixopt.backends.streaming import SHUFFLE_SEED, notes_of, remote_of, settled_phases, shares
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

CONFIG = "llm_foundry.yaml"


@dataclass(frozen=True)
class LlmFoundry:
    """Streams of MDS samples of `sequence` tokens each; one epoch of the loader is the whole run, or one phase."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "llm-foundry"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the keys that a training YAML needs. Raises ExportError for names that OmegaConf would interpolate."""
        for domain in plan.domains:
            if "${" in domain.name + domain.sources.mds:
                raise ExportError(f"llm-foundry: {domain.name!r} has a '${{', which OmegaConf takes for a reference.")
        settled = settled_phases(plan, self.sequence, self.tail)
        notes = notes_of(plan, settled, self.sequence)
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
        page = readme(plan, "llm-foundry", notes, launch(Path()))
        return write(out, {CONFIG: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell lines."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that each stream gives, phase by phase in proportion to its tokens."""
        config = parse_as_pyyaml((out / CONFIG).read_text(encoding="utf-8"))
        return shares(phases_of(config), config["train_loader"]["dataset"]["shuffle_seed"])

    def _dataset(self, plan: Plan, mixture: Mapping[str, float], tokens: int) -> list[str]:
        lines = [f"epoch_size: {math.ceil(tokens / self.sequence)}", "streams:"]
        for name, p in mixture.items():
            lines += [
                f"  {quoted(name)}:",
                f"    remote: {quoted(remote_of(plan[name]))}",
                f"    local: {quoted(f'cache/{folder(name)}')}",
                "    split: train",
                f"    proportion: {number(p)}",
            ]
        return lines


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
        raise ExportError(f"llm-foundry: durations {durations} must be positive and sum to max_duration {total}.")
    datasets = [{**first, **mix["dataset"]} for mix in mixes]
    return [(d, dataset["streams"], dataset["epoch_size"]) for d, dataset in zip(durations, datasets, strict=True)]


def _tokens(duration: str) -> int:
    return int(duration.removesuffix("tok"))
