"""What policies share that adapt after each of a run's equal rounds: knobs, where the run is, and the exponentiated step.

    p_i' = p_i exp(gain_i) / sum_k p_k exp(gain_k)

Shapes: D domains.
Source: exponentiated gradient descent, as DoReMi (arXiv:2305.10429), DoGE (arXiv:2310.15393) and GRAPE
(arXiv:2505.20380) take it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mixopt.errors import DataError, JobError
from mixopt.mixture import SMALLEST, FloatArray, Mixture
from mixopt.policy import Feedback


@dataclass(frozen=True)
class Round:
    """Where a run is: `done` of its `count` rounds are over, and `seen` of its `total` tokens."""

    count: int
    total: int
    seen: int = 0
    done: int = 0

    @property
    def tokens(self) -> int:
        """Tokens until this round ends. What one round took too long, the next ones make up for."""
        return round((self.done + 1) * self.total / self.count) - self.seen

    def after(self, feedback: Feedback) -> Round:
        """The next round."""
        return replace(self, seen=feedback.seen, total=feedback.total, done=self.done + 1)


def first_round(count: int, start: Feedback) -> Round:
    """The first of `count` rounds. Raises JobError where they would be shorter than a training step."""
    steps = start.total // start.step
    if count > steps:
        raise JobError(
            f"method.rounds: {count} rounds do not fit into a run of {steps} training steps "
            f"({start.total:,} tokens, {start.step:,} a step). Ask for {steps} at most, or train longer."
        )
    return Round(count, start.total)


def check_rounds(count: int, least: int = 1) -> None:
    """Raises JobError for fewer rounds than `least`."""
    if count < least:
        raise JobError(f"method.rounds: must be at least {least} (got {count}).")


def given(knob: str, proportions: Mapping[str, float] | None) -> Mixture | None:
    """The mixture that a knob gives, if it gives one. Raises JobError for proportions that are no mixture."""
    try:
        return None if proportions is None else Mixture(proportions)
    except DataError as e:
        raise JobError(f"method.{knob}: {str(e).removeprefix('mixture: ')}") from e


def exponentiated(p: Mixture, names: Sequence[str], gain_D: FloatArray) -> Mixture:
    """The step from p along the gains [D] of the domains `names`. No proportion falls so low that it cannot come back."""
    log_D = np.log(p.array(names)) + gain_D
    p_D = np.maximum(np.exp(log_D - log_D.max()), SMALLEST)
    return Mixture.normalised(dict(zip(names, p_D.tolist(), strict=True)))


def smoothed(p: Mixture, part: float) -> Mixture:
    """p, of which this part is shared evenly by all domains."""
    return Mixture.normalised({name: (1 - part) * share + part / len(p) for name, share in p.items()})
