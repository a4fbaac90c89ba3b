"""THE training loop: a stack of run specifications becomes run records.

Members of a stack share shape, budget and schedule; each has its own policy, seed and data. A member whose loss is
no longer finite becomes a failed record; its arithmetic never meets that of its stack mates.

Shapes: K stack, D domains, T steps, B batch rows, S sequence.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixopt.domains import Manifest
from mixopt.errors import DataError, RunFailed
from mixopt.mixture import FloatArray, Segment
from mixopt.policy import Feedback
from mixopt.runs import Cost, Proxy, RunRecord, RunSpec
from proxies.evaluate import HeldOut
from proxies.model import init, stack, token_losses
from proxies.sizes import Shape, shape
from proxies.tokens import IntArray, Sampler, TokenStore

CHUNK = 64  # steps whose rows are gathered at once
BETAS = (0.9, 0.95)
SIGNALS = frozenset({"valid"})


@dataclass(frozen=True)
class Trainer:
    """Trains stacks on the corpus prepared in `data`. A value that worker processes can be handed."""

    data: Path
    device: str = "cpu"

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Train these specs together; they must share the proxy. Yields a record for each as it ends."""
        run = _Stack(Manifest.load(self.data), specs, self.device)
        yield from run.train()


@dataclass
class _Member:
    """One run of a stack: where its policy stands and what it has drawn."""

    spec: RunSpec
    sampler: Sampler
    state: Any
    segment: Segment
    until: int  # step at which the segment ends
    drawn_D: IntArray
    trace: list[Segment] = field(default_factory=list)
    trajectory: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    error: str = ""


class _Stack:
    def __init__(self, manifest: Manifest, specs: Sequence[RunSpec], device: str) -> None:
        self.proxy = _shared_proxy(specs, manifest)
        self.manifest, self.device = manifest, device
        self.shape = shape(self.proxy.size)
        self.step_tokens = self.proxy.batch * self.proxy.sequence
        self.steps = math.ceil(self.proxy.tokens / self.step_tokens)
        self.store = TokenStore(manifest, self.proxy.sequence)
        self.held_out = HeldOut(self.store, self.proxy.eval_tokens, device)
        vocabulary = manifest.tokenizer.vocabulary
        models = [init(self.shape, vocabulary, spec.seed) for spec in specs]
        self.params = {name: p.to(device).requires_grad_() for name, p in stack(models).items()}
        self.optimizer = _optimizer(self.params, self.proxy)
        self.members = [self._enter(spec) for spec in specs]
        self.marks = {round((i + 1) * self.steps / self.proxy.checkpoints) for i in range(self.proxy.checkpoints)}

    def train(self) -> Iterator[RunRecord]:
        """Every step of every member; records at the end."""
        began, step = time.perf_counter(), 0
        while step < self.steps:
            ends = [m.until for m in self.members] + [mark for mark in self.marks if mark > step]
            until = min(step + CHUNK, *ends)
            rows = self._gather(step, until - step)
            for t in range(until - step):
                self._update(rows[:, t], step + t)
            step = until
            losses_KD = self._measure(step)
            for member, losses_D in zip(self.members, losses_KD, strict=True):
                if step == member.until:
                    self._next_segment(member, step, losses_D)
        seconds = (time.perf_counter() - began) / len(self.members)
        for member in self.members:
            yield self._record(member, seconds)

    def _gather(self, first: int, steps: int) -> Tensor:
        """Token rows [K, T, B, S + 1] of the coming steps."""
        parts = []
        for member in self.members:
            w_D = member.segment.mixture.array(self.manifest.names)
            rows, member.drawn_D = member.sampler.rows(w_D, first, steps, member.drawn_D)
            parts.append(rows)
        return torch.from_numpy(np.stack(parts)).to(self.device)

    def _update(self, rows: Tensor, step: int) -> None:
        """One optimiser step on rows [K, B, S + 1]: gradients clipped to norm 1 member by member."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.proxy.learning_rate * _schedule(self.proxy, step, self.steps)
        self._watch(_descend(self.params, self.shape, self.optimizer, rows), step)

    def _watch(self, loss_K: Tensor, step: int) -> None:
        for member, loss in zip(self.members, loss_K.tolist(), strict=True):
            if not math.isfinite(loss) and not member.error:
                member.error = f"training loss {loss} at step {step + 1} of {self.steps}"

    def _measure(self, step: int) -> list[FloatArray | None]:
        """Held-out losses [D] for each member where a checkpoint or a policy asks for them."""
        wanted = step in self.marks or any("valid" in m.spec.feed.needs and m.until == step for m in self.members)
        if not wanted:
            return [None] * len(self.members)
        losses_KD = self.held_out.losses_KD(self.params, self.shape).cpu().numpy()
        for member, losses_D in zip(self.members, losses_KD, strict=True):
            if step in self.marks and not member.error:
                metrics = self.held_out.metrics(losses_D.tolist())
                if all(math.isfinite(value) for value in metrics.values()):
                    member.trajectory.append((step * self.step_tokens, metrics))
                else:
                    member.error = f"held-out loss not finite at step {step} of {self.steps}"
        return list(losses_KD)

    def _enter(self, spec: RunSpec) -> _Member:
        names = self.manifest.names
        unknown = spec.feed.needs - SIGNALS
        if unknown:
            raise RunFailed(f"run {spec.id}: this trainer cannot measure {', '.join(sorted(unknown))}.")
        supply = [max(1, self.proxy.supply[name] // self.proxy.sequence) for name in names]
        sampler = Sampler(self.store, names, supply, self.proxy.batch, spec.seed)
        state = spec.feed.init(names, Feedback(0, self.steps * self.step_tokens, {}))
        segment = spec.feed.segment(state)
        drawn_D = np.zeros(len(names), dtype=np.int64)
        return _Member(spec, sampler, state, segment, self._end(segment, 0), drawn_D)

    def _end(self, segment: Segment, step: int) -> int:
        """The step at which a segment that starts now ends: at least one step on, at most the last."""
        return min(self.steps, step + max(1, round(segment.tokens / self.step_tokens)))

    def _next_segment(self, member: _Member, step: int, losses_D: FloatArray | None) -> None:
        done = sum(segment.tokens for segment in member.trace)
        member.trace.append(Segment(member.segment.mixture, step * self.step_tokens - done))
        signals = {"valid": losses_D} if "valid" in member.spec.feed.needs and losses_D is not None else {}
        feedback = Feedback(step * self.step_tokens, self.steps * self.step_tokens, signals)
        member.state = member.spec.feed.update(member.state, feedback)
        if step < self.steps:
            member.segment = member.spec.feed.segment(member.state)
            member.until = self._end(member.segment, step)

    def _record(self, member: _Member, seconds: float) -> RunRecord:
        names, tokens = self.manifest.names, self.steps * self.step_tokens
        per_token = self.shape.flops(self.manifest.tokenizer.vocabulary)
        evaluated = self.held_out.tokens * len(self.marks)
        unique_D = member.sampler.unique(member.drawn_D)
        return RunRecord(
            spec=member.spec,
            metrics=member.trajectory[-1][1] if member.trajectory and not member.error else {},
            trajectory=tuple(member.trajectory),
            trace=tuple(member.trace),
            drawn={n: int(c) * self.proxy.sequence for n, c in zip(names, member.drawn_D, strict=True)},
            unique={n: int(c) * self.proxy.sequence for n, c in zip(names, unique_D, strict=True)},
            cost=Cost(tokens, per_token * (tokens + evaluated / 3), seconds),
            error=member.error,
            diverged=bool(member.error),
            machine=machine(self.device) | {"stack": str(len(self.members))},
        )


def available(device: str) -> bool:
    """Whether this machine can train on the device."""
    return device == "cpu" or (torch.cuda.is_available() and int(device[5:] or 0) < torch.cuda.device_count())


def machine(device: str) -> dict[str, str]:
    """What decides the last bits of a run's numbers beside its spec."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name()
        if device.startswith("cuda")
        else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "architecture": platform.machine(),
    }


