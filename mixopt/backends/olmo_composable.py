"""OLMo-core's composable data: a Python file with one mixture of instances for each phase, read one after the other.

Several phases share a domain without reading anything in two of them: the domain is split at random, in proportion to
what each phase draws of it, so that each part is read as often as the whole is. Each mixture asks for one instance more
per domain, since OLMo-core rounds every domain down.

Source: allenai/OLMo-core, `MixingInstanceSource`, `SamplingInstanceSource`, `SplitInstanceSourceConfig`,
`calculate_sample_sizes` and `ShuffleStrategy.intra_source` in olmo_core/data/composable; ai2-olmo-core 3.0.0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
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
    read_numbers,
    readme,
    settle,
    write,
)
from mixopt.backends.olmo_core import files_of, holds_all
from mixopt.backends.olmo_parts import instances_of, phases_of
from mixopt.errors import ExportError
from mixopt.handoff import Plan

MODULE = "mixture.py"
MOST_INSTANCES = 2**32 - 1

CODE = '''"""The mixture of `numbers.json` as instance sources, one for each phase; needs ai2-olmo-core >= 3.0."""

import json
from pathlib import Path

from olmo_core.data import NumpyDatasetDType
from olmo_core.data.composable import (
    ConcatAndChunkInstanceSourceConfig,
    MixingInstanceSourceConfig,
    MixingInstanceSourceSpecConfig,
    NumpyDocumentSourceConfig,
    SplitInstanceSourceConfig,
)

NUMBERS = json.loads(Path(__file__).with_name("numbers.json").read_text(encoding="utf-8"))


def sources(tokenizer, seed=0):
    """One config for each phase, in order: for a ComposableDataLoader that shuffles within each (intra_source)."""
    return [
        MixingInstanceSourceConfig(
            source_specs=[
                MixingInstanceSourceSpecConfig(
                    source=part_of(spec["domain"], spec["part"], tokenizer, seed),
                    ratio=spec["ratio"],
                    max_repetition_factor=spec["max_repetition_factor"],
                    label=spec["domain"],
                )
                for spec in phase["source_specs"]
            ],
            num_tokens=phase["num_tokens"],
            seed=seed + 1000 * k,
            label=f"phase {k}",
        )
        for k, phase in enumerate(NUMBERS["phases"])
    ]


def part_of(domain, part, tokenizer, seed):
    """The instances of a domain that are one phase's own."""
    dtype = NUMBERS["dtype"][domain]
    source = ConcatAndChunkInstanceSourceConfig(
        sources=[
            NumpyDocumentSourceConfig(
                source_paths=NUMBERS["paths"][domain],
                tokenizer=tokenizer,
                dtype=NumpyDatasetDType(dtype) if dtype else None,
                source_group_size=-1,
            )
        ],
        sequence_length=NUMBERS["sequence"],
    )
    for depth, (ratio, side) in enumerate(part):
        source = SplitInstanceSourceConfig(source=source, ratio=ratio, idx=side, seed=seed + depth)
    return source
'''


@dataclass(frozen=True)
class OlmoComposable:
    """Mixed instances of `sequence` tokens; `batch` is instances per step. The files of a domain are one long file."""

    sequence: int = 4096
    batch: int = 512
    tail: Tail = "drop"
    name: ClassVar[str] = "olmo-core-composable"

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write `mixture.py` and its numbers.

        Raises ExportError for paths that it would take for globs, for runs of too many instances, and for domains too
        small to be split over the phases.
        """
        files = {domain.name: files_of(domain) for domain in plan.domains}
        held = {name: sum(tokens.values()) // self.sequence for name, tokens in files.items()}
        settled = [
            settle(mixture, {n: self.sequence / tokens if held[n] else math.inf for n in plan.names}, self.tail)
            for tokens, (_, mixture) in zip(plan.tokens, plan.phases, strict=True)
        ]
        batch = max(1, min(self.batch, plan.target_tokens // self.sequence))
        instances = self._instances(plan, batch, settled)
        used = [name for name in plan.names if any(name in phase.mixture for phase in settled)]
        numbers = {
            "mixture_id": plan.id,
            "sequence": self.sequence,
            "global_batch_size": batch * self.sequence,
            "dtype": {name: plan[name].sources.dtype if holds_all(plan[name]) else None for name in used},
            "paths": {name: list(files[name]) for name in used},
            "instances": {name: held[name] for name in used},
            "phases": phases_of(settled, instances, held, self.sequence),
        }
        notes = self._notes(plan, instances, settled, used)
        page = readme(plan, "OLMo-core, composable", notes, lines_of(numbers, Path()))
        return write(out, {MODULE: CODE, NUMBERS: as_json(numbers), README: page})

    def command(self, out: Path) -> list[str]:
        """The lines for the training script."""
        return lines_of(read_numbers(out), out)

    def read_back(self, out: Path) -> dict[str, float]:
        """Shares of the instances that the mixtures are built from."""
        numbers = read_numbers(out)
        drawn: dict[str, int] = {}
        for phase in numbers["phases"]:
            for name, count in instances_of(phase, numbers["instances"], numbers["sequence"]).items():
                drawn[name] = drawn.get(name, 0) + count
        total = sum(drawn.values())
        return {name: count / total for name, count in drawn.items()}

    def _instances(self, plan: Plan, batch: int, settled: Sequence[Settled]) -> list[int]:
        """Instances of each phase: together whole batches, and one more for each domain."""
        starts = [math.ceil(start / self.sequence) for start, _ in plan.phases]
        ends = [*starts[1:], batch * math.ceil(plan.target_tokens / (batch * self.sequence))]
        if ends[-1] >= MOST_INSTANCES:
            raise ExportError(
                f"olmo-core-composable: at most {MOST_INSTANCES:,} instances in a run (got {ends[-1]:,}). Use a longer "
                "sequence, or the backend olmo-core."
            )
        return [end - start + len(s.mixture) for start, end, s in zip(starts, ends, settled, strict=True)]

    def _notes(
        self, plan: Plan, instances: Sequence[int], settled: Sequence[Settled], used: Sequence[str]
    ) -> list[str]:
        notes = [
            *left_out(settled),
            "max_repetition_factor is the epochs that the run needs, rounded up.",
            "Give the run a `work_dir` of its own: the order of instances in it is found by the number of instances.",
        ]
        if any(not plan[name].sources.npy and not holds_all(plan[name]) for name in used):
            notes.append("Paths `data/<name>/*.npy` are placeholders: put your token files there.")
        if len(plan.phases) > 1:
            notes.append("Phases share no instance: each domain is split among them at random, as they need it.")
        for k, (start, _) in enumerate(plan.phases[1:], start=1):
            notes.append(f"Phase {k} starts at token {start:,}, about instance {sum(instances[:k]):,}.")
        return notes


def lines_of(numbers: Mapping[str, Any], out: Path) -> list[str]:
    """Python for the training script, which has a `tokenizer_config` and a `work_dir`."""
    return [
        "import runpy",
        "from olmo_core.data.composable import ComposableDataLoaderConfig, ShuffleStrategy",
        f"mixture = runpy.run_path({str(out / MODULE)!r})['sources'](tokenizer_config)",
        "data_loader = ComposableDataLoaderConfig(",
        "    tokenizer=tokenizer_config,",
        f"    global_batch_size={numbers['global_batch_size']},",
        "    work_dir=work_dir,",
        "    shuffle_strategy=ShuffleStrategy.intra_source,",
        ").build(*[source.build(work_dir) for source in mixture])",
    ]
