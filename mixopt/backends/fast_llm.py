"""Fast-LLM: the training dataset as a file, `type: blended` over the files that `fast-llm prepare` wrote.

Source: ServiceNow/Fast-LLM, `BlendedDatasetConfig` in fast_llm/data/dataset/config.py, `GPTDatasetFromFileConfig` in
gpt/config.py (paths in a file are relative to it), `_parse_updates` in fast_llm/engine/config_utils/runnable.py.
"""

from __future__ import annotations

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
    number,
    quoted,
    read_numbers,
    readme,
    write,
)
from mixopt.backends.blends import LARGEST_BLEND, drawn_of, head, one_blend, shares_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.yaml_text import parse_as_pyyaml

DATASET = "training.yaml"


@dataclass(frozen=True)
class FastLLM:
    """One blend of prepared datasets for the whole run. One sample is `sequence` tokens."""

    sequence: int = 4096
    tail: Tail = "drop"
    name: ClassVar[str] = "fast-llm"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `training.yaml`. Raises ExportError for schedules and for more datasets than an index holds."""
        files = {name: f"data/{folder(name)}/fast_llm_config_training.yaml" for name in plan.names}
        blend = one_blend(self, plan, files, "a blended dataset has one list of weights")
        notes = blend.notes(
            "Paths `data/<name>/...` are placeholders, relative to this folder: `fast-llm prepare` writes such files.",
            f"`training.train_iters` times the samples of an iteration should be {blend.samples:,} samples.",
        )
        body = ["type: file", *(f"path: {quoted(file)}" for file in blend.weights)]
        if len(blend.weights) > 1:
            body = [
                "type: blended",
                "datasets:",
                *(line for file in blend.weights for line in ("- type: file", f"  path: {quoted(file)}")),
                "weights:",
                *(f"- {number(p)}" for p in blend.weights.values()),
            ]
        lines = [*head(plan, notes), *body]
        page = readme(plan, "Fast-LLM", notes, launch(Path()))
        return write(out, {DATASET: "\n".join(lines) + "\n", NUMBERS: as_json(blend.numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The shell line."""
        read_numbers(out)
        return launch(out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the samples that the blend draws of each dataset."""
        numbers = read_numbers(out)
        config = parse_as_pyyaml((out / DATASET).read_text(encoding="utf-8"))
        return shares_of(samples_of(config, numbers["samples"]), numbers["sources"])


def launch(out: Path) -> list[str]:
    """`base.yaml` is the rest of the configuration, without `data.datasets.training`."""
    updates = ["data.datasets.training.type=file", f"data.datasets.training.path={quoted(str(out / DATASET))}"]
    return [shlex.join(["fast-llm", "train", "gpt", "--config", "base.yaml", *updates])]


def samples_of(config: Mapping[str, Any], size: int) -> dict[str, int]:
    """Samples of each file in a run of `size` samples. Raises ExportError where Fast-LLM asserts."""
    if config["type"] == "file":
        return {config["path"]: size}
    paths, weights = [dataset["path"] for dataset in config["datasets"]], config["weights"]
    if not 2 <= len(paths) <= LARGEST_BLEND or len(paths) != len(weights):
        raise ExportError(f"fast-llm: blends two datasets or more, each with a weight (got {len(paths)}).")
    return drawn_of(paths, weights, size)
