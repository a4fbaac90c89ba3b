"""A Llama-style decoder as a function of its parameters.

Every function takes parameters of one model or of a stack of K models: then each tensor, tokens included, carries a
leading axis K, matrix products become batched ones and K is folded into the attention's batch. In bfloat16 matrix
products and attention are; parameters, gradients, norms and the sum of the layers stay float32.

Shapes: K stack, B batch rows, S sequence, N = B * S tokens, P parameters, d width, h hidden, V vocabulary.

Source: Touvron et al. 2023 (arXiv:2302.13971): RMSNorm before each block, rotary positions, SwiGLU, untied head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from proxies import loss
from proxies.parameters import Layout
from proxies.sizes import Shape

ROPE_BASE = 10_000.0


def mean_loss(flat: Tensor, layout: Layout, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean next-token loss in nats [K] of token rows [K, B, S + 1] under parameters [K, P] (or all without K)."""
    hidden, head = _forward(flat, layout, rows[..., :-1], dtype)
    return loss.LinearCrossEntropy.apply(hidden, head, rows[..., 1:].flatten(-2))


def mean_and_each(flat: Tensor, layout: Layout, rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean losses [K] as `mean_loss` has them, and those of every token [K, B, S], through which nothing flows back."""
    hidden, head = _forward(flat, layout, rows[..., :-1], dtype)
    targets = rows[..., 1:]
    mean, each = loss.LinearCrossEntropy.apply(hidden, head, targets.flatten(-2), True)
    return mean, each.view(targets.shape)


@torch.no_grad()
def token_losses(flat: Tensor, layout: Layout, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Next-token losses in nats [K, B, S], for evaluation."""
    hidden, head = _forward(flat, layout, rows[..., :-1], dtype)
    targets = rows[..., 1:]
    return loss.token_losses(hidden, head, targets.flatten(-2)).view(targets.shape)


@torch.no_grad()
def head_gradient(flat: Tensor, layout: Layout, rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Gradients of the mean losses in the heads alone, [K, d, V] in float32."""
    hidden, head = _forward(flat, layout, rows[..., :-1], dtype)
    return loss.head_gradient(hidden, head, rows[..., 1:].flatten(-2))


def _forward(flat: Tensor, layout: Layout, inputs: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Final normed hidden states [K, N, d] of input tokens [K, B, S], and the head [K, d, V], both in `dtype`."""
    shape, sequence = layout.shape, inputs.shape[-1]
    multiplied = layout.hidden + layout.sizes["head"]
    heavy, light = flat.split([multiplied, layout.total - multiplied], dim=-1)
    w = layout.tensors(heavy.to(dtype), [*layout.matrices, "head"]) | layout.tensors(light, ["embed", *layout.gains])
    cos, sin = _rotary(shape, sequence, inputs.device, dtype)
    x = _embed(w["embed"], inputs.flatten(-2))
    for layer in range(shape.layers):
        normed = _norm(x, w[f"{layer}.attention_gain"]).to(dtype)
        qkv = (normed @ w[f"{layer}.qkv"]).view(-1, sequence, 3, shape.heads, shape.width // shape.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(x.shape) @ w[f"{layer}.out"]
        gate, up = (_norm(x, w[f"{layer}.mlp_gain"]).to(dtype) @ w[f"{layer}.gate_up"]).chunk(2, dim=-1)
        x = x + (F.silu(gate) * up) @ w[f"{layer}.down"]
    return _norm(x, w["gain"]).to(dtype), w["head"]


def _embed(embed: Tensor, tokens: Tensor) -> Tensor:
    """Rows of the embedding: [K, N, d] from [K, V, d] and [K, N]; the stack is one long table."""
    if embed.dim() == 3:
        offsets = torch.arange(embed.shape[0], device=tokens.device)[:, None] * embed.shape[1]
        return F.embedding(tokens + offsets, embed.flatten(0, 1))
    return F.embedding(tokens, embed)


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of [K, N, d] with gains [K, d]."""
    return F.rms_norm(x, x.shape[-1:]) * gain.unsqueeze(-2)


def _rotary(shape: Shape, sequence: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines [S, head width / 2] of the rotary positions."""
    half = shape.width // shape.heads // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=device) / half)
    angle = torch.arange(sequence, device=device)[:, None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
