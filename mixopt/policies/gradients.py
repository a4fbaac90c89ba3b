"""What policies share that read the Gram matrix of the domains' gradients: targets, and gradients of limited length.

Shapes: D domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mixopt.errors import JobError, did_you_mean
from mixopt.mixture import FloatArray, Mixture

Target = Mapping[str, float]


def shortened(gram_DD: FloatArray, longest: float) -> FloatArray:
    """The Gram matrix [D, D] of the same gradients, those longer than `longest` scaled to that length."""
    scale_D = longest / np.maximum(np.sqrt(np.diag(gram_DD)), longest)
    return gram_DD * np.outer(scale_D, scale_D)


def target_D(target: Target | None, names: Sequence[str]) -> FloatArray:
    """What each domain weighs in the target [D], summing to 1: all alike unless given, nothing where it is not named.

    Raises JobError for names that are no domains.
    """
    for name in target or ():
        if name not in names:
            raise JobError(f"method.target: unknown domain {name!r}; {did_you_mean(name, names)}")
    weights = target or dict.fromkeys(names, 1.0)
    return Mixture.normalised({name: weights.get(name, 0.0) for name in names}).array(names)


def check_gradients(rows: int, target: Target | None) -> None:
    """Raises JobError for knobs that no gradient can be had from."""
    if rows < 1:
        raise JobError(f"method.rows: must be at least 1 (got {rows}).")
    if target is not None and (any(not w >= 0 for w in target.values()) or not sum(target.values()) > 0):
        raise JobError(f"method.target: weights must be >= 0 and not all zero (got {dict(target)}).")
