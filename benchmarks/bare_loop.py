"""The peer of `proxy_throughput.py`: one proxy at a time, as a careful person writes the loop in plain PyTorch.

    python benchmarks/bare_loop.py '{"tokens": "FOLDER", "job": {...}, "steps": 100, "seed": 0}'

The same decoder as modules, `F.cross_entropy`, `clip_grad_norm_`, fused AdamW without decay of gains, a schedule, rows of
a mixture by indexing tokens that are in memory. Everything a step reads at random is drawn before the first one.
Imports torch and nothing else, so that a process which trains one proxy starts as soon as it can.

Shapes: D domains, N tokens of a domain, B batch rows, S sequence, d width.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Job:
    """A proxy's shape, its batch of rows, where and how it is trained."""

    width: int
    layers: int
    heads: int
    hidden: int
    sequence: int
    vocabulary: int
    batch: int
    device: str = "cpu"
    autocast: bool = False
    compiled: bool = False


class Block(nn.Module):
    """Attention and SwiGLU, each after a norm."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        d = job.width
        self.heads = job.heads
        self.norm1, self.norm2 = nn.RMSNorm(d), nn.RMSNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)
        self.gate_up, self.down = nn.Linear(d, 2 * job.hidden, bias=False), nn.Linear(job.hidden, d, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The sum [B, S, d] after this block."""
        rows, sequence, d = x.shape
        qkv = self.qkv(self.norm1(x)).view(rows, sequence, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        cos, sin = cos.to(q.dtype), sin.to(q.dtype)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, sequence, d))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    """Logits [B, S, V] of tokens [B, S]."""

    def __init__(self, job: Job) -> None:
        super().__init__()
        self.embed = nn.Embedding(job.vocabulary, job.width)
        self.blocks = nn.ModuleList([Block(job) for _ in range(job.layers)])
        self.norm, self.head = nn.RMSNorm(job.width), nn.Linear(job.width, job.vocabulary, bias=False)
        half = job.width // job.heads // 2
        angle = torch.arange(job.sequence)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens: Tensor) -> Tensor:
        """Straight down."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


class Loop:
    """One proxy in training on a mixture of tokens [D, N], `steps` long."""

    def __init__(self, job: Job, tokens_DN: Tensor, steps: int, seed: int) -> None:
        self.job, self.tokens_DN, self.steps, self.done = job, tokens_DN, steps, 0
        self.model = Decoder(job).to(job.device)
        matrices = [p for p in self.model.parameters() if p.dim() > 1]
        gains = [p for p in self.model.parameters() if p.dim() == 1]
        groups = [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=0.003, betas=(0.9, 0.95), fused=True)
        self.forward = torch.compile(self.model) if job.compiled else self.model
        generator = torch.Generator(job.device).manual_seed(seed)
        domains, length = tokens_DN.shape
        w_D, size = torch.ones(domains, device=job.device), (steps, job.batch, 1)
        drawn = torch.multinomial(w_D, steps * job.batch, replacement=True, generator=generator)
        self.drawn, last = drawn.view(size), length - job.sequence - 1
        self.starts = torch.randint(last, size, generator=generator, device=job.device)
        self.within = torch.arange(job.sequence + 1, device=job.device)

    def run(self, steps: int) -> Tensor:
        """The losses of the coming steps."""
        losses = []
        for step in range(self.done, self.done + steps):
            for group in self.optimizer.param_groups:
                group["lr"] = 0.003 * min(1.0, (step + 1) / (0.05 * self.steps), 2 * (1 - step / self.steps))
            loss = self.loss(self.tokens_DN[self.drawn[step], self.starts[step] + self.within])
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            losses.append(loss.detach())
        self.done += steps
        return torch.stack(losses).cpu()

    def loss(self, rows: Tensor) -> Tensor:
        """Mean next-token loss of rows [B, S + 1]."""
        with torch.autocast(self.tokens_DN.device.type, torch.bfloat16, enabled=self.job.autocast):
            logits = self.forward(rows[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    @torch.no_grad()
    def held_out(self) -> float:
        """The loss on one row of each domain."""
        return self.loss(self.tokens_DN[:, : self.job.sequence + 1]).item()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Queries or keys at their rotary positions."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def read(folder: Path, device: str) -> Tensor:
    """Tokens [D, N] of a folder of 16-bit files, one a domain, as indices."""
    paths = sorted(folder.glob("*.u16"))
    files = [torch.from_file(str(path), size=path.stat().st_size // 2, dtype=torch.int16) for path in paths]
    return torch.stack(files).to(device).long() & 0xFFFF


def main() -> None:
    """Train one proxy in this process."""
    torch.set_num_threads(1)
    asked = json.loads(sys.argv[1])
    loop = Loop(Job(**asked["job"]), read(Path(asked["tokens"]), "cpu"), asked["steps"], asked["seed"])
    print(f"{loop.run(asked['steps'])[-1].item():.3f} {loop.held_out():.3f}")


if __name__ == "__main__":
    main()
