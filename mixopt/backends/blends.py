"""What Megatron-LM and the stacks that took its data pipeline share: blends of datasets of fixed-length samples.

A blend of S samples over weights w draws, sample by sample, from the dataset that is furthest behind w_d S. So each is within
one sample of its share, whatever surplus a stack prepares, and as all samples have one length, shares of samples are shares
of tokens.

Source: `build_blending_indices` in megatron/core/datasets/helpers.cpp, megatron-core 0.16.1, and its copies in GPT-NeoX,
Fast-LLM, lm-engine and nanotron.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mixopt.backends.base import Settled, Tail, folder, left_out, quoted, refuse_schedule, settle
from mixopt.errors import ExportError
from mixopt.handoff import Plan

LARGEST_BLEND = 32766
SPLIT = "990,8,2"
FEW_DOCUMENTS = 250
"""With so many documents or fewer, `SPLIT` leaves none to test: the split's bounds are rounded to whole documents."""


@dataclass(frozen=True)
class Blend:
    """One blend for a whole run: how many samples, of which sources (by domain), and the settled proportions."""

    plan: Plan
    sequence: int
    samples: int
    settled: Settled
    sources: Mapping[str, str]

    @property
    def weights(self) -> dict[str, float]:
        """The proportion of each source that has one."""
        return {self.sources[name]: p for name, p in self.settled.mixture.items()}

    @property
    def numbers(self) -> dict[str, Any]:
        """What `read_back` must know."""
        return {
            "mixture_id": self.plan.id,
            "sequence": self.sequence,
            "samples": self.samples,
            "sources": dict(self.sources),
        }

    def notes(self, *more: str) -> list[str]:
        """What to know of it, then `more`."""
        return [unit_note(self.sequence), *left_out([self.settled]), *more]


class Blending(Protocol):
    """A backend whose samples are `sequence` tokens."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    @property
    def sequence(self) -> int:
        """Tokens of a sample."""

    @property
    def tail(self) -> Tail:
        """What becomes of proportions below one sample of the run."""


def one_blend(stack: Blending, plan: Plan, sources: Mapping[str, str], why: str, largest: int = LARGEST_BLEND) -> Blend:
    """The plan as one blend of `sources`. `why` says what the stack has instead of a schedule.

    Raises ExportError for schedules, for more than `largest` datasets, and as `settle` does.
    """
    refuse_schedule(plan, stack.name, why)
    samples = math.ceil(plan.target_tokens / stack.sequence)
    (settled,) = settle_phases(stack, plan, [samples], largest)
    return Blend(plan, stack.sequence, samples, settled, sources)


def settle_phases(stack: Blending, plan: Plan, samples: Sequence[int], largest: int = LARGEST_BLEND) -> list[Settled]:
    """What is drawn in each phase of so many samples. Raises ExportError for more than `largest` datasets."""
    settled = [
        settle(mixture, dict.fromkeys(plan.names, 1 / n), stack.tail)
        for n, (_, mixture) in zip(samples, plan.phases, strict=True)
    ]
    most = max(len(phase.mixture) for phase in settled)
    if most > largest:
        raise ExportError(f"{stack.name}: at most {largest} datasets in a blend (got {most}). Merge domains.")
    return settled


def samples_of_phases(stack: str, plan: Plan, sequence: int, batch: int) -> list[int]:
    """Samples of each phase; with several of them, whole iterations. Raises ExportError for a phase without one."""
    if len(plan.phases) == 1:
        return [math.ceil(plan.target_tokens / sequence)]
    per_iteration = sequence * batch
    starts = [round(start / per_iteration) for start, _ in plan.phases]
    ends = [*starts[1:], math.ceil(plan.target_tokens / per_iteration)]
    samples = [batch * (end - start) for start, end in zip(starts, ends, strict=True)]
    if min(samples) < batch:
        raise ExportError(f"{stack}: a phase is shorter than one iteration of {per_iteration:,} tokens.")
    return samples


def prefixes_of(stack: str, plan: Plan) -> dict[str, str]:
    """The prefix of each domain, a placeholder where nobody said. Raises ExportError for what a blend cannot hold."""
    prefixes = {d.name: d.sources.megatron_prefix or f"data/{folder(d.name)}_text_document" for d in plan.domains}
    for name, prefix in prefixes.items():
        if not prefix.isprintable() or any(c.isspace() for c in prefix):
            raise ExportError(f"{stack}: prefix {prefix!r} of {name!r} has white space, which a blend does not hold.")
        if prefix.endswith((".bin", ".idx")):
            raise ExportError(f"{stack}: prefix {prefix!r} of {name!r} must come without .bin or .idx.")
    if len(set(prefixes.values())) < len(prefixes):
        raise ExportError(f"{stack}: two domains share one prefix. Give each its own megatron_prefix.")
    return prefixes


def placeholders(plan: Plan) -> list[str]:
    """One sentence where a prefix is not known."""
    if all(domain.sources.megatron_prefix for domain in plan.domains):
        return []
    return ["Prefixes `data/<name>_text_document` are placeholders: put yours, without .bin or .idx."]


def split_notes(plan: Plan) -> list[str]:
    """What `SPLIT` does: to all, and to datasets so small that counting the epochs of an empty split never ends."""
    kept = f"`split` {SPLIT} keeps 1 % of each dataset from training; its epochs rise by as much."
    used = [domain for domain in plan.domains if plan.mixture[domain.name] > 0]
    small = [
        d.name for d in used if d.mean_tokens_per_doc and d.available_tokens / d.mean_tokens_per_doc <= FEW_DOCUMENTS
    ]
    if small:
        who = ", ".join(quoted(name) for name in small)
    elif any(domain.mean_tokens_per_doc is None for domain in used):
        who = "any dataset"
    else:
        return [kept]
    stuck = f"With {FEW_DOCUMENTS} documents or fewer ({who}) the split has none to test, and the count of its epochs never ends."
    return [kept, f"{stuck} Then split 1000,0,0 and validate on data of its own."]


def unit_note(sequence: int) -> str:
    """How the stack's unit becomes tokens."""
    return f"One sample is {sequence} tokens, so shares of samples are shares of tokens."


def head(plan: Plan, notes: Sequence[str]) -> list[str]:
    """The comments that a YAML file begins with."""
    return [f"# Mixture {plan.id}, proportions of tokens.", *(f"# {note}" for note in notes)]


def drawn_of(sources: Sequence[str], weights: Sequence[float], size: int) -> dict[str, int]:
    """Samples that a blend of `size` draws of each source, to one sample."""
    shares = (np.array(weights) / np.sum(weights)).tolist()
    return {source: math.ceil(size * share) for source, share in zip(sources, shares, strict=True)}


def shares_of(drawn: Mapping[str, int], sources: Mapping[str, str]) -> dict[str, float]:
    """The share of each domain among what was drawn of the sources."""
    total = sum(drawn.values())
    return {name: drawn[source] / total for name, source in sources.items() if source in drawn}
