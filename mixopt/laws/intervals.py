"""How wide a law's standard deviations must be for its intervals to hold: one factor for each metric.

Shapes: R runs, M metrics.

Source: Lei et al. 2018, "Distribution-free predictive inference for regression", on residuals of runs left out.
"""

from __future__ import annotations

import numpy as np

from mixopt.mixture import FloatArray

LEVEL, NORMAL, SMALLEST_FACTOR = 0.9, 1.6448536269514722, 0.1


def widening(off_RM: FloatArray) -> FloatArray:
    """The factor [M] on standard deviations that puts LEVEL of new residuals within 1.645 of them.

    From residuals in deviations: of R of them, a new one exceeds the k-th with probability 1 - k / (R + 1).
    """
    found_M = np.quantile(np.abs(off_RM), LEVEL, axis=0, method="weibull")
    return np.maximum(found_M / NORMAL, SMALLEST_FACTOR)
