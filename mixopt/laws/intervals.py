"""How wide a law's standard deviations must be for its intervals to hold: one factor for each metric.

Shapes: R runs, M metrics.

Source: Lei et al. 2018, "Distribution-free predictive inference for regression", on residuals of runs left out.
"""

from __future__ import annotations

import math

import numpy as np

from mixopt.mixture import FloatArray

LEVEL, NORMAL, SMALLEST_FACTOR = 0.9, 1.6448536269514722, 0.1


def widening(off_RM: FloatArray) -> FloatArray:
    """The factor [M] on standard deviations that puts LEVEL of these residuals, in deviations, within 1.645 of them."""
    rank = min(len(off_RM), math.ceil(LEVEL * (len(off_RM) + 1)))
    return np.maximum(np.sort(np.abs(off_RM), axis=0)[rank - 1] / NORMAL, SMALLEST_FACTOR)
