"""Schedules that people plan by hand: each function makes a `Schedule`, which `Scheduled` feeds to a run.

Shapes: none.

Source: two stages: Dong et al. 2023, DMT (arXiv:2310.05492); a replay floor against forgetting: arXiv:2512.13706.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from mixopt.errors import JobError
from mixopt.mixture import Mixture, Schedule, mean


def annealing(first: Mixture, last: Mixture, phases: int, begin: float = 0.0) -> Schedule:
    """From `first` to `last` in so many even phases, the last of which trains `last` itself; before `begin`, `first`."""
    if phases < 1 or not 0 <= begin < 1:
        raise JobError(f"annealing: needs at least 1 phase and a beginning in [0, 1) (got {phases}, {begin}).")
    starts = [begin + k * (1 - begin) / phases for k in range(phases)]
    starts = [0.0, *starts] if begin > 0 else starts
    passed = [k / (len(starts) - 1) for k in range(len(starts))] if len(starts) > 1 else [1.0]
    return Schedule(tuple((s, mean([(1 - x, first), (x, last)])) for s, x in zip(starts, passed, strict=True)))


def two_stages(special: Mapping[str, float], general: Mapping[str, float], k: float) -> Schedule:
    """DMT: all specialised tokens first, then the general ones with a part k of the specialised.

    Both map domains to tokens; a stage lasts as long as its tokens. Raises JobError for tokens that make no two stages.
    """
    negative = [name for name, tokens in (*special.items(), *general.items()) if not tokens >= 0]
    if negative or not 0 <= k <= 1 or set(special) & set(general):
        raise JobError(
            "two stages: tokens and k must be >= 0, k at most 1, and no domain both special and general "
            f"(got {dict(special)}, {dict(general)}, k {k})."
        )
    if not sum(special.values()) > 0 or not sum(general.values()) > 0:
        raise JobError("two stages: both need tokens.")
    names = [*special, *general]
    first = {name: special.get(name, 0.0) for name in names}
    second = {name: general.get(name, k * special.get(name, 0.0)) for name in names}
    begin = sum(first.values()) / (sum(first.values()) + sum(second.values()))
    return Schedule(((0.0, Mixture.normalised(first)), (begin, Mixture.normalised(second))))


def replayed(mixture: Mixture, old: Mixture, floor: float) -> Mixture:
    """The mixture with at least `floor` of the old domains, those that `old` gives a proportion.

    What is missing is drawn as `old` has it; the rest keeps its proportions. 0.05 to 0.1 is a cheap guard against forgetting.
    Raises DataError for an `old` of other domains.
    """
    if not 0 <= floor <= 1:
        raise JobError(f"replay: the floor must be between 0 and 1 (got {floor}).")
    names = tuple(mixture)
    there = math.fsum(mixture.array(names)[old.array(names) > 0])
    if there >= floor:
        return mixture
    share = (floor - there) / (1 - there)
    return mean([(1 - share, mixture), (share, old)])


def replaying(schedule: Schedule, old: Mixture, floor: float) -> Schedule:
    """`replayed` in every phase."""
    return Schedule(tuple((start, replayed(mixture, old, floor)) for start, mixture in schedule.phases))
