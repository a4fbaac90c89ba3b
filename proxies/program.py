"""The computations of a training step, compiled once in a process for each shape and setting.

Parameters are arguments, so that one compiled graph serves every proxy that a worker trains, one after another or
stacked.

Shapes: K stack, P parameters of one model, B batch rows, S sequence.
"""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mixopt.runs import Proxy
from proxies.model import head_gradient, mean_and_each, mean_loss, token_losses
from proxies.optim import STEPS, Pace, State, clip_
from proxies.parameters import Layout
from proxies.sizes import rows_at_once, shape

GRAPHS = 64  # compiled in one process: settings of proxies, widths of stacks, whole and last parts of batches
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Program:
    """What one setting of proxies computes. Made by `program`, which compiles it where that is asked for."""

    layout: Layout
    dtype: torch.dtype
    loss: Callable[[Tensor, Tensor], Tensor]
    losses: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    update: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], None]

    def descend(self, state: State, rows: Tensor, pace: Tensor) -> Tensor:
        """One optimiser step, in place, on rows [K, B, S + 1] at pace [3, K]; the losses [K] before it.

        Long batches go through the model in parts, so that memory does not grow with them.
        """
        return self._descend(state, rows, pace, each=False)[0]

    def descend_telling(self, state: State, rows: Tensor, pace: Tensor) -> tuple[Tensor, Tensor]:
        """The same step, which also tells the losses of every token [K, B, S]."""
        loss_K, tokens = self._descend(state, rows, pace, each=True)
        return loss_K, torch.cat(tokens, dim=1)

    def _descend(self, state: State, rows: Tensor, pace: Tensor, each: bool) -> tuple[Tensor, list[Tensor]]:
        first, *others = self.parts(rows)
        loss_K, gradient, tokens = self._gradient(state, first, rows.shape[1], each)
        for part in others:
            more_K, more, told = self._gradient(state, part, rows.shape[1], each)
            loss_K, gradient = loss_K + more_K, gradient.add_(more)
            tokens += told
        with torch.no_grad():
            self.update(*state, gradient, pace)
        return loss_K, tokens

    def _gradient(self, state: State, part: Tensor, batch: int, each: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What some rows of a batch add to the losses [K] and to their gradients [K, P], and their tokens' losses."""
        weights = state.weights.detach().requires_grad_()
        loss_K, *tokens = self.losses(weights, part.contiguous()) if each else (self.loss(weights, part.contiguous()),)
        loss_K = loss_K * (part.shape[1] / batch)
        (gradient,) = torch.autograd.grad(loss_K.sum(), weights)
        return loss_K.detach(), gradient, [told.detach() for told in tokens]

    def parts(self, rows: Tensor) -> Sequence[Tensor]:
        """Rows [K, B, S + 1] in about equal parts that go through the model at once."""
        return rows.split(rows_at_once(rows.shape[1], rows.shape[2] - 1), dim=1)

    def head_gradient(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Gradients [K, d, V] in the head of the mean losses of rows [K, B, S + 1], worked out in parts."""
        first, *others = self.parts(rows)
        gradient = head_gradient(weights, self.layout, first, self.dtype).mul_(first.shape[1] / rows.shape[1])
        for part in others:
            gradient += head_gradient(weights, self.layout, part, self.dtype).mul_(part.shape[1] / rows.shape[1])
        return gradient

    def token_losses(self, weights: Tensor, rows: Tensor) -> Tensor:
        """Held-out losses in nats [K, B, S] of rows [K, B, S + 1]."""
        return token_losses(weights, self.layout, rows, self.dtype)


def program(proxy: Proxy, vocabulary: int, compiled: bool) -> Program:
    """The program of this proxy's shape, precision and optimiser."""
    return _make(Layout(shape(proxy.size), vocabulary), proxy.precision, proxy.optimizer, compiled)


@functools.cache
def _make(layout: Layout, precision: str, optimizer: str, compiled: bool) -> Program:
    dtype, step = PRECISIONS[precision], STEPS[optimizer]

    def loss(weights: Tensor, rows: Tensor) -> Tensor:
        return mean_loss(weights, layout, rows, dtype)

    def losses(weights: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return mean_and_each(weights, layout, rows, dtype)

    def update(weights: Tensor, first: Tensor, second: Tensor, gradient: Tensor, pace: Tensor) -> None:
        clip_(gradient)
        step(State(weights, first, second), gradient, Pace(*pace), layout)

    if compiled:
        torch._dynamo.config.recompile_limit = GRAPHS
        loss = torch.compile(loss, fullgraph=True, dynamic=False)
        losses = torch.compile(losses, fullgraph=True, dynamic=False)
        update = torch.compile(update, fullgraph=True, dynamic=False)
    return Program(layout, dtype, loss, losses, update)


def multiply_rate(dtype: torch.dtype, seconds: float = 0.2) -> float:
    """FLOP per second of one thread multiplying matrices as large as those of a 4m proxy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.ones(1024, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
        a @ b
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            a @ b
            count += 1
        return 2 * 1024 * 1024 * 256 * count / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def can_compile(device: str) -> bool:
    """Whether this machine has what torch.compile needs: a C++ compiler, on a GPU Triton and a C compiler."""
    if device == "cpu":
        return any(shutil.which(name) for name in ("g++", "c++", "clang++"))
    from torch.utils._triton import has_triton

    return has_triton() and any(shutil.which(name) for name in ("gcc", "cc", "clang"))
