"""Tokens per second and MFU of a full run on one GPU, against plain loops around the same decoder, in the same process.

    python benchmarks/full_train.py [--json]          160m and 1b, bfloat16, on a GPU (ten minutes)
    python benchmarks/full_train.py --tiny [--json]   the same code with 1m models on a CPU (a minute); it measures nothing

Ours is what `mixopt train` runs: OLMo-core's module with FSDP2, our loader, losses of rows by domain, the pilot. Two peers
train the decoder of `bare_loop.py`, which has as many parameters, on as many rows at once:

    fsdp2     blocks compiled and sharded (`fully_shard`), parameters in bfloat16, gradients reduced in float32
    nanogpt   the whole model compiled, under autocast, as nanoGPT's loop does

Their rows are random windows of memory-mapped files, copied from pinned memory, with no mixture to follow. All use fused
AdamW and clip gradients. The contenders take blocks of steps in turn; numbers are medians of the blocks by the clock. One
GPU shards nothing: what sharding costs over several is not measured here. MFU is that of `pipelines/full/derived.py`.

Source: github.com/karpathy/nanoGPT, train.py, for the loop.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np
import olmo_core.distributed.parallel as meshes
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from benchmarks.bare_loop import Decoder, Job
from benchmarks.loader import course
from benchmarks.proxy_cases import Row, alternated, forget, row, show
from pipelines.full import engine
from pipelines.full.course import Course
from pipelines.full.derived import mfu, peak_flops
from pipelines.full.ranks import Ranks
from pipelines.progress import Bars

VOCABULARY = 50_304
WAITING, USED = 0.01, 0.45  # of a step at most for rows; MFU at least of the largest model


@dataclass(frozen=True)
class Case:
    """A model, the length of a row, and tokens of a step and of what goes through the model at once."""

    model: str
    sequence: int
    batch_tokens: int
    micro_batch_tokens: int
    vocabulary: int = VOCABULARY


@dataclass(frozen=True)
class Plan:
    """What is measured: `blocks` of `steps` for each contender, after `warm` steps. `reach` is asked of the last case."""

    cases: tuple[Case, ...]
    warm: int
    steps: int
    blocks: int
    each: int
    device: str
    reach: float | None


FULL = Plan(
    cases=(Case("160m", 2048, 1 << 19, 1 << 15), Case("1b", 2048, 1 << 17, 1 << 13)),
    warm=5,
    steps=10,
    blocks=7,
    each=16_000_000,
    device="cuda",
    reach=USED,
)
TINY = Plan((Case("1m", 64, 1024, 512, 256), Case("1m", 128, 1024, 512, 256)), 1, 2, 3, 20_000, "cpu", None)


class Ours:
    """A full run that is stepped by hand, as the engine's trainer does it."""

    def __init__(self, run: Course, device: torch.device) -> None:
        meshes._WORLD_MESH = None  # the engine makes one for each process
        self.trainer, self.pilot = engine.build(run, Ranks(), device)
        self.module, self.loader = self.trainer.train_module, self.trainer.data_loader
        self.pilot.begin()
        self.module.zero_grads()
        self.batches, self.waited = self.loader._iter_batches(), 0.0

    def run(self, steps: int) -> None:
        """The next steps; `waited` is the time for rows that were not there."""
        before = self.pilot.stream.waited
        for _ in range(steps):
            self.trainer.global_step += 1
            self.module.train_batch(next(self.batches))
            self.module.optim_step()
            self.module.zero_grads()
            self.pilot.hear(torch.cat(self.module.heard), self.loader.batch, 0.0)
        self.waited = self.pilot.stream.waited - before


class Plain:
    """A peer: a decoder in a loop on random windows, in steps of several passes."""

    def __init__(self, model: nn.Module, run: Course, case: Case, device: torch.device, autocast: bool) -> None:
        self.model, self.case, self.device, self.autocast = model, case, device, autocast
        self.paths = sorted(run.manifest.root.glob("*.u16"))
        self.rng = np.random.default_rng(0)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
        )

    def rows(self) -> Tensor:
        """Random windows [B, S + 1] of one file, which is mapped anew each time so that its pages can go."""
        tokens = np.memmap(self.paths[self.rng.integers(len(self.paths))], dtype=np.uint16, mode="r")
        length = self.case.sequence + 1
        starts = self.rng.integers(0, len(tokens) - length, self.case.micro_batch_tokens // self.case.sequence)
        rows = torch.from_numpy(np.stack([tokens[start : start + length] for start in starts]).astype(np.int64))
        return rows.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else rows

    def run(self, steps: int) -> None:
        """The next steps."""
        passes = self.case.batch_tokens // self.case.micro_batch_tokens
        for _ in range(steps):
            for _ in range(passes):
                rows = self.rows()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                    logits = self.model(rows[:, :-1])
                    loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())
                (loss / passes).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()


