"""What policies ask to hear, measured: only what is declared, and only for those that declare it.

Losses of training rows come from the training step itself. They stay on the device until a stack pauses, as it does at
the end of any segment, and are added up by domain. An excess loss takes a forward pass of its reference over the same
rows besides. Held-out losses, gradients and probes are measured where a segment ends, and take time only there.

Shapes: K stack, Q rows of losses heard in a step, D domains, T steps, B batch rows, S sequence, P parameters of one
model, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mixopt.errors import JobError, RunFailed
from mixopt.mixture import FloatArray
from mixopt.policy import Drops, Excess, Gram, Signal, Train, Valid, probe_steps
from mixopt.runs import RunSpec
from proxies import checkpoint
from proxies.evaluate import HeldOut
from proxies.members import Branch, Member, said
from proxies.optim import Horizon
from proxies.parameters import Layout
from proxies.program import Program
from proxies.resident import Gather
from proxies.tokens import IntArray

Aside = Callable[[Mapping[int, Branch], int], Tensor]
"""Trains members in these slots aside for some steps: the weights [K, P] they end with. The stack stays as it was."""
Found = dict[int, FloatArray]  # what was measured, by slot
WHAT = {"valid": "held-out loss", "gram": "gradient of the head", "drops": "held-out loss of a probe"}


def refused(specs: Sequence[RunSpec], weights: Path | None) -> dict[str, str]:
    """Why runs cannot be made by this trainer, by the id of those that cannot."""
    found = {}
    for spec in specs:
        try:
            check(spec, weights)
        except Exception as e:  # noqa: BLE001 - a policy is anybody's program
            found[spec.id] = said(e)
    return found


def check(spec: RunSpec, weights: Path | None) -> None:
    """Raise RunFailed for what cannot be measured or kept, JobError for numbers that make no sense.

    And for a reference that is not there, what `checkpoint.kept` raises.
    """
    needs = spec.feed.needs
    names = sorted(signal.name for signal in needs)
    unknown = sorted(signal.name for signal in needs if not isinstance(signal, Signal))
    if unknown:
        raise RunFailed(f"this trainer cannot measure {', '.join(unknown)}.")
    if len(set(names)) < len(names):
        raise RunFailed(f"its policy asks for the same signal in two ways ({', '.join(names)}).")
    if weights is None and (spec.keep or "excess" in names):
        raise RunFailed("it keeps weights or refers to some; this trainer was given no folder for them.")
    for signal in needs:
        for problem in _problems(signal):
            raise JobError(f"signal {signal.name}: {problem}")
    if weights is not None:
        references([spec], weights, "cpu")


def _problems(signal: Signal) -> Iterator[str]:
    if isinstance(signal, Valid | Drops) and not 0 < signal.part <= 1:
        of = "held-out text" if isinstance(signal, Valid) else "run"
        yield f"part must be above 0 and at most 1, the whole {of} (got {signal.part})."
    if isinstance(signal, Drops) and not 0 < signal.text <= 1:
        yield f"text must be above 0 and at most 1, the whole held-out text (got {signal.text})."
    if isinstance(signal, Drops) and not 0 < signal.weight <= 1:
        yield f"weight must be above 0 and at most 1 (got {signal.weight})."
    if isinstance(signal, Gram) and signal.rows < 1:
        yield f"rows must be at least 1 (got {signal.rows})."
    if isinstance(signal, Excess) and signal.clip not in ("token", "domain"):
        yield f"clip must be token or domain (got {signal.clip!r})."


def slot_bytes(specs: Sequence[RunSpec], layout: Layout) -> int:
    """Memory of a slot for what is trained aside: another slot."""
    aside = any(spec.proxy.horizons or any(isinstance(s, Drops) for s in spec.feed.needs) for spec in specs)
    return 12 * layout.total if aside else 0


def shared_bytes(specs: Sequence[RunSpec], layout: Layout, domains: int) -> int:
    """Memory that is needed once: references, and the gradients of one member's domains."""
    needs = {signal for spec in specs for signal in spec.feed.needs}
    references = {signal.reference for signal in needs if isinstance(signal, Excess)}
    gram = any(isinstance(signal, Gram) for signal in needs)
    return 4 * (len(references) * layout.total + gram * domains * layout.sizes["head"])


