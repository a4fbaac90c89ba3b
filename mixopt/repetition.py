"""Repetition: what the tokens of a run are worth when they come from text that is seen more than once.

    e = T / U
    T' = T                                     for e <= 1
    T' = U (1 + R (1 - exp(-(e - 1) / R)))     for e > 1

for T tokens of a domain, of which U different ones are available. T' grows with T, meets the line T' = T at e = 1 with the
same slope, and never exceeds (1 + R) U. R is how many repetitions it takes for 1 - 1/e of all that repeating can give.

This is the one place where repetition enters: a run with repeated text counts as the run without repetition that sees T'
tokens of every domain, which is another mixture of fewer tokens.

Shapes: N runs, D domains. All counts are in tokens.

Source: "Scaling Data-Constrained Language Models" (arXiv:2305.16264), R = 15.39, for one corpus; ours: for each domain.
"""

from __future__ import annotations

import numpy as np

from mixopt.errors import JobError
from mixopt.mixture import FloatArray

SATURATION = 15.39


def effective_tokens(tokens: FloatArray, available: FloatArray, saturation: float = SATURATION) -> FloatArray:
    """Tokens of fresh text that are worth as much; shapes as numpy broadcasts them, `available` may be infinite.

    Raises JobError for tokens below zero, for a domain without text that is to be read, and for a saturation of zero.
    """
    tokens, available = np.broadcast_arrays(np.asarray(tokens, dtype=float), np.asarray(available, dtype=float))
    if not saturation > 0:
        raise JobError(f"repetition: saturation must be greater than 0 (got {saturation}). 15.39 is the published one.")
    if len(wrong := tokens[~((tokens >= 0) & np.isfinite(tokens))]):
        raise JobError(f"repetition: tokens must be >= 0 and finite (got {wrong[0]:.6g}).")
    if len(wrong := available[~(available >= 0) | ((available == 0) & (tokens > 0))]):
        raise JobError(
            f"repetition: a domain that is read needs available tokens (got {wrong[0]:.6g}). "
            f"Give its count, infinity if it never repeats, or leave it out of the mixture."
        )
    worth, many = tokens.copy(), tokens > available
    U, T = available[many], tokens[many]
    worth[many] = U * (1 - saturation * np.expm1(-(T / U - 1) / saturation))
    return worth


def fresh_equivalent(
    mixtures_ND: FloatArray, tokens_N: FloatArray, available_D: FloatArray | None, saturation: float = SATURATION
) -> tuple[FloatArray, FloatArray]:
    """The mixtures [N, D] and tokens [N] of runs without repetition that are worth as much; None: supply is infinite."""
    if available_D is None:
        return mixtures_ND, tokens_N
    worth_ND = effective_tokens(mixtures_ND * tokens_N[:, None], available_D, saturation)
    total_N = worth_ND.sum(axis=1)
    return worth_ND / total_N[:, None], total_N
