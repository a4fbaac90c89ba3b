"""OLMo-core: `sources.yaml` for its source mixtures, with the repetition that each source needs.

Source: allenai/OLMo-core, `SourceMixtureConfig`, `SourceMixtureList` and `SourceMixtureDatasetConfig.build` in
olmo_core/data/source_mixture.py, `NumpyFSLDatasetConfig` in numpy_dataset.py; ai2-olmo-core 3.0.0.
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

SOURCES = "sources.yaml"


@dataclass(frozen=True)
class OlmoCore:
    """Source mixtures. One instance is `sequence` tokens; `batch` is instances per step.

    An instance never crosses files, so a domain whose files are all shorter counts as below one sample.
    """

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "olmo-core"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `sources.yaml`. Raises ExportError for schedules and for paths that it would take for globs."""
        refuse_schedule(plan, self.name, "its source mixtures are one for the whole run")
        files = {domain.name: files_of(domain) for domain in plan.domains}
        one = self.sequence / plan.target_tokens
        least = {name: one if max(held.values()) >= self.sequence else math.inf for name, held in files.items()}
        settled = settle(plan.mixture, least, self.tail)
        batch_tokens = self.sequence * max(1, min(self.batch, plan.target_tokens // self.sequence))
        requested = batch_tokens * math.ceil(plan.target_tokens / batch_tokens)
        notes = self._notes(plan, settled)
        lines = [f"# Mixture {plan.id}, proportions of tokens.", *(f"# {note}" for note in notes), "sources:"]
        for name, p in settled.mixture.items():
            lines += source_of(name, p, requested, files[name])
        dtypes = {plan[name].sources.dtype for name in settled.mixture if holds_all(plan[name])}
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "requested_tokens": requested,
            "global_batch_size": batch_tokens,
            "dtype": dtypes.pop() if len(dtypes) == 1 else None,
            "tokens": {path: tokens for name in settled.mixture for path, tokens in files[name].items()},
        }
        page = readme(plan, "OLMo-core", notes, lines_of(numbers, Path()))
        return write(out, {SOURCES: "\n".join(lines) + "\n", NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines for the training script."""
        return lines_of(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the tokens that the mixture is built from."""
        sources = parse_as_pyyaml((out / SOURCES).read_text(encoding="utf-8"))["sources"]
        drawn = tokens_of(sources, read_numbers(out))
        total = sum(drawn.values())
        return {name: tokens / total for name, tokens in drawn.items()}

    def _notes(self, plan: Plan, settled: Settled) -> list[str]:
        guessed = [name for name in settled.mixture if not holds_all(plan[name]) and not plan[name].sources.npy]
        partly = [name for name in guessed if plan[name].sources.shards]
        notes = [
            *left_out([settled]),
            "max_repetition_ratio is the epochs that the run needs, rounded up.",
            "Of a pass that is not whole, the beginning of each file is read: shuffle documents before they are tokenized.",
        ]
        if guessed:
            notes.append("Paths `data/<name>/*.npy` are placeholders: put your token files there.")
        if partly:
            notes.append(f"Prepared shards hold only a part of {', '.join(quoted(name) for name in partly)}.")
        return notes


def holds_all(domain: PlannedDomain) -> bool:
    """Whether the prepared shards are the whole domain, not the part that the proxies needed."""
    return bool(domain.sources.shards) and sum(s.tokens for s in domain.sources.shards) >= domain.available_tokens


def files_of(domain: PlannedDomain) -> dict[str, int]:
    """Paths with the tokens that OLMo-core will count in them; given paths share what the domain holds."""
    if holds_all(domain):
        files = {shard.path: shard.tokens for shard in domain.sources.shards}
        if any("*" in path for path in files):
            raise ExportError(f"olmo-core: a shard of {domain.name!r} has a '*' in its path, which is read as a glob.")
        return files
    paths = domain.sources.npy or (f"data/{folder(domain.name)}/*.npy",)
    return {path: math.ceil(domain.available_tokens / len(paths)) for path in paths}


def source_of(name: str, p: float, requested: int, files: Mapping[str, int]) -> list[str]:
    """One entry of the list."""
    return [
        f"- source_name: {quoted(name)}",
        f"  target_ratio: {number(p)}",
        f"  max_repetition_ratio: {number(repetition_of(requested * p, sum(files.values())))}",
        "  paths:",
        *(f"  - {quoted(path)}" for path in files),
    ]


def repetition_of(needed: float, held: int) -> float:
    """The smallest ratio of at least 1, in thousandths, that is above the epochs needed."""
    return max(1.0, (math.floor(1000 * needed / held) + 1) / 1000)


def lines_of(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """Python for the training script, which has a `tokenizer_config` and a `work_dir`."""
    dtype = f"    dtype=NumpyDatasetDType.{numbers['dtype']}," if numbers["dtype"] else None
    lines = [
        "from olmo_core.data import NumpyDatasetDType, NumpyFSLDatasetConfig",
        "from olmo_core.data.source_mixture import SourceMixtureDatasetConfig, SourceMixtureList",
        "mixture = SourceMixtureDatasetConfig(",
        f"    source_list=SourceMixtureList.from_yaml({str(out / SOURCES)!r}),",
        f"    requested_tokens={numbers['requested_tokens']},",
        f"    global_batch_size={numbers['global_batch_size']},",
        ")",
        "dataset_config = NumpyFSLDatasetConfig.from_src_mix(",
        "    mixture,",
        "    tokenizer=tokenizer_config,",
        f"    sequence_length={numbers['sequence']},",
        "    work_dir=work_dir,",
        dtype,
        ")",
    ]
    return [line for line in lines if line is not None]


def tokens_of(sources: Sequence[Mapping[str, Any]], numbers: Mapping[str, Any]) -> dict[str, int]:
    """Tokens drawn from each source. Raises ExportError where OLMo-core refuses."""
    ratios = [source["target_ratio"] for source in sources]
    if not np.allclose(np.sum(ratios), 1.0):
        raise ExportError(f"olmo-core: target_ratios must sum to 1.0 (got {np.sum(ratios)}).")
    chunks: list[tuple[str, int, int]] = []
    for source in sources:
        chunks += chunks_of(source, numbers)
    capacity = [held // numbers["sequence"] for _, _, held in chunks]
    taken = [min(wanted // numbers["sequence"], most) for (_, wanted, _), most in zip(chunks, capacity, strict=True)]
    open_ = [k for k, most in enumerate(capacity) if taken[k] < most]
    remainder = {k: chunks[k][1] % numbers["sequence"] for k in open_}
    steps = math.ceil(numbers["requested_tokens"] / numbers["global_batch_size"])
    instances = steps * (numbers["global_batch_size"] // numbers["sequence"])
    if open_ and instances > sum(taken):
        each = (instances - sum(taken)) // len(open_)
        for k in open_:
            taken[k] += min(each, capacity[k] - taken[k])
        still = sorted((k for k in open_ if taken[k] < capacity[k]), key=lambda k: (remainder[k], k), reverse=True)
        for k in still[: max(0, instances - sum(taken))]:
            taken[k] += 1
    drawn = {source["source_name"]: 0 for source in sources}
    for (name, _, _), count in zip(chunks, taken, strict=True):
        drawn[name] += count * numbers["sequence"]
    return drawn


def chunks_of(source: Mapping[str, Any], numbers: Mapping[str, Any]) -> list[tuple[str, int, int]]:
    """(source, tokens wanted, tokens held) of each pass over each path: whole passes, then the rest of one."""
    name, ratio, repetition = source["source_name"], source["target_ratio"], source["max_repetition_ratio"]
    held = [numbers["tokens"][path] for path in source["paths"]]
    needed = int(numbers["requested_tokens"] * ratio)
    if not 0 < ratio <= 1 or repetition < 1 or int(sum(held) * repetition) < needed:
        raise ExportError(f"olmo-core: insufficient tokens for {name!r}: {sum(held)} x {repetition} < {needed}.")
    passes, remaining = [], needed / sum(held)
    while remaining > 0:
        passes.append(min(1.0, remaining))
        remaining -= passes[-1]
    return [(name, math.ceil(tokens * share), tokens) for share in passes for tokens in held]
