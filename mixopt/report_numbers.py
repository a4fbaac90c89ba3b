"""Numbers in words, and which of them a report shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from mixopt.region import AT_BOUND

Results = Mapping[str, Any]
SHOWN = 25
MISSING = "–"
UNITS = {"bpb": "bits per byte", "loss": "nats per token"}


def finite(x: float | None) -> TypeGuard[float]:
    """Whether there is a number to show."""
    return x is not None and math.isfinite(x)


def number(x: float | None, digits: int = 4) -> str:
    """A measured value with so many significant digits."""
    return f"{x:#.{digits}g}".rstrip(".").replace("-", "−") if finite(x) else MISSING


def places(values: Iterable[float | None]) -> int:
    """Decimals that show three significant digits of the largest value: numbers read together share them."""
    largest = max((abs(x) for x in values if finite(x)), default=0.0)
    return min(max(2 - math.floor(math.log10(largest)), 0), 7) if largest else 2


def aligned(values: Sequence[float]) -> list[str]:
    """A column of measured values: as many decimals for all as give the smallest four significant digits."""
    decimals = places([min(values, key=abs, default=0.0)]) + 1
    return [f"{x:.{decimals}f}".replace("-", "−") for x in values]


def signed(x: float | None, decimals: int) -> str:
    """A difference with its sign."""
    return f"{x:+.{decimals}f}".replace("-", "−") if finite(x) else MISSING


def span(low: float | None, high: float | None, decimals: int) -> str:
    """An interval's ends."""
    return f"{signed(low, decimals)} to {signed(high, decimals)}" if finite(low) and finite(high) else MISSING


def percent(x: float | None) -> str:
    """A proportion with one decimal."""
    if not finite(x):
        return MISSING
    return "< 0.1 %" if 0 < x < 5e-4 else f"{100 * x:.1f} %"


def points(x: float) -> str:
    """A change of a proportion, in percentage points."""
    return f"{signed(100 * x, 1)} pp"


def share(x: float) -> str:
    """A fraction of any size with two significant digits."""
    return "less than 0.001 %" if x < 1e-5 else f"{float(f'{100 * x:.2g}'):g} %"


def scaled(x: float | None, steps: str = " kMBT") -> str:
    """Three significant digits and a letter for the thousands: 25 B."""
    if not finite(x):
        return MISSING
    rounded, power = float(f"{x:.3g}"), 0
    while abs(rounded) >= 1000 and power + 1 < len(steps):
        rounded, power = rounded / 1000, power + 1
    return f"{rounded:g} {steps[power]}".strip()


def flops(x: float | None) -> str:
    """Floating-point operations: 1.2 PFLOP."""
    words = scaled(x, " kMGTPEZYRQ")
    return f"{words}FLOP" if words[-1].isalpha() else f"{words} FLOP"


def duration(seconds: float | None) -> str:
    """Seconds in the units that matter."""
    if not finite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def plural(n: int, noun: str) -> str:
    """A count and its noun."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def unit(results: Results) -> str:
    """The unit of the objective."""
    families = {metric.split("/")[0] for metric in results["objective"]["weights"]}
    return UNITS.get(families.pop(), "objective units") if len(families) == 1 else "objective units"


def label(metric: str) -> str:
    """The held-out domain that a metric measures; the metric's own name where it measures something else."""
    family, _, domain = metric.partition("/")
    return domain if family in UNITS and domain else metric


def shown_domains(results: Results) -> list[Mapping[str, Any]]:
    """The domains with the largest change, in the order of their recommended proportions."""
    changed = sorted(results["domains"], key=lambda d: (-abs(d["recommended"] - d["prior"]), d["name"]))
    return sorted(changed[:SHOWN], key=lambda d: (-d["recommended"], d["name"]))


def shown_effects(results: Results) -> dict[str, Mapping[str, Any]]:
    """The domains whose moves change the objective most, the largest change first."""
    size = {
        name: max(abs(change["value"]) for change in ways.values() if change)
        for name, ways in results["uncertainty"]["effects"].items()
        if any(ways.values())
    }
    order = sorted(size, key=lambda name: (-size[name], name))[:SHOWN]
    return {name: results["uncertainty"]["effects"][name] for name in order}


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first of some names, and how many more there are."""
    some = ", ".join(names[:most])
    return some if len(names) <= most else f"{some} and {len(names) - most} more"


def binding(domain: Mapping[str, Any], max_epochs: float | None) -> str:
    """Which bound stops this domain's proportion, if any."""
    w, lower, upper = domain["recommended"], domain["lower"], domain["upper"]
    if w >= upper * (1 - AT_BOUND):
        capped = finite(max_epochs) and domain["epochs"] >= max_epochs * (1 - AT_BOUND)
        return "max_epochs" if capped else "upper"
    return "lower" if lower > 0 and w <= lower * (1 + AT_BOUND) else ""


@dataclass(frozen=True)
class Change:
    """By how much the recommendation is better than the prior on one metric, over seeds."""

    label: str
    mean: float
    low: float | None
    high: float | None

    @property
    def tone(self) -> str:
        """Better or worse where the interval excludes zero, else noise."""
        if not (finite(self.low) and finite(self.high)):
            return "noise"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "noise"


def changes(results: Results) -> list[Change]:
    """The change of each metric of the objective's kind, the largest changes first."""
    difference = ((results["validation"] or {}).get("differences") or {}).get("prior") or {}
    families = {metric.split("/")[0] for metric in results["objective"]["weights"]}
    found = [
        Change(label(metric), d["mean"], d["low"], d["high"])
        for metric, d in difference.get("metrics", {}).items()
        if metric.split("/")[0] in families
    ]
    return sorted(found, key=lambda c: (-abs(c.mean), c.label))


def same_scale(results: Results) -> bool:
    """Whether the answer was validated with the swarm's own proxies, so that both share one axis."""
    v, proxy = results["validation"], results["proxy"]
    return bool(v) and (v["size"], v["tokens"]) == (proxy["size"], proxy["tokens"])
