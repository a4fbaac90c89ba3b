"""`plan`: how many proxies like those of a pilot a wanted interval takes, from two CSV files.

Shapes: R runs, M metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt import planner, quality
from mixopt.errors import JobError
from mixopt.laws import make
from pipelines.swarm_files import Request, finite, read

TIMES = (1, 2, 4, 8)  # the pilot, for which a forecast is shown


@dataclass(frozen=True)
class Wanted:
    """Half the width of the 90 % interval that is wanted, of the objective or of a gain; the seed of the subsets."""

    half_width: float
    gain: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the half-width, before anything is fitted."""
        if not 0 < self.half_width < float("inf"):
            raise JobError(f"--interval: must be a positive half-width (got {self.half_width}).")


def plan(request: Request, wanted: Wanted) -> dict[str, Any]:
    """The learning curve of the law on the pilot, where it goes, and the runs that the wanted half-width takes.

    Keys: `law`, `runs` (the pilot's), `of` (objective or gain), `wanted`; `needed` with `runs`, its 90 % interval `low`
    and `high` (None where no number of runs does) and `times_pilot`, the tokens in units of the pilot's; `half_width`
    with forecasts by runs; `floor`, the half-width that more runs approach; `noise`, that of a run's noise alone, None
    without replicates; `measured`, the learning curve; `verdict` and `notes`.
    """
    table, objective, Y_RM = read(request)
    law = make(request.law, quality.own_domains(table.names, objective.metrics))
    curve_rng, forecast_rng = np.random.default_rng(wanted.seed).spawn(2)
    curve = planner.learning_curve(law, table.X_RD, Y_RM, objective.weights_M, curve_rng, wanted.gain)
    found = planner.forecast(curve, forecast_rng)
    runs, needed = len(table.runs), found.needed(wanted.half_width)
    measured = zip(curve.size_K.tolist(), np.sqrt(curve.outside_K).tolist(), strict=True)
    return {
        "law": request.law,
        "runs": runs,
        "of": "gain" if wanted.gain else "objective",
        "wanted": wanted.half_width,
        "needed": _range(needed, "runs") | {"times_pilot": finite(needed[0] / runs)},
        "half_width": [{"runs": n * runs, **_range(found.half_width(n * runs), "middle")} for n in TIMES],
        "floor": _range(found.floor(), "middle"),
        "noise": None if curve.noise is None else planner.NORMAL * curve.noise,
        "measured": [{"runs": n, "rmse": error, "half_width": curve.shape * error} for n, error in measured],
        "verdict": planner.verdict(curve, found, wanted.half_width),
        "notes": list(table.notes),
    }


def _range(values: tuple[float, float, float], middle: str) -> dict[str, float | None]:
    return dict(zip((middle, "low", "high"), map(finite, values), strict=True))
