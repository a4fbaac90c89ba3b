"""Stacks of proxies on a GPU: against one proxy at a time, and against the peak of the device.

Part of `proxy_throughput.py`. Rates are tokens per second by the clock, of stacks in training: gathering and drawing rows
count, compiling, initialisation and uploading the tokens do not, for the peer neither. Runs with torch and numpy alone.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.bare_loop import Loop, read
from benchmarks.proxy_cases import Advance, Case, Part, Row, alternated, corpus, forget, good, row
from mixopt.domains import Manifest
from mixopt.runs import RunRecord
from proxies.program import can_compile
from proxies.sizes import SIZES, Shape, shape
from proxies.train import Trainer

PEAKS = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12}  # dense bfloat16, by the makers' sheets
STACK, JOB, PEAK = 8.0, 20.0, 0.35  # what must be reached
STACK_TOKENS = 1 << 18  # tokens of a step that a search fills a GPU with
WARM = 8  # steps before anything is timed

# RegMix's proxy (arXiv:2407.01492; tinyllama_1M in github.com/sail-sg/regmix), with short rows and with its own ones.
BODIES = {"regmix body": Shape(256, 2, 8, 512, 256), "regmix job": Shape(256, 2, 8, 512, 2048)}


@dataclass(frozen=True)
class Plan:
    """What is measured. A case's steps are the most that one timed training has; it lasts about `seconds`.

    `bodies` are trained in stacks of `members` and one at a time, `job` only so; `large` in stacks of `counts`, or what
    fits of them, `ladder` in stacks as a search makes them, of `most` at most. `sizes` are shapes beside those of the ladder.
    """

    bodies: tuple[Case, ...]
    members: int
    job: Case
    large: tuple[Case, ...]
    counts: tuple[int, ...]
    ladder: tuple[Case, ...]
    most: int
    seconds: float
    rounds: int
    sizes: Mapping[str, Shape]
    float32: str
    compiled: bool


FULL = Plan(
    bodies=(Case("regmix body", 4096, 16, 1000), Case("regmix body", 4096, 40, 1000)),
    members=64,
    job=Case("regmix job", 50432, 16, 200),
    large=(Case("15m", 4096, 32, 200), Case("60m", 4096, 16, 200)),
    counts=(1, 4, 16),
    ladder=(
        Case("100k", 4096, 18, 1000),  # rows a step of Step Law, for 20 tokens a parameter or 100
        Case("1m", 4096, 33, 1000),
        Case("4m", 4096, 74, 500),
        Case("15m", 4096, 197, 100),
        Case("30m", 4096, 146, 100),
    ),
    most=256,
    seconds=2.0,
    rounds=3,
    sizes=BODIES,
    float32="high",  # products of float32 on tensor cores, for both
    compiled=True,
)
TINY = Case("10k", 64, 2, 8)
SMOKE = Plan((TINY,), 2, TINY, (TINY,), (1, 2), (TINY,), 2, 0.0, 1, {}, "highest", False)


class Stack:
    """A stack of a case, warmed up: so many members as fit, of those asked for."""

    def __init__(self, case: Case, count: int, manifest: Manifest, precision: str, plan: Plan, device: str) -> None:
        self.case, self.manifest, self.precision = case, manifest, precision
        self.trainer = Trainer(manifest.root, device, compiled=plan.compiled and can_compile(device))
        records = self._train(WARM, count)
        self.count = int(records[0].machine["stack"].split()[0])
        seconds = sum(record.cost.seconds for record in self._train(WARM, self.count)) / WARM
        self.steps = max(WARM, min(case.steps, int(plan.seconds / seconds)))

    def rate(self) -> float:
        """Tokens per second."""
        seconds = sum(record.cost.seconds for record in self._train(self.steps, self.count))
        return self.count * self.steps * self.case.step / seconds

    def _train(self, steps: int, count: int) -> Sequence[RunRecord]:
        specs = replace(self.case, steps=steps).specs(self.manifest, count, precision=self.precision)
        return good(list(self.trainer(specs)))


def alone(case: Case, manifest: Manifest, precision: str, plan: Plan, device: str) -> Callable[[], float]:
    """Tokens per second of the bare loop, warmed up."""
    job = case.job(device=device, autocast=precision == "bfloat16")
    loop = Loop(job, read(manifest.root, device), steps=2 * WARM + plan.rounds * case.steps, seed=0)
    seconds = [_seconds(loop, WARM, device) for _ in range(2)][1] / WARM
    steps = max(WARM, min(case.steps, int(plan.seconds / seconds)))
    return lambda: steps * case.step / _seconds(loop, steps, device)


def _seconds(loop: Loop, steps: int, device: str) -> float:
    began = time.perf_counter()
    loop.run(steps)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def against_alone(plan: Plan, device: str, advance: Advance) -> Iterator[Row]:
    """Stacks against the bare loop: the same proxies, and then RegMix's own job."""
    SIZES.update(plan.sizes)
    torch.set_float32_matmul_precision(plan.float32)
    best = 0.0
    for case, precision in [(plan.bodies[0], "float32"), *((case, "bfloat16") for case in plan.bodies)]:
        forget(device)
        with tempfile.TemporaryDirectory() as folder:
            manifest = corpus(Path(folder), case.vocabulary)
            stack = Stack(case, plan.members, manifest, precision, plan, device)
            one = alone(case, manifest, precision, plan, device)
            rates = alternated({"stack": stack.rate, "bare": one}, plan.rounds, advance)
        value, peer = (statistics.median(rates[name]) for name in ("stack", "bare"))
        best = max(best, value)
        reach = STACK if (case, precision) == (plan.bodies[0], "bfloat16") else None
        what = f"{case}, {precision}: stack of {stack.count} against the bare loop, tokens per second"
        yield row(what, value, peer, reach, range=rates, **memory(device))
    forget(device)
    with tempfile.TemporaryDirectory() as folder:
        one = alone(plan.job, corpus(Path(folder), plan.job.vocabulary), "bfloat16", plan, device)
        peer = statistics.median(alternated({"bare": one}, plan.rounds, advance)["bare"])
    what = f"{plan.bodies[0]}: stacks against the bare loop on {plan.job}, proxies of 1e9 tokens per hour"
    yield row(what, best * 3600 / 1e9, peer * 3600 / 1e9, JOB, **memory(device))


