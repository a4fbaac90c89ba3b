"""An analytic stand-in for training: a known law with a known optimum, milliseconds, no torch.

L_i(p) = c_i + b_i * (e_i + sum_j W_ij p_j) ** -0.5, with W diagonally dominant: each domain is learnt mostly from
itself, with diminishing returns. Noise, if any, is a function of the spec, so that a run repeated is the same run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mixopt.mixture import FloatArray
from mixopt.policy import Feedback
from mixopt.runs import Cost, RunRecord, RunSpec


@dataclass(frozen=True)
class Toy:
    """A `Train` over these domain names. Specs whose id starts with a character of `fails` come back diverged."""

    names: tuple[str, ...]
    noise: float = 0.0
    fails: str = ""

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """A record for each spec."""
        for spec in specs:
            segment = spec.feed.segment(spec.feed.init(self.names, _start(spec)))
            losses_D = self.losses_D(segment.mixture.array(self.names))
            rng = np.random.default_rng([int(spec.id[:8], 16), spec.seed])
            losses_D = losses_D + self.noise * rng.standard_normal(len(losses_D))
            metrics = {f"bpb/{n}": float(loss) for n, loss in zip(self.names, losses_D, strict=True)}
            failed = bool(spec.id[0] in self.fails)
            yield RunRecord(
                spec=spec,
                metrics={} if failed else metrics,
                trajectory=((spec.proxy.tokens, metrics),),
                trace=(segment,),
                cost=Cost(spec.proxy.tokens, 6e5 * spec.proxy.tokens, 0.0),
                error="the toy was told to fail" if failed else "",
                diverged=failed,
            )

    def losses_D(self, p_D: FloatArray) -> FloatArray:
        """The true losses [D] of a mixture [D]."""
        count = len(self.names)
        level_D = np.linspace(1.0, 2.0, count)
        W_DD = np.eye(count) + 0.1 / (1 + np.abs(np.subtract.outer(np.arange(count), np.arange(count))))
        return level_D + 0.3 * np.linspace(1.5, 0.5, count) * (0.02 + W_DD @ p_D) ** -0.5


def _start(spec: RunSpec) -> Feedback:
    return Feedback(0, spec.proxy.tokens, {})
