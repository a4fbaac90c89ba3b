"""THE training loop: run specifications become run records.

Up to K runs train together in the slots of a stack. They share shape, length and precision; each has its own policy,
seed, data, learning rate and weight decay, and is at a step of its own: a run that ends leaves its slot to the next one in
the queue, without anything being compiled again. A member whose loss is no longer finite becomes a failed record, and
so does one whose policy raises: neither its arithmetic nor its exceptions ever meet those of its mates.

Shapes: K stack, D domains, T steps, B batch rows, S sequence, P parameters of one model.
"""

from __future__ import annotations

import functools
import math
import os
import platform
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixopt.domains import Manifest
from mixopt.errors import DataError, DeviceLost, RunFailed
from mixopt.mixture import FloatArray
from mixopt.policy import plain
from mixopt.runs import Cost, Proxy, RunRecord, RunSpec
from proxies import checkpoint, signals
from proxies.evaluate import HeldOut
from proxies.members import Branch, Course, Member
from proxies.optim import Horizon, State, pace
from proxies.parameters import Layout, init
from proxies.program import program
from proxies.resident import Gather, placed
from proxies.sizes import member_bytes, rows_at_once, shape
from proxies.tokens import Sampler, TokenStore

MEMORY_SHARE = 0.7  # of a device's memory that a stack plans with; the loss and the libraries' own take the rest
SAVING = 20.0  # times as long as it takes to save them, runs train before they are saved again
CHUNK = 64  # steps whose rows are gathered at once, at most