def references(specs: Sequence[RunSpec], folder: Path | None, device: str) -> dict[str, Tensor]:
    """Weights [P] of all runs that these specs refer to, by id. Raises what `checkpoint.kept` does."""
    wanted = {s.reference for spec in specs for s in spec.feed.needs if isinstance(s, Excess)}
    if folder is None:
        return {}
    return {run_id: checkpoint.kept(folder, run_id, specs[0].proxy).to(device) for run_id in sorted(wanted)}


class Listener:
    """Reads the losses of training rows for those members of a stack that hear them; false where none does."""

    def __init__(
        self, members: Sequence[Member | None], references: Mapping[str, Tensor], program: Program, device: str
    ) -> None:
        self.references, self.program = references, program
        self.heard: dict[Train | Excess, dict[int, Member]] = {}
        for slot, member in enumerate(members):
            if member is not None:
                for signal in member.asked:
                    if isinstance(signal, Train | Excess):
                        self.heard.setdefault(signal, {})[slot] = member
        self._slots = {signal: torch.tensor(list(those), device=device) for signal, those in self.heard.items()}

    def __bool__(self) -> bool:
        return bool(self.heard)

    def read(self, rows: Tensor, tokens: Tensor) -> Tensor:
        """What is heard [Q, B] of a step on rows [K, B, S + 1] whose tokens had these losses [K, B, S]."""
        found = []
        for signal, slots in self._slots.items():
            losses = tokens[slots]
            if isinstance(signal, Excess):
                losses = losses - self._referred(signal, rows[slots])
                losses = losses.clamp(min=0) if signal.clip == "token" else losses
            found.append(losses.mean(-1))
        return torch.cat(found)

    def _referred(self, signal: Excess, rows: Tensor) -> Tensor:
        """The reference's losses of these tokens: all rows go through the one model, in parts."""
        weights, folded = self.references[signal.reference][None], rows.flatten(0, 1)[None]
        losses = [self.program.token_losses(weights, part) for part in self.program.parts(folded)]
        return torch.cat(losses, dim=1).view(*rows.shape[:2], -1)

    def add(self, heard_TQB: FloatArray, blocks_TKB: IntArray) -> None:
        """Add what was heard in some steps on these blocks to what the members heard before."""
        q = 0
        for signal, members in self.heard.items():
            for slot, member in members.items():
                domains_TB = member.sampler.domains(blocks_TKB[:, slot])
                member.tallies[signal.name].add(domains_TB, heard_TQB[:, q])
                if isinstance(signal, Excess):
                    member.read_tokens += len(domains_TB) * member.course.step_tokens
                q += 1


def gram(program: Program, weights: Tensor, rows: Tensor) -> Tensor:
    """Inner products [D, D] of the gradients in the head of the mean losses of rows [D, N, S + 1], of one model [P].

    Takes D * d * V * 4 bytes for the gradients of all domains.
    """
    gradients = torch.empty(len(rows), program.layout.sizes["head"], device=weights.device)
    for gradient, own in zip(gradients, rows, strict=True):
        gradient.copy_(program.head_gradient(weights[None], own[None]).flatten())
    return gradients @ gradients.mT