def tokens_per_second(size: str, vocabulary: int, seconds: float = 2.0) -> float:
    """Training tokens per second of one thread, measured on random tokens for about this long."""
    form, threads = shape(size), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        params = {name: p.requires_grad_() for name, p in stack([init(form, vocabulary, 0)]).items()}
        optimizer = torch.optim.AdamW(list(params.values()), fused=True)
        rows = torch.randint(0, vocabulary, (1, 8, form.sequence + 1), generator=torch.Generator().manual_seed(0))
        _descend(params, form, optimizer, rows)  # the first one warms up
        steps, began = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < seconds:
            _descend(params, form, optimizer, rows)
            steps += 1
        return steps * rows[..., 1:].numel() / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def _shared_proxy(specs: Sequence[RunSpec], manifest: Manifest) -> Proxy:
    proxy = specs[0].proxy
    if any(spec.proxy != proxy for spec in specs):
        raise RunFailed("a stack must share one proxy setting; these specs differ.")
    if proxy.data != manifest.fingerprint:
        raise DataError(f"the runs ask for data {proxy.data}, {manifest.root} holds {manifest.fingerprint}.")
    return proxy


def _optimizer(params: dict[str, Tensor], proxy: Proxy) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only (gains are [K, d])."""
    groups = [
        {"params": [p for p in params.values() if p.dim() == 3], "weight_decay": proxy.weight_decay},
        {"params": [p for p in params.values() if p.dim() == 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=proxy.learning_rate, betas=BETAS, fused=True)


def _descend(params: dict[str, Tensor], shape: Shape, optimizer: torch.optim.Optimizer, rows: Tensor) -> Tensor:
    """One step on rows [K, B, S + 1], each member's gradient clipped by itself; the losses [K] before it."""
    loss_K = token_losses(params, shape, rows).mean((1, 2))
    loss_K.sum().backward()
    _clip(list(params.values()))
    optimizer.step()
    optimizer.zero_grad()
    return loss_K.detach()


def _schedule(proxy: Proxy, step: int, steps: int) -> float:
    """Learning rate of a step as a fraction of its peak: linear warmup, stable, linear decay."""
    rise = (step + 1) / (proxy.warmup * steps) if proxy.warmup > 0 else 1.0
    fall = (1 - step / steps) / proxy.cooldown if proxy.cooldown > 0 else 1.0
    return min(1.0, rise, fall)


def _clip(params: Sequence[Tensor]) -> None:
    """Scale each member's gradient to a norm of at most 1; a member that is not finite gets zeros."""
    grads = [p.grad for p in params if p.grad is not None]
    norm_K = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    scale_K = torch.where(norm_K.isfinite(), 1 / norm_K.clamp(min=1.0), 0.0)
    for g in grads:
        scaled = g * scale_K.view(-1, *[1] * (g.dim() - 1))
        g.copy_(torch.where(norm_K.isfinite().view(-1, *[1] * (g.dim() - 1)), scaled, 0.0))