@dataclass(frozen=True)
class Trainer:
    """Trains stacks on the corpus prepared in `data`. A value that worker processes can be handed.

    At most `slots` runs train at a time (all of them unless given), fewer where the device's memory holds no more.
    With a folder `partial`, unfinished runs are kept there every `every` seconds, and go on from there. In the folder
    `weights` are those of runs that are to keep them, and of runs that policies refer to.
    """

    data: Path
    device: str = "cpu"
    slots: int | None = None
    compiled: bool = False
    partial: Path | None = None
    every: float = 60.0
    weights: Path | None = None

    def __call__(self, specs: Sequence[RunSpec]) -> Iterator[RunRecord]:
        """Train these specs, which must be stackable. Yields a record for each as it ends.

        A run that asks for what cannot be measured, or whose policy raises, gets a crashed record. Raises RunFailed for
        specs that cannot share a stack, DataError for other data, DeviceLost for a dead GPU.
        """
        manifest = Manifest.load(self.data)
        proxy = _shared_proxy(specs, manifest)
        refused = signals.refused(specs, self.weights)
        yield from (RunRecord(spec, error=refused[spec.id]) for spec in specs if spec.id in refused)
        waiting = [spec for spec in specs if spec.id not in refused]
        wanted, slots = min(len(waiting), self.slots or len(waiting)), 0
        while waiting:
            full = False
            try:
                rows = _rows(self.data, proxy.sequence, self.device)
                slots = slots // 2 if slots else self._width(wanted, waiting, manifest)
                for record in Stack(manifest, rows, waiting, slots, self).train():
                    waiting.remove(record.spec)
                    stack = str(slots) if slots >= wanted else f"{slots} of {wanted} asked for: memory"
                    yield replace(record, machine={**record.machine, "stack": stack})
            except torch.OutOfMemoryError:
                full = True  # what was kept in `partial` goes on
                if slots == 1:
                    raise
            except RuntimeError as e:
                if _alive(self.device):
                    raise
                raise DeviceLost(f"{self.device} is gone: {e}") from e
            if full:  # here, where the exception no longer holds the stack
                torch.cuda.empty_cache()
        if self.partial is not None:
            for spec in specs:
                checkpoint.drop(self.partial, spec.id)

    def _width(self, wanted: int, specs: Sequence[RunSpec], manifest: Manifest) -> int:
        """Slots of a stack: those wanted, fewer where memory holds no more; compiled, a power of two, of which are few."""
        proxy, vocabulary = specs[0].proxy, manifest.tokenizer.vocabulary
        layout = Layout(shape(proxy.size), vocabulary)
        each = member_bytes(layout.shape, vocabulary, proxy.batch, proxy.precision) + signals.slot_bytes(specs, layout)
        have = int(MEMORY_SHARE * memory(self.device)) - signals.shared_bytes(specs, layout, len(manifest.names))
        room = max(1, have // each)
        if not self.compiled:
            return min(wanted, room)
        return min(self.slots or wanted, 1 << (wanted - 1).bit_length(), 1 << (room.bit_length() - 1))


class Stack:
    """Runs that train together, turn by turn: `train` takes all of them."""

    def __init__(
        self, manifest: Manifest, rows: Gather, specs: Sequence[RunSpec], slots: int, trainer: Trainer
    ) -> None:
        self.proxy, self.rows = specs[0].proxy, rows
        self.manifest, self.trainer, self.queue = manifest, trainer, deque(specs)
        step_tokens = self.proxy.batch * self.proxy.sequence
        steps = math.ceil(self.proxy.tokens / step_tokens)
        count = self.proxy.checkpoints
        marks = frozenset(round((i + 1) * steps / count) for i in range(count))
        self.course = Course(manifest.names, steps, step_tokens, marks)
        self.horizon = Horizon(steps, self.proxy.warmup * steps, self.proxy.cooldown)
        self.branches = [self._shorter(part) for part in self.proxy.horizons]
        self.store = TokenStore(manifest, self.proxy.sequence)
        self.held_out = HeldOut(self.store, self.proxy.eval_tokens, trainer.device)
        self.layout = Layout(shape(self.proxy.size), manifest.tokenizer.vocabulary)
        self.program = program(self.proxy, self.layout.vocabulary, trainer.compiled)
        self.references = signals.references(specs, trainer.weights, trainer.device)
        self.signals = signals.Signals(self.program, self.held_out, rows, self.horizon, self._aside)
        self.state = State(*(torch.zeros(slots, self.layout.total, device=trainer.device) for _ in State._fields))
        self.members: list[Member | None] = [None] * slots
        self.chunk = CHUNK

    def train(self) -> Iterator[RunRecord]:
        """Every step of every run; a record as each ends."""
        kept, pause = time.monotonic(), self.trainer.every
        while self.queue or self._alive():
            yield from self.turn()
            if self.trainer.partial is not None and time.monotonic() - kept >= pause:
                began = time.monotonic()
                self._keep(self.trainer.partial)
                kept = time.monotonic()
                pause = max(self.trainer.every, SAVING * (kept - began))

    def turn(self) -> Iterator[RunRecord]:
        """The steps up to where some run needs something, and that; a record of each run that has ended."""
        yield from self._seat()
        alive, began = self._alive(), time.perf_counter()
        if not alive:
            return
        self._advance(min(self.chunk, *(self._distance(member) for _, member in alive)))
        if time.perf_counter() - began > self.trainer.every / 4:
            self.chunk = max(1, self.chunk // 2)  # keep chunks short where steps are slow
        self._attend(alive)
        share = (time.perf_counter() - began) / len(alive)
        for slot, member in alive:
            member.seconds += share
            if member.ended:
                yield self._leave(slot, member)

    def _seat(self) -> Iterator[RunRecord]:
        """Give every free slot to a run in the queue; a record of each that cannot begin."""
        for slot in range(len(self.members)):
            while self.members[slot] is None and self.queue:
                member = self._join(slot, self.queue.popleft())
                if member.ended:
                    yield self._leave(slot, member)

    def _alive(self) -> list[tuple[int, Member]]:
        return [(slot, member) for slot, member in enumerate(self.members) if member is not None]

    def _distance(self, member: Member) -> int:
        """Steps until something is to be done for this member."""
        events = [*self.course.marks, *(horizon.turn for horizon in self.branches)]
        ahead = [event for event in events if event > member.step]
        return min(member.until, *ahead) - member.step

    def _join(self, slot: int, spec: RunSpec) -> Member:
        """Give a free slot to a run: its initial parameters, or those it was left with."""
        supply = [max(1, spec.proxy.supply[name] // spec.proxy.sequence) for name in self.course.names]
        sampler = Sampler(self.store, self.course.names, supply, spec.proxy.batch, spec.seed)
        member = self.members[slot] = Member(spec, self.course, sampler)
        left = checkpoint.load(self.trainer.partial, spec.id) if self.trainer.partial is not None else None
        if left is not None and left[1]["machine"] != machine(self.trainer):
            left = None  # its arithmetic was another
        tensors = {"weights": init(self.layout, spec.seed)} if left is None else left[0]
        for name, part in self.state._asdict().items():
            part[slot] = tensors[name].to(part.device) if name in tensors else 0.0
        if left is None:
            member.begin(self.signals.before(member, self.state.weights[slot]))
        else:
            member.resume(left[1]["member"])
        return member

    def _leave(self, slot: int, member: Member) -> RunRecord:
        """Free a slot. The weights of a good run that is to keep them are kept before there is a record, which then is complete."""
        self.members[slot] = None
        if member.spec.keep and not member.error and self.trainer.weights is not None:
            checkpoint.keep(self.trainer.weights, member.spec.id, self.state.weights[slot].cpu(), member.spec.proxy)
        return self._record(member)

    def _advance(self, steps: int) -> None:
        """Train all members for some steps: data first, then the updates, then a look at the losses."""
        blocks_TKB = np.zeros((steps, len(self.members), self.proxy.batch), dtype=np.int64)
        draws = {}
        for slot, member in self._alive():
            blocks_TKB[:, slot], draws[slot] = member.blocks(steps)
        listener = signals.Listener(self.members, self.references, self.program, self.trainer.device)
        paces = self._paces({slot: (self.horizon, member.step) for slot, member in self._alive()}, steps)
        losses, heard = self._descend(self.state, self.rows.gather(blocks_TKB), paces, listener)
        losses_TK = losses.cpu().numpy()
        if heard is not None:
            listener.add(heard.cpu().double().numpy(), blocks_TKB)
        for slot, member in self._alive():
            bad = np.flatnonzero(~np.isfinite(losses_TK[:, slot]))
            if len(bad):
                step = member.step + bad[0] + 1
                member.error = f"training loss {losses_TK[bad[0], slot]} at step {step} of {self.course.steps}"
            member.step += steps
            member.drawn_D = draws[slot]

    def _paces(self, at: Mapping[int, tuple[Horizon, int]], steps: int) -> Tensor:
        """The coming steps' numbers [T, 3, K] of slots at a step of a schedule. Others learn nothing, at rate zero."""
        idle, slots = replace(self.proxy, learning_rate=0.0), range(len(self.members))
        rates = {slot: member.spec.proxy for slot, member in self._alive() if slot in at}
        horizons, starts = zip(*(at.get(slot, (self.horizon, 0)) for slot in slots), strict=True)
        return pace([rates.get(slot, idle) for slot in slots], horizons, starts, steps).to(self.trainer.device)

    def _descend(
        self, state: State, rows: Tensor, paces: Tensor, listener: signals.Listener | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Losses [T, K] of the updates on rows [T, K, B, S + 1], and what a listener heard of them [T, Q, B]."""
        losses, heard = [], []
        for now, at in zip(rows, paces, strict=True):
            if listener:
                loss_K, tokens = self.program.descend_telling(state, now, at)
                heard.append(listener.read(now, tokens))
            else:
                loss_K = self.program.descend(state, now, at)
            losses.append(loss_K)
        return torch.stack(losses), torch.stack(heard) if heard else None

    def _attend(self, alive: Sequence[tuple[int, Member]]) -> None:
        """Do what the members' steps call for: measure, branch off, move on to the next segment."""
        healthy = {slot: member for slot, member in alive if not member.error}
        marked = {slot: member for slot, member in healthy.items() if member.step in self.course.marks}
        losses = self.signals.losses(self.state.weights, marked)
        for slot, member in marked.items():
            member.trajectory.append(self._metrics(member, losses[slot]))
        for horizon in self.branches:
            self._branch(horizon, {s: m for s, m in healthy.items() if m.step == horizon.turn and not m.error})
        turning = {slot: m for slot, m in healthy.items() if m.step == m.until and not m.error}
        told = self.signals.measured(turning, self.state.weights, losses)
        for slot, member in turning.items():
            if not member.error:
                member.hear(told[slot])

    def _metrics(self, member: Member, losses_D: FloatArray, step: int | None = None) -> tuple[int, dict[str, float]]:
        """Tokens seen and metrics; a loss that is not finite ends the run."""
        step = member.step if step is None else step
        if not np.isfinite(losses_D).all():
            member.error = f"held-out loss not finite at step {step} of {self.course.steps}"
        return step * self.course.step_tokens, self.held_out.metrics(losses_D.tolist())

    def _shorter(self, part: float) -> Horizon:
        """The schedule of a run of this part of the length: it shares the warmup, and falls as steeply for its length."""
        return Horizon(round(part * self.horizon.steps), self.horizon.warmup, self.horizon.cooldown)

    def _branch(self, horizon: Horizon, members: Mapping[int, Member]) -> None:
        """Let the learning rate of these members fall as if they ended soon, and measure. They stay on their mixtures."""
        if not members:
            return
        steps = horizon.steps - horizon.turn
        branches = {slot: Branch(member, member.w_D, horizon, member.step) for slot, member in members.items()}
        losses = self.signals.losses(self._aside(branches, steps), members)
        for slot, member in members.items():
            member.extra_tokens += steps * self.course.step_tokens
            member.horizons.append(self._metrics(member, losses[slot], horizon.steps))

    def _aside(self, branches: Mapping[int, Branch], steps: int) -> Tensor:
        """Weights [K, P] after members have trained aside, on a copy of the stack. The other slots are carried along."""
        state = State(*(part.clone() for part in self.state))
        drawn = {slot: branch.member.drawn_D for slot, branch in branches.items()}
        for done in range(0, steps, self.chunk):
            count = min(self.chunk, steps - done)
            blocks_TKB = np.zeros((count, len(self.members), self.proxy.batch), dtype=np.int64)
            for slot, branch in branches.items():
                blocks_TKB[:, slot], drawn[slot] = branch.blocks(done, count, drawn[slot])
            paces = self._paces(
                {slot: (branch.horizon, branch.start + done) for slot, branch in branches.items()}, count
            )
            self._descend(state, self.rows.gather(blocks_TKB), paces)
        return state.weights

    def _keep(self, folder: Path) -> None:
        for slot, member in self._alive():
            tensors = {name: part[slot].cpu().clone() for name, part in self.state._asdict().items()}
            body = {"machine": machine(self.trainer), "member": member.to_json()}
            checkpoint.save(folder, member.spec.id, tensors, body)

    def _record(self, member: Member) -> RunRecord:
        if member.crashed:
            return RunRecord(member.spec, error=member.error, machine=machine(self.trainer))
        names, sequence = self.manifest.names, self.proxy.sequence
        tokens = member.step * self.course.step_tokens + member.extra_tokens
        per_token = self.layout.shape.flops(self.layout.vocabulary)
        unique_D = member.sampler.unique(member.drawn_D)
        finite = [(seen, metrics) for seen, metrics in member.trajectory if all(map(math.isfinite, metrics.values()))]
        return RunRecord(
            spec=member.spec,
            metrics=finite[-1][1] if not member.error else {},
            trajectory=tuple(finite),
            horizons=tuple(member.horizons) if not member.error else (),
            trace=member.traced,
            state=plain(member.state),
            drawn={n: int(c) * sequence for n, c in zip(names, member.drawn_D, strict=True)},
            unique={n: int(c) * sequence for n, c in zip(names, unique_D, strict=True)},
            cost=Cost(tokens, per_token * (tokens + member.read_tokens / 3), member.seconds),
            error=member.error,
            diverged=bool(member.error),
            machine=machine(self.trainer),
        )


@functools.lru_cache(1)
def _rows(data: Path, sequence: int, device: str) -> Gather:
    """The rows of a corpus, placed on the device once for all stacks of a worker."""
    return placed(TokenStore(Manifest.load(data), sequence), device)


def _alive(device: str) -> bool:
    """Whether a device still answers."""
    try:
        if device != "cpu":
            torch.cuda.synchronize(device)
    except RuntimeError:
        return False
    return True


def available(device: str) -> bool:
    """Whether this machine can train on the device."""
    return device == "cpu" or (torch.cuda.is_available() and int(device[5:] or 0) < torch.cuda.device_count())


def memory(device: str) -> int:
    """Bytes of a device: those free on a GPU, what this process keeps for later included; all that a host has."""
    if device.startswith("cuda"):
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def machine(trainer: Trainer) -> dict[str, str]:
    """What decides the last bits of a run's numbers beside its spec."""
    on_gpu = trainer.device.startswith("cuda")
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(trainer.device) if on_gpu else torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "architecture": platform.machine(),
        "compiled": str(trainer.compiled).lower(),
    }


def tokens_per_second(size: str, vocabulary: int, batch: int, seconds: float = 2.0) -> float:
    """Training tokens per second of one thread, not compiled, measured on random tokens for about this long."""
    threads, sequence = torch.get_num_threads(), shape(size).sequence
    proxy = Proxy(size, batch * sequence, sequence, batch, 0.001, 1, 0, {}, "")
    torch.set_num_threads(1)
    try:
        steps_of = program(proxy, vocabulary, compiled=False)
        weights = init(steps_of.layout, 0)[None]
        state = State(weights, torch.zeros_like(weights), torch.zeros_like(weights))
        generator = torch.Generator().manual_seed(0)
        rows = torch.randint(0, vocabulary, (1, rows_at_once(batch, sequence), sequence + 1), generator=generator)
        (at,) = pace([proxy], [Horizon(1, 0, 0)], [0], 1)
        steps_of.descend(state, rows, at)  # the first one warms up
        steps, began = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - began < seconds:
            steps_of.descend(state, rows, at)
            steps += 1
        return steps * rows[..., 1:].numel() / (time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)


def _shared_proxy(specs: Sequence[RunSpec], manifest: Manifest) -> Proxy:
    proxy = specs[0].proxy
    if any(spec.proxy.shared != proxy.shared for spec in specs):
        raise RunFailed("a stack must share all of the proxy but learning rate and weight decay; these specs differ.")
    if proxy.data != manifest.fingerprint:
        raise DataError(f"the runs ask for data {proxy.data}, {manifest.root} holds {manifest.fingerprint}.")
    return proxy
