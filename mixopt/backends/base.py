"""What the backends share: the seam, which proportions a stack can express, and how text and numbers are written."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol
from urllib.parse import quote

from mixopt.errors import ExportError
from mixopt.handoff import Plan
from mixopt.mixture import Mixture

Tail = Literal["drop", "raise", "pool"]
"""What becomes of proportions below a stack's resolution: left out, refused, or given to the largest of them."""

NUMBERS = "numbers.json"
README = "README.md"


class Backend(Protocol):
    """One framework that trains the real model."""

    @property
    def name(self) -> str:
        """What the user calls it."""

    def export(self, plan: Plan, out: Path) -> list[Path]:
        """Write the mixture in the framework's own unit and syntax. Raises ExportError where it cannot say it."""

    def command(self, out: Path) -> list[str]:
        """The lines to paste: shell, or Python where the framework is configured in Python."""

    def read_back(self, out: Path) -> dict[str, float]:
        """Token proportions that the framework would draw, by its own rule, from the files in `out`."""


@dataclass(frozen=True)
class Settled:
    """One phase as a stack can express it: positive proportions that sum to 1, and what was left out.

    `unit` is the least that the stack can draw of a domain; the tail is below it. `pool` is the domain that has the tail's
    proportions, if it was not dropped.
    """

    mixture: Mixture
    zero: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    unit: str = "one sample of the run"
    pool: str = ""


def settle(mixture: Mixture, least: Mapping[str, float], tail: Tail, unit: str = Settled.unit) -> Settled:
    """Leave out zeros, and treat positive proportions under the stack's resolution `least` as `tail` says.

    `unit` says in words what `least` is. Raises ExportError if the tail is refused, or if nothing is left.
    """
    zero = tuple(name for name, p in mixture.items() if p == 0)
    small = {name: p for name, p in mixture.items() if 0 < p < least[name]}
    kept = {name: p for name, p in mixture.items() if p > 0 and name not in small}
    said = ", ".join(f"{name} {p:.3g}" for name, p in small.items())
    if small and tail == "raise":
        raise ExportError(f"below {unit}: {said}. Use tail 'drop' or 'pool', or a larger token budget.")
    largest = max(small, key=lambda name: small[name], default="")
    if small and tail == "pool":
        kept[largest] = sum(small.values())
        if kept[largest] < least[largest]:
            raise ExportError(f"below {unit} even when pooled: {said}. Use tail 'drop'.")
    if not kept:
        raise ExportError(f"every proportion is below {unit}: {said}. The token budget is too small.")
    left = tuple(name for name in small if name not in kept)
    return Settled(Mixture.normalised(kept), zero, left, unit, pool=largest if tail == "pool" else "")


def left_out(settled: Sequence[Settled]) -> list[str]:
    """One sentence for the domains without a proportion, and one for those below the resolution."""
    sentences = []
    for k, phase in enumerate(settled):
        where = f" in phase {k}" if len(settled) > 1 else ""
        pooled = f"Pooled into {quoted(phase.pool)}" if phase.pool else "Left out"
        for what, why, names in (
            ("Left out", "proportion 0", phase.zero),
            (pooled, f"below {phase.unit}", phase.tail),
        ):
            if names:
                sentences.append(f"{what}{where}, {why}: {', '.join(quoted(name) for name in names)}.")
    return sentences


def refuse_schedule(plan: Plan, stack: str, why: str) -> None:
    """Raises ExportError for a plan of several phases; `why` says what the stack has instead."""
    if len(plan.phases) > 1:
        raise ExportError(
            f"{stack}: {why}, this plan has {len(plan.phases)} phases. Choose a stack that follows schedules "
            "(see `mixopt backends`), or recommend a static mixture."
        )


def deviation(plan: Plan, backend: Backend, out: Path) -> float:
    """Largest |exported - intended| over the domains, as token proportions of the whole run."""
    return largest_deviation(plan, backend.read_back(out))


def largest_deviation(plan: Plan, exported: Mapping[str, float]) -> float:
    """The same of proportions that were read back already."""
    return max(abs(exported.get(name, 0.0) - p) for name, p in plan.mixture.items())


def document_lengths(plan: Plan, backend: str) -> dict[str, float]:
    """Mean tokens per document of each domain, for a stack that draws documents; 1 where a domain is not used.

    Raises ExportError where it is not known.
    """
    length = {domain.name: domain.mean_tokens_per_doc for domain in plan.domains}
    unknown = [name for name, mean in length.items() if mean is None and plan.mixture[name] > 0]
    if unknown:
        raise ExportError(
            f"{backend}: it draws documents, and mean_tokens_per_doc is not known for {', '.join(unknown)}. "
            "Prepare the domains, or write the number into mixture.json."
        )
    return {name: mean or 1.0 for name, mean in length.items()}


def number(value: float) -> str:
    """A float to its last bit, with the point without which YAML 1.1 reads `2e-07` as text."""
    mantissa, e, exponent = repr(float(value)).partition("e")
    return mantissa + (".0" if e and "." not in mantissa else "") + e + exponent


def quoted(text: str) -> str:
    """A double-quoted YAML scalar, safe in comments too: nothing in it is special, nothing ends the line."""
    return '"' + "".join(_escaped(c) for c in text) + '"'


def folder(name: str) -> str:
    """The domain's name as one part of a path: distinct names stay distinct."""
    return quote(name, safe="")


def write(out: Path, files: Mapping[str, str]) -> list[Path]:
    """Write text files into a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (out / name).write_text(text, encoding="utf-8", newline="\n")
    return [out / name for name in files]


def as_json(body: Mapping[str, Any]) -> str:
    """Readable JSON."""
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def read_numbers(out: Path) -> Any:
    """What an export noted beside the stack's own files. Raises ExportError if it is not there."""
    try:
        return json.loads((out / NUMBERS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ExportError(f"{out}: no readable {NUMBERS} ({e}). Export again.") from e


def readme(plan: Plan, title: str, notes: Sequence[str], lines: Sequence[str]) -> str:
    """The page for people: what was exported, what to know of it, what to paste, domain by domain."""
    domains = [
        f"- {quoted(name)}: proportion {plan.mixture[name]:.6g} of tokens, {plan.epochs[name]:.4g} epochs"
        for name in plan.names
    ]
    return "\n".join(
        [
            f"# {title}",
            "",
            f"Mixture `{plan.id}`, {plan.target_tokens:,} target tokens. Proportions are of training tokens.",
            "",
            *(f"- {note}" for note in notes),
            "",
            "```",
            *lines,
            "```",
            "",
            *domains,
            "",
        ]
    )


def _escaped(c: str) -> str:
    if c in '"\\':
        return "\\" + c
    return c if c.isprintable() else f"\\U{ord(c):08X}"