@dataclass(frozen=True)
class Signals:
    """Measures for the members of one stack, which trains `aside` what a probe needs."""

    program: Program
    held_out: HeldOut
    rows: Gather
    horizon: Horizon
    aside: Aside

    def losses(self, weights: Tensor, members: Mapping[int, Member], part: float = 1.0) -> Found:
        """Held-out losses [D] of the members in these slots of the weights [K, P]."""
        if not members:
            return {}
        for member in members.values():
            member.read_tokens += self.held_out.tokens(part)
        chosen = weights if len(members) == len(weights) else weights[list(members)]
        return dict(zip(members, self.held_out.losses_KD(self.program, chosen, part).cpu().numpy(), strict=True))

    def before(self, member: Member, weights: Tensor) -> dict[str, FloatArray]:
        """What a policy hears before the first token: held-out losses of the initial weights [P]."""
        valid = [signal for signal in member.spec.feed.needs if isinstance(signal, Valid)]
        return {signal.name: self.losses(weights[None], {0: member}, signal.part)[0] for signal in valid}

    def measured(
        self, members: Mapping[int, Member], weights: Tensor, whole: Found
    ) -> dict[int, dict[str, FloatArray]]:
        """What the policies of these members hear when their segments end, by slot and name.

        `whole` is what is known already of losses on all held-out rows. A number that is not finite ends the run.
        """
        asked: dict[Signal, dict[int, Member]] = {}
        for slot, member in members.items():
            for signal in sorted(member.asked, key=repr):
                asked.setdefault(signal, {})[slot] = member
        told: dict[int, dict[str, FloatArray]] = {slot: {} for slot in members}
        known = {1.0: dict(whole)}
        for signal, those in asked.items():
            for slot, found in self._measured(signal, those, weights, known).items():
                told[slot][signal.name] = found
                if signal.name in WHAT and not np.isfinite(found).all():
                    member = members[slot]
                    member.error = f"{WHAT[signal.name]} not finite at step {member.step} of {member.course.steps}"
        return told

    def _measured(
        self, signal: Signal, members: Mapping[int, Member], weights: Tensor, known: dict[float, Found]
    ) -> Found:
        """One signal of these members. `known` are held-out losses by part of the rows, and grows."""
        match signal:
            case Train():
                return {slot: member.tallies[signal.name].mean_D for slot, member in members.items()}
            case Excess():  # by token, no mean is below zero anyway
                return {slot: np.maximum(member.tallies[signal.name].mean_D, 0) for slot, member in members.items()}
            case Gram():
                return {slot: self._gram(member, weights[slot], signal.rows) for slot, member in members.items()}
        part = signal.part if isinstance(signal, Valid) else signal.text
        losses = known.setdefault(part, {})
        losses |= self.losses(weights, {slot: m for slot, m in members.items() if slot not in losses}, part)
        if isinstance(signal, Valid):
            return {slot: losses[slot] for slot in members}
        return self._drops(signal, members, losses)

    def _gram(self, member: Member, weights: Tensor, count: int) -> FloatArray:
        """The Gram matrix [D, D] of one model [P] on the next `count` rows of each domain."""
        blocks_DN = member.sampler.coming(member.drawn_D, count)
        member.read_tokens += blocks_DN.size * member.spec.proxy.sequence
        return gram(self.program, weights, self.rows.gather(blocks_DN)).double().cpu().numpy()

    def _drops(self, signal: Drops, members: Mapping[int, Member], before: Found) -> Found:
        """By how much the losses [D] of domain i (row) fall in a probe of domain j (column).

        A probe is a branch: the run's own next steps on another mixture. Near the end, where the learning rate has
        fallen to nothing, it has the pace of the run's last steps.
        """
        some = next(iter(members.values()))
        count, steps = len(some.course.names), probe_steps(signal, some.course.steps)
        drops = {slot: np.empty((count, count)) for slot in members}
        for j in range(count):
            w_D = np.full(count, (1 - signal.weight) / max(1, count - 1))
            w_D[j] = signal.weight if count > 1 else 1.0
            last = self.horizon.steps - steps
            probes = {slot: Branch(m, w_D, self.horizon, min(m.step, last)) for slot, m in members.items()}
            after = self.losses(self.aside(probes, steps), members, signal.text)
            for slot, member in members.items():
                drops[slot][:, j] = before[slot] - after[slot]
                member.extra_tokens += steps * member.course.step_tokens
        return drops
