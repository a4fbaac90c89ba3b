"""A Llama-style decoder as a function of its parameters.

Every function takes parameters of one model or of a stack of K models: then each tensor, tokens included, carries a
leading axis K, matrix products become batched ones and K is folded into the attention's batch.

Shapes: K stack, B batch rows, S sequence, N = B * S tokens, d width, h hidden, V vocabulary.

Source: Touvron et al. 2023 (arXiv:2302.13971): RMSNorm before each block, rotary positions, SwiGLU, untied head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from proxies.sizes import Shape

Params = Mapping[str, Tensor]
ROPE_BASE = 10_000.0


def init(shape: Shape, vocabulary: int, seed: int) -> dict[str, Tensor]:
    """Parameters of one model: normal with deviation 1 / sqrt(fan in), output projections zero, gains one."""
    generator = torch.Generator().manual_seed(seed)
    d, h = shape.width, shape.hidden

    def normal(rows: int, columns: int, deviation: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * deviation

    params = {"embed": normal(vocabulary, d, 1.0), "head": normal(d, vocabulary, 0.1 / math.sqrt(d))}
    for layer in range(shape.layers):
        params |= {
            f"{layer}.qkv": normal(d, 3 * d, 1 / math.sqrt(d)),
            f"{layer}.out": torch.zeros(d, d),
            f"{layer}.gate_up": normal(d, 2 * h, 1 / math.sqrt(d)),
            f"{layer}.down": torch.zeros(h, d),
            f"{layer}.attention_gain": torch.ones(d),
            f"{layer}.mlp_gain": torch.ones(d),
        }
    return params | {"gain": torch.ones(d)}


def stack(members: Sequence[Params]) -> dict[str, Tensor]:
    """One set of parameters with a leading axis K from K sets."""
    return {name: torch.stack([member[name] for member in members]) for name in members[0]}


def token_losses(params: Params, shape: Shape, rows: Tensor) -> Tensor:
    """Next-token losses in nats, [K, B, S], of token rows [K, B, S + 1] (without K for one model)."""
    inputs, targets = rows[..., :-1], rows[..., 1:]
    logits = _norm(_hidden(params, shape, inputs), params["gain"]) @ params["head"]
    losses = F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


def _hidden(params: Params, shape: Shape, inputs: Tensor) -> Tensor:
    """Final hidden states [K, N, d] of input tokens [K, B, S]."""
    lead, (batch, sequence) = inputs.shape[:-2], inputs.shape[-2:]
    cos, sin = _rotary(shape, sequence, inputs.device)
    x = _embed(params["embed"], inputs.reshape(*lead, batch * sequence))
    for layer in range(shape.layers):
        normed = _norm(x, params[f"{layer}.attention_gain"])
        qkv = (normed @ params[f"{layer}.qkv"]).view(-1, sequence, 3, shape.heads, shape.width // shape.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(_rotate(q, cos, sin), _rotate(k, cos, sin), v, is_causal=True)
        x = x + mixed.transpose(1, 2).reshape(x.shape) @ params[f"{layer}.out"]
        gate, up = (_norm(x, params[f"{layer}.mlp_gain"]) @ params[f"{layer}.gate_up"]).chunk(2, dim=-1)
        x = x + (F.silu(gate) * up) @ params[f"{layer}.down"]
    return x


def _embed(embed: Tensor, tokens: Tensor) -> Tensor:
    """Rows of the embedding: [K, N, d] from [K, V, d] and [K, N]; the stack is one long table."""
    if embed.dim() == 3:
        offsets = torch.arange(embed.shape[0], device=tokens.device)[:, None] * embed.shape[1]
        return F.embedding(tokens + offsets, embed.flatten(0, 1))
    return F.embedding(tokens, embed)


def _norm(x: Tensor, gain: Tensor) -> Tensor:
    """RMSNorm of [K, N, d] with gains [K, d]."""
    return F.rms_norm(x, x.shape[-1:]) * gain.unsqueeze(-2)


def _rotary(shape: Shape, sequence: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [S, head width / 2] of the rotary positions."""
    half = shape.width // shape.heads // 2
    frequency = ROPE_BASE ** (-torch.arange(half, device=device) / half)
    angle = torch.arange(sequence, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