def against_peak(plan: Plan, device: str, advance: Advance) -> Iterator[Row]:
    """The part of the device's bfloat16 peak that stacks of several sizes reach, the best of them."""
    multiplied = multiply_rate(device)
    name, peak = known_peak(device)
    peak = peak or multiplied
    for case in plan.large:
        per_token, rates, taken = shape(case.size).flops(case.vocabulary), {}, {}
        with tempfile.TemporaryDirectory() as folder:
            manifest = corpus(Path(folder), case.vocabulary)
            for count in plan.counts:
                forget(device)
                advance("stack")
                stack = Stack(case, count, manifest, "bfloat16", plan, device)
                rates[stack.count] = statistics.median(stack.rate() for _ in range(plan.rounds))
                taken[stack.count] = memory(device)
        best = max(rates, key=lambda count: rates[count])
        note = {"tokens_per_second": rates, "memory": taken, "peak_of": name, "large_product_tflops": multiplied / 1e12}
        what = f"{case}, bfloat16: stack of {best}, TFLOP/s against the device's peak"
        yield row(what, rates[best] * per_token / 1e12, peak / 1e12, PEAK, **note)


def ladder(plan: Plan, device: str, advance: Advance) -> Iterator[Row]:
    """Tokens per second of stacks as a search makes them."""
    for case in plan.ladder:
        forget(device)
        advance("ladder")
        count = min(plan.most, max(1, STACK_TOKENS // case.step))
        with tempfile.TemporaryDirectory() as folder:
            stack = Stack(case, count, corpus(Path(folder), case.vocabulary), "bfloat16", plan, device)
            rate = statistics.median(stack.rate() for _ in range(plan.rounds))
        tflops = rate * shape(case.size).flops(case.vocabulary) / 1e12
        what = f"{case}, bfloat16: stack of {stack.count}, tokens per second"
        yield row(what, rate, None, tflops=tflops, **memory(device))


def memory(device: str) -> dict[str, float]:
    """The most memory that was held since the case began."""
    return {"peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if device == "cuda" else {}


def known_peak(device: str) -> tuple[str, float | None]:
    """The device's name, and its peak in FLOP/s; none for one that is not listed or a part of one."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    if "MIG" in name:
        return name, None
    return name, next((peak for part, peak in PEAKS.items() if part in name), None)


def multiply_rate(device: str) -> float:
    """FLOP per second of a large bfloat16 matrix product."""
    size, times = (8192, 50) if device == "cuda" else (256, 5)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for count in (times, times):
        began = time.perf_counter()
        for _ in range(count):
            a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2 * size**3 * times / seconds


def gpu_parts(plan: Plan, device: str) -> dict[str, Part]:
    """What is measured on a GPU."""
    rounds = 2 * (1 + len(plan.bodies)) + 1  # the first case in two precisions
    return {
        "alone": (rounds * plan.rounds, partial(against_alone, plan, device)),
        "peak": (len(plan.counts) * len(plan.large), partial(against_peak, plan, device)),
        "ladder": (len(plan.ladder), partial(ladder, plan, device)),
    }