def decoder(run: Course, case: Case, device: torch.device) -> Decoder:
    """The peers' model. Raises ValueError unless it is as large as the engine's."""
    shape = run.shape
    sizes = (shape.d_model, shape.layers, shape.heads, shape.ffn, case.sequence, case.vocabulary)
    made = Decoder(Job(*sizes, batch=case.micro_batch_tokens // case.sequence))
    if (count := sum(p.numel() for p in made.parameters())) != run.parameters:
        raise ValueError(f"{case.model}: the peers' decoder has {count:,} parameters, the engine's {run.parameters:,}.")
    return made.to(device)


def fsdp2(run: Course, case: Case, device: torch.device) -> Plain:
    """The plain loop on a sharded model; on a CPU in float32, and not compiled."""
    model, cuda = decoder(run, case, device), device.type == "cuda"
    mesh = init_device_mesh(device.type, (1,))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if cuda else MixedPrecisionPolicy()
    for block in model.blocks:
        if cuda:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return Plain(fully_shard(model, mesh=mesh, mp_policy=policy), run, case, device, autocast=False)


def nanogpt(run: Course, case: Case, device: torch.device) -> Plain:
    """The plain loop on a model that is compiled as a whole, under autocast; on a CPU in float32, and not compiled."""
    model, cuda = decoder(run, case, device), device.type == "cuda"
    return Plain(torch.compile(model) if cuda else model, run, case, device, autocast=cuda)


def measured(case: Case, plan: Plan, root: Path, advance: Callable[[str], None]) -> Iterator[Row]:
    """The rows of a case."""
    steps = plan.warm + plan.steps * plan.blocks + 1  # the last one, after which the run would measure, is not trained
    tokens = steps * case.batch_tokens
    keys = {"model": case.model, "sequence": case.sequence, "batch_tokens": case.batch_tokens, "tokens": tokens}
    keys |= {"micro_batch_tokens": case.micro_batch_tokens, "valid_every": tokens, "valid_tokens": case.sequence}
    keys |= {"log_every": steps, "launch": {"device": plan.device, "workers": 1, "by": "torchrun"}}
    run = course(root, case.vocabulary, plan.each, **keys)
    engine.join(run)  # once: the second case finds the group
    device = torch.device(plan.device)
    ours = Ours(run, device)
    contenders = {"ours": ours, "fsdp2": fsdp2(run, case, device), "nanogpt": nanogpt(run, case, device)}
    waited: list[float] = []

    def rate(name: str) -> float:
        took = timed(contenders[name], plan.steps, device)
        if name == "ours":
            waited.append(ours.waited / took)
        return plan.steps * case.batch_tokens / took

    for contender in contenders.values():
        timed(contender, plan.warm, device)
    rates = alternated({name: partial(rate, name) for name in contenders}, plan.blocks, advance)
    ours.pilot.stream.close()
    yield from rows(case, plan, run, {name: statistics.median(found) for name, found in rates.items()}, waited)


def rows(case: Case, plan: Plan, run: Course, medians: dict[str, float], waited: Sequence[float]) -> Iterator[Row]:
    """What the medians say: against each peer, of the GPU, and of the time for rows."""
    cuda = plan.device == "cuda"
    peak = peak_flops(torch.cuda.get_device_name(), str(run.full.precision)) if cuda else None
    used = {name: mfu(rate, run.flops_per_token, peak, 1) for name, rate in medians.items()}
    about = f"{case.model}, {case.batch_tokens:,} tokens a step in rows of {case.sequence}"
    for peer in ("fsdp2", "nanogpt"):
        yield row(
            f"{about}: tokens per second, against {peer}",
            medians["ours"],
            medians[peer],
            **({"mfu": used} if peak else {}),
        )
    if used["ours"] is not None:
        yield row(f"{about}: MFU", used["ours"], 1.0, plan.reach if case is plan.cases[-1] else None)
    share = statistics.median(waited)
    yield row(
        f"{about}: part of a step that does not wait for rows",
        1 - share,
        1.0,
        1 - WAITING if cuda else None,
        waits=share,
    )


def timed(contender: Ours | Plain, steps: int, device: torch.device) -> float:
    """Seconds of so many steps, until the device has finished them."""
    began = time.perf_counter()
    contender.run(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, and end with the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="1m models on a CPU, to see that it works")
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        sys.exit("There is no GPU here, and this measures one. --tiny runs the same code on a CPU.")
    plan, found = TINY if asked.tiny else FULL, list[Row]()
    torch.set_float32_matmul_precision("high")
    with Bars().task("full training", 3 * plan.blocks * len(plan.cases)) as advance:
        for case in plan.cases:
            with tempfile.TemporaryDirectory() as folder:
                found += list(measured(case, plan, Path(folder), lambda _: advance(1)))
            forget(plan.device)
    engine.leave()
    for each in found:
        show(each)
    if asked.json:
        machine = torch.cuda.get_device_name() if plan.device == "cuda" else "cpu"
        print(json.dumps({"rows": found, "machine": machine, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
