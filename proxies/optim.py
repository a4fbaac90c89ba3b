"""Clipping and the optimiser step of a whole stack, each member with its own learning rate and weight decay.

Shapes: K stack, P parameters of one model, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.optim.adamw import adamw

from mixopt.runs import Proxy
from proxies.parameters import Layout

BETA1, BETA2, EPSILON = 0.9, 0.95, 1e-8
MUON_MOMENTUM = 0.95
MUON_RMS = 0.2  # root mean square of a Muon update, as of a typical Adam update
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
MOST_NORM = 1.0


class State(NamedTuple):
    """What training changes, each [K, P] in float32: parameters, and the two moments of their gradients."""

    weights: Tensor
    first: Tensor
    second: Tensor


class Pace(NamedTuple):
    """One step's numbers for every member, each [K]: learning rate, weight decay, and steps done with this one."""

    rate: Tensor
    decay: Tensor
    done: Tensor


@dataclass(frozen=True)
class Horizon:
    """A learning-rate schedule: `steps` long, of which the last `cooldown` fraction falls to zero.

    `warmup` is in steps, so that runs of several lengths share their beginning.
    Source: warmup-stable-decay, Hu et al. 2024 (MiniCPM, arXiv:2404.06395), with linear decay.
    """

    steps: int
    warmup: float
    cooldown: float

    @property
    def turn(self) -> int:
        """The step from which the learning rate falls."""
        return round((1 - self.cooldown) * self.steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step as a fraction of its peak."""
        rise = (step + 1) / self.warmup if self.warmup > 0 else 1.0
        fall = (1 - step / self.steps) / self.cooldown if self.cooldown > 0 else 1.0
        return max(0.0, min(1.0, rise, fall))


def pace(proxies: Sequence[Proxy], horizons: Sequence[Horizon], starts: Sequence[int], steps: int) -> Tensor:
    """The coming steps' numbers [T, 3, K]: member k is at step starts[k] of horizons[k]."""
    share_TK = np.array([[h.rate(start + t) for h, start in zip(horizons, starts, strict=True)] for t in range(steps)])
    rate_TK = share_TK * [proxy.learning_rate for proxy in proxies]
    decay_TK = np.broadcast_to([proxy.weight_decay for proxy in proxies], rate_TK.shape)
    done_TK = np.arange(1, steps + 1)[:, None] + np.array(starts)
    return torch.from_numpy(np.stack([rate_TK, decay_TK, done_TK], axis=1)).float()


def clip_(gradient: Tensor) -> None:
    """Scale each member's gradient [K, P] to a norm of at most 1."""
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gradient.mul_((MOST_NORM / norm).clamp(max=1.0))


def adamw_(state: State, gradient: Tensor, pace: Pace, layout: Layout, start: int = 0) -> None:
    """One step of AdamW on the columns from `start`; no decay of gains.

    Source: Loshchilov and Hutter 2019 (arXiv:1711.05101), algorithm 2.
    """
    whole = torch.compiler.is_compiling() or gradient.is_cuda
    step = adamw_columns_ if whole else adamw_rows_
    for now, decay in (
        (slice(start, layout.decayed), pace.decay),
        (slice(layout.decayed, layout.total), torch.zeros_like(pace.decay)),
    ):
        step(State(*(part[:, now] for part in state)), gradient[:, now], pace._replace(decay=decay))


def adamw_columns_(state: State, gradient: Tensor, pace: Pace) -> None:
    """All members at once: eight passes over memory, which a compiler makes one."""
    weights, first, second = state
    rate, decay, done = (part[:, None] for part in pace)
    first.lerp_(gradient, 1 - BETA1)
    second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    shrink = (1 - BETA2**done).sqrt()
    move = first / second.sqrt().add_(EPSILON * shrink)
    weights.mul_(1 - rate * decay).sub_(move.mul_(rate * shrink / (1 - BETA1**done)))


def adamw_rows_(state: State, gradient: Tensor, pace: Pace) -> None:
    """Member by member through torch's fused kernel, one pass over memory that takes one learning rate."""
    rows = zip(*state, gradient, *(part.tolist() for part in pace), strict=True)
    for weights, first, second, own, rate, decay, done in rows:
        adamw(
            *([weights], [own], [first], [second], [], [torch.tensor(done - 1)]),
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=BETA1,
            beta2=BETA2,
            eps=EPSILON,
            lr=rate,
            weight_decay=decay,
        )


def muon_(state: State, gradient: Tensor, pace: Pace, layout: Layout) -> None:
    """One step of Muon on the layers' matrices, of AdamW on everything else, at one learning rate.

    The fused projections are orthogonalised part by part. Differs from the first publication in the size of the
    update, which is Adam's, so that a learning rate serves both.
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025 (arXiv:2502.16982), eq. 4.
    """
    adamw_(state, gradient, pace, layout, start=layout.hidden)
    first, gradient = state.first[:, : layout.hidden], gradient[:, : layout.hidden]
    first.mul_(MUON_MOMENTUM).add_(gradient)
    ahead = gradient + MUON_MOMENTUM * first
    weights = state.weights[:, : layout.hidden]
    weights.mul_(1 - (pace.rate * pace.decay)[:, None])
    names = list(layout.matrices)
    moves = layout.tensors(ahead, names)
    for name, matrix in layout.tensors(weights, names).items():
        count = {"qkv": 3, "gate_up": 2}.get(name.partition(".")[2], 1)
        for part, move in zip(matrix.chunk(count, dim=-1), moves[name].chunk(count, dim=-1), strict=True):
            scale = MUON_RMS * max(part.shape[-2:]) ** 0.5
            part.sub_(orthogonal(move) * (scale * pace.rate)[:, None, None])


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrices [..., r, c], roughly: singular values end between 0.7 and 1.2.

    Five Newton-Schulz iterations of degree five.
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(5):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrices.shape[-2] > matrices.shape[-1] else x


STEPS = {"adamw": adamw_, "muon": muon_}
