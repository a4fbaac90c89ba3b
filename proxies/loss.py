"""The output head and the cross-entropy in one: the logits are never held whole.

Shapes: K stack (leading axes "..." may be missing), N tokens, d width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = {"cpu": 1 << 22, "cuda": 1 << 24}  # of a member's logits at once; on a CPU what a core's cache holds
LEAST_ROWS = 128  # for which reading the head and adding to its gradient is worth it
MOST_CHUNKS = 16  # in a compiled graph, which holds them one after another


class LinearCrossEntropy(torch.autograd.Function):
    """Mean next-token loss in nats [...] of hidden states [..., N, d] under a head [..., d, V] and targets [..., N].

    The gradient is worked out in the forward pass, while a chunk's logits are there; the backward pass only scales it.
    Logits and their gradient are float32, or the hidden states' precision where that multiplies matrices faster. With
    `each`, the losses of every token [..., N] come too; nothing flows back through them.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, each: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The losses; gradients are kept for `backward`."""
        count = targets.shape[-1]
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        total = torch.zeros(targets.shape[:-1], dtype=torch.float32, device=head.device)
        tokens = []
        for now in chunks(hidden, head):
            part = hidden[..., now, :]
            logs, gradient = _logit_gradient(part, head, targets[..., now, None], count)
            total -= logs.sum((-2, -1))
            d_hidden[..., now, :] = gradient @ head.mT
            d_head += part.mT @ gradient
            if each:
                tokens.append(logs.squeeze(-1))
        ctx.save_for_backward(d_hidden, d_head.to(head.dtype))
        if not each:
            return total / count
        losses = -torch.cat(tokens, dim=-1)
        ctx.mark_non_differentiable(losses)
        return total / count, losses

    @staticmethod
    def backward(ctx: Any, *scale: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Gradients of hidden states and head."""
        d_hidden, d_head = ctx.saved_tensors
        by = scale[0][..., None, None]
        return d_hidden * by.to(d_hidden.dtype), d_head * by.to(d_head.dtype), None, None


def head_gradient(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the mean loss in the head alone, float32 [..., d, V]."""
    d_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
    for now in chunks(hidden, head):
        part = hidden[..., now, :]
        d_head += part.mT @ _logit_gradient(part, head, targets[..., now, None], targets.shape[-1])[1]
    return d_head


def _logit_gradient(part: Tensor, head: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Log-probabilities [..., n, 1] of the wanted tokens, and the gradient [..., n, V] of a mean loss of `count` in the logits."""
    logs = torch.log_softmax((part @ head).float(), dim=-1)
    chosen = logs.gather(-1, wanted)
    gradient = logs.exp_()
    gradient.scatter_add_(-1, wanted, torch.full_like(wanted, -1, dtype=gradient.dtype))
    return chosen, (gradient / count).to(head.dtype)


def token_losses(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """Losses in nats of every token, [..., N]; for evaluation, no gradients are kept."""
    losses = torch.empty(targets.shape, dtype=torch.float32, device=head.device)
    for now in chunks(hidden, head):
        logits = (hidden[..., now, :] @ head).float()
        chosen = logits.gather(-1, targets[..., now, None]).squeeze(-1)
        losses[..., now] = logits.logsumexp(-1) - chosen
    return losses


def chunks(hidden: Tensor, head: Tensor) -> Iterator[slice]:
    """Ranges of N for which one member's logits are few enough; the same in any stack, so that its losses are."""
    count = hidden.shape[-2]
    size = max(LEAST_ROWS, CHUNK_BYTES[head.device.type] // (4 * head.shape[-1]))
    if torch.compiler.is_compiling():
        size = max(size, math.ceil(count / MOST_CHUNKS))
    parts = math.ceil(count / size)
    size = math.ceil(count / parts)
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
