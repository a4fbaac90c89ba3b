"""What each phase of a run draws in OLMo-core's composable data, and the parts of the domains it draws from.

A phase k that needs n_kd instances of domain d, which holds N_d, has a part of d for itself:

    N_kd = N_d n_kd / sum_j n_jd,   so that every part is read as often as the whole of d in the whole run

Shapes: p_D, size_D, most_D ratios, tokens and repetition factors of D domains; ideal_D, usable_D, tokens_D tokens.

Source: allenai/OLMo-core, `SplitInstanceSourceConfig.build` in olmo_core/data/composable/instance_source.py and
`calculate_sample_sizes` in utils.py; ai2-olmo-core 3.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixopt.backends.base import Settled, quoted
from mixopt.backends.olmo_core import repetition_of
from mixopt.errors import ExportError


def phases_of(
    settled: Sequence[Settled], instances: Sequence[int], held: Mapping[str, int], sequence: int
) -> list[dict[str, Any]]:
    """What each phase draws: ratios, the parts of the domains, and how often they are read."""
    parts = {name: parts_of(name, settled, instances, held[name]) for phase in settled for name in phase.mixture}
    return [
        {
            "num_tokens": count * sequence,
            "source_specs": [
                {
                    "domain": name,
                    "ratio": p,
                    "max_repetition_factor": repetition_of(count * p, length_of(parts[name][k], held[name])),
                    "part": parts[name][k],
                }
                for name, p in phase.mixture.items()
            ],
        }
        for k, (phase, count) in enumerate(zip(settled, instances, strict=True))
    ]


def parts_of(
    name: str, settled: Sequence[Settled], instances: Sequence[int], held: int
) -> dict[int, list[tuple[float, int]]]:
    """For each phase that reads a domain, the splits that lead to its part: (ratio, side) of what is left."""
    needed = {
        k: n * s.mixture[name] for k, (s, n) in enumerate(zip(settled, instances, strict=True)) if name in s.mixture
    }
    last = max(needed)
    parts: dict[int, list[tuple[float, int]]] = {}
    passed: list[tuple[float, int]] = []
    for k, count in needed.items():
        ratio = count / sum(later for phase, later in needed.items() if phase >= k)
        parts[k] = passed if k == last else [*passed, (ratio, 0)]
        passed = [*passed, (ratio, 1)]
        if length_of(parts[k], held) < 1:
            raise ExportError(
                f"olmo-core-composable: {quoted(name)} holds {held:,} instances, too few to be split over its "
                f"{len(needed)} phases. Export it with megatron or streaming, or leave the domain out."
            )
    return parts


def length_of(part: Sequence[Sequence[float]], held: int) -> int:
    """Instances in a part, as SplitInstanceSourceConfig counts them."""
    for ratio, side in part:
        first = int(ratio * held)
        held = held - first if side else first
    return held


def instances_of(phase: Mapping[str, Any], held: Mapping[str, int], sequence: int) -> dict[str, int]:
    """Instances drawn from each domain, as calculate_sample_sizes gives them. Raises ExportError where it refuses."""
    specs = phase["source_specs"]
    p_D = np.array([spec["ratio"] for spec in specs], dtype=np.float64)
    size_D = np.array([length_of(spec["part"], held[spec["domain"]]) * sequence for spec in specs])
    most_D = np.array([spec["max_repetition_factor"] for spec in specs], dtype=np.float64)
    if p_D.min() <= 0 or size_D.min() <= 0 or most_D.min() < 1:
        raise ExportError("olmo-core-composable: ratios and sizes must be above 0, repetition factors at least 1.")
    if not np.allclose(p_D.sum(), 1.0):
        p_D = p_D / p_D.sum()
    ideal_D = phase["num_tokens"] * p_D
    usable_D = size_D * np.minimum(most_D, np.maximum(ideal_D / size_D, 1.0))
    tokens_D = ideal_D * min(1.0, (usable_D / ideal_D).min())
    if not np.allclose(phase["num_tokens"], tokens_D.sum()):
        short = specs[int(np.argmin(usable_D / ideal_D))]["domain"]
        raise ExportError(f"olmo-core-composable: insufficient tokens for {short!r} with its max_repetition_factor.")
    count_D = tokens_D.astype(np.int64) // sequence
    return {spec["domain"]: int(count) for spec, count in zip(specs, count_D, strict=True)}
