"""An analytic stand-in for training: a known law with a known optimum, milliseconds, no torch.

After a run has trained the parts n_j of its length on the domains,

    L_i(n) = c_i + b_i s_i^-0.5    with skills s_i = e + sum_j W_ij n_j

and W diagonally dominant: each domain is learnt mostly from itself, with diminishing returns. A static mixture p ends at
n = p; a policy that adapts is told what the trainer would tell it, exactly. Training a domain's gradient along W makes the
inner product of two domains' gradients L'_i L'_j W_ij. Noise, if any, is in the final metrics, a function of the spec, so
that a run repeated is the same run.

Shapes: D domains.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mixopt.mixture import FloatArray, Segment
from mixopt.policy import Drops, Excess, Feedback, Gram, Signal, Train, Valid, asked, plain, probe_steps
from mixopt.runs import Cost, RunRecord, RunSpec

FLOOR = 0.02  # skill before any training


@dataclass(frozen=True)
class Toy:
    """A `Train` over these domain names. Specs whose id starts with a character of `fails` come back diverged.

    The reference of any excess loss is a run on the uniform mixture.
    """

    names: tuple[str, ...]
    noise: float = 0.0
    fails: str = ""

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """A record for each spec."""
        for spec in specs:
            yield self._train(spec)

    def losses_D(self, n_D: FloatArray) -> FloatArray:
        """The true losses [D] after these parts [D] of a run's length: of a mixture, at its end."""
        return self._level_D + self._scale_D * self.skills_D(n_D) ** -0.5

    def skills_D(self, n_D: FloatArray) -> FloatArray:
        """What was learnt [D] from these parts [D] of a run's length."""
        return FLOOR + self.transfer_DD @ n_D

    @property
    def transfer_DD(self) -> FloatArray:
        """W: how much of domain i (row) is learnt from domain j (column)."""
        at = np.arange(len(self.names))
        return np.eye(len(at)) + 0.1 / (1 + np.abs(np.subtract.outer(at, at)))

    @property
    def _level_D(self) -> FloatArray:
        return np.linspace(1.0, 2.0, len(self.names))

    @property
    def _scale_D(self) -> FloatArray:
        return 0.3 * np.linspace(1.5, 0.5, len(self.names))

    def _train(self, spec: RunSpec) -> RunRecord:
        total = spec.proxy.tokens
        marks = [round((i + 1) * total / spec.proxy.checkpoints) for i in range(spec.proxy.checkpoints)]
        n_D, seen, extra = np.zeros(len(self.names)), 0, 0
        trace: list[Segment] = []
        trajectory = []
        start = {signal.name: self.measured(signal, n_D, n_D) for signal in spec.feed.needs if signal.name == "valid"}
        state = spec.feed.init(self.names, Feedback(0, total, start))
        while seen < total:
            segment = spec.feed.segment(state)
            w_D, tokens = segment.mixture.array(self.names), min(max(1, segment.tokens), total - seen)
            trajectory += [
                (m, self.losses_D(n_D + w_D * (m - seen) / total)) for m in marks if seen < m <= seen + tokens
            ]
            n_D, seen = n_D + w_D * tokens / total, seen + tokens
            trace.append(Segment(segment.mixture, tokens))
            wanted = asked(spec.feed, state, last=seen == total)
            signals = {signal.name: self.measured(signal, n_D, w_D) for signal in wanted}
            extra += sum(len(w_D) * probe_steps(s, total) for s in wanted if isinstance(s, Drops))
            state = spec.feed.update(state, Feedback(seen, total, signals))
        rng = np.random.default_rng([int(spec.id[:8], 16), spec.seed])
        noise_D = self.noise * rng.standard_normal(len(self.names))
        metrics = [(m, dict(zip(self._keys, (losses_D + noise_D).tolist(), strict=True))) for m, losses_D in trajectory]
        failed = bool(spec.id[0] in self.fails)
        return RunRecord(
            spec=spec,
            metrics={} if failed else metrics[-1][1],
            trajectory=tuple(metrics),
            trace=tuple(trace),
            state=plain(state),
            cost=Cost(total + extra, 6e5 * (total + extra), 0.0),
            error="the toy was told to fail" if failed else "",
            diverged=failed,
        )

    @property
    def _keys(self) -> list[str]:
        return [f"bpb/{name}" for name in self.names]

    def measured(self, signal: Signal, n_D: FloatArray, w_D: FloatArray) -> FloatArray:
        """What the trainer would measure after the parts n_D, in a segment on the mixture w_D."""
        losses_D, count = self.losses_D(n_D), len(n_D)
        match signal:
            case Valid():
                return losses_D
            case Train():
                return np.where(w_D > 0, losses_D, np.nan)
            case Excess():
                reference_D = self.losses_D(np.full(count, 1 / count))
                return np.where(w_D > 0, np.maximum(losses_D - reference_D, 0), np.nan)
            case Gram():
                slope_D = -0.5 * self._scale_D * self.skills_D(n_D) ** -1.5
                return np.outer(slope_D, slope_D) * self.transfer_DD
            case Drops():
                probes_DD = np.full((count, count), (1 - signal.weight) / (count - 1))
                np.fill_diagonal(probes_DD, signal.weight)
                return np.stack([losses_D - self.losses_D(n_D + signal.part * p_D) for p_D in probes_DD], axis=1)
