"""Training tokens per second of the trainer against a bare PyTorch loop, and of a swarm against a process a proxy.

    python benchmarks/proxy_throughput.py [--device cpu|cuda] [--json] [--smoke] [--only PART ...]

The peer is `bare_loop.py`: same shape, batch and precision, written with care for one proxy at a time. Ours is the
`Trainer` as a search calls it: sampler, memory-mapped tokens, records. Both train proxies from their initialisation to a
held-out loss on one row of each of four domains, and all of that counts. Tokens are generated. On a CPU rates are per
CPU second of one thread, and the swarm is timed by the clock. On a GPU `proxy_gpu.py` needs nothing installed but torch
and numpy. Contenders alternate; numbers are medians. Rows without a reach inform.

`--smoke` runs both parts on the device in tiny sizes, to see that they work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a machine with a GPU need not have mixopt installed

import numpy as np
import torch

from benchmarks import proxy_gpu
from benchmarks.bare_loop import Loop, read
from benchmarks.proxy_cases import Advance, Case, Part, Row, alternated, corpus, forget, good, row, show
from mixopt.domains import Manifest
from pipelines.local_executor import ONE_THREAD, LocalExecutor
from proxies.train import Trainer

EAGER, COMPILED, DIFFERENCE, SWARM = 0.95, 1.2, 5e-6, 3.0  # what must be reached


@dataclass(frozen=True)
class Scale:
    """What is measured: trainings of one proxy and how, a stack of `members`, swarms of `proxies`."""

    trainings: Mapping[Case, tuple[str, ...]]
    stack: Case
    members: int
    swarms: tuple[Case, ...]
    proxies: int
    rounds: int


FULL = Scale(
    trainings={
        Case("100k", 512, 4, 96): ("bare", "ours", "ours compiled", "bare compiled"),
        Case("100k", 512, 16, 24): ("bare", "ours"),
        Case("100k", 4096, 4, 48): ("bare", "ours", "ours compiled", "bare compiled"),
        Case("1m", 4096, 4, 10): ("bare", "ours"),
        Case("4m", 4096, 4, 6): ("bare", "ours", "ours bfloat16"),
    },
    stack=Case("100k", 512, 4, 20),
    members=8,
    swarms=(Case("100k", 512, 4, 80), Case("100k", 512, 4, 235)),  # the second as long as the quickstart's proxies
    proxies=64,
    rounds=7,
)
TINY = Case("10k", 64, 2, 4)
SMOKE = Scale({TINY: ("bare", "ours", "ours bfloat16")}, TINY, 2, (TINY,), 2, 1)


def cpu_rate(train: Callable[[], object], tokens: int) -> float:
    """Tokens per CPU second of this process."""
    began = time.process_time()
    train()
    return tokens / (time.process_time() - began)


def contender(kind: str, case: Case, manifest: Manifest) -> Callable[[], float]:
    """A training to be timed: "ours" or "bare", then nothing, "compiled" or "bfloat16"."""
    who, _, how = kind.partition(" ")
    if who == "ours":
        trainer = Trainer(manifest.root, compiled=how == "compiled")
        specs = case.specs(manifest, 1, precision="bfloat16" if how == "bfloat16" else "float32")
        return lambda: cpu_rate(lambda: good(list(trainer(specs))), case.tokens)
    job, tokens_DN = case.job(compiled=how == "compiled"), read(manifest.root, "cpu")

    def train() -> None:
        loop = Loop(job, tokens_DN, case.steps, seed=0)
        loop.run(case.steps)
        loop.held_out()

    return lambda: cpu_rate(train, case.tokens)


def trained(scale: Scale, advance: Advance) -> Iterator[Row]:
    """One proxy at a time on one thread: eager, compiled, in bfloat16."""
    torch.set_num_threads(1)
    for case, kinds in scale.trainings.items():
        forget("cpu")
        first = {}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # compiling is timed: nothing is left from before
            manifest = corpus(Path(folder), case.vocabulary)
            runs = {kind: contender(kind, case, manifest) for kind in kinds}
            for kind, measure in runs.items():
                advance(kind)
                began = time.perf_counter()
                measure()
                first[kind] = time.perf_counter() - began
            rates = alternated(runs, scale.rounds, advance)
        yield from ratios(case, rates, first)


def ratios(case: Case, rates: Mapping[str, Sequence[float]], first: Mapping[str, float]) -> Iterator[Row]:
    """Rows of a case, from the rates of each kind and the seconds of its first training."""
    median = {kind: statistics.median(found) for kind, found in rates.items()}
    spread = {kind: [round(min(found)), round(max(found))] for kind, found in rates.items()}
    pairs = [
        ("ours", "bare", EAGER),
        ("ours compiled", "bare", COMPILED),
        ("ours compiled", "bare compiled", None),
        ("ours bfloat16", "ours", None),
    ]
    for value, peer, reach in pairs:
        if value in median:
            what = f"{case}: {value} against {peer}, tokens per CPU second"
            yield row(what, median[value], median[peer], reach, range={kind: spread[kind] for kind in (value, peer)})
    for kind, rate in median.items():
        if "compiled" in kind:
            yield row(f"{case}: {kind}, seconds of compiling", first[kind] - case.tokens / rate, None)


def stacked(scale: Scale, advance: Advance) -> Iterator[Row]:
    """Held-out losses after every step of proxies trained in a stack and alone."""
    torch.set_num_threads(1)
    advance("stack")
    case, losses = scale.stack, []
    with tempfile.TemporaryDirectory() as folder:
        manifest = corpus(Path(folder), case.vocabulary)
        specs = case.specs(manifest, scale.members, checkpoints=case.steps)
        for slots in (scale.members, 1):
            records = {record.spec.id: record for record in good(list(Trainer(manifest.root, slots=slots)(specs)))}
            measured = [metrics for spec in specs for _, metrics in records[spec.id].trajectory]
            losses.append(np.array([[metrics[f"loss/{name}"] for name in manifest.names] for metrics in measured]))
    most = float(np.abs(losses[0] - losses[1]).max())
    what = f"{case}: stack of {scale.members} against alone, {case.steps} steps, {DIFFERENCE} / largest difference"
    yield row(what, DIFFERENCE, max(most, 1e-12), 1.0, losses=losses[0].size, largest_difference=most)


def train_swarm(root: str, case: Mapping[str, Any], count: int) -> None:
    """A swarm on two cores, in a process of its own, which a search would not compile either: it is too short."""
    manifest = Manifest.load(Path(root))
    records = LocalExecutor(Trainer(manifest.root), workers=2).run(Case(**case).specs(manifest, count))
    if len(good(list(records))) != count:
        raise RuntimeError("runs are missing")


def swarm(case: Case, count: int, reach: float | None, advance: Advance) -> Row:
    """A swarm, everything included, against a process a proxy, two processes at a time.

    The peer's processes do not depend on each other: a quarter of them run, half before ours and half after. What they
    take to start is more than `import torch`, which is told: `torch.optim` loads what compiles graphs.
    """
    part = max(1, count // 8)
    with tempfile.TemporaryDirectory() as folder:
        corpus(Path(folder), case.vocabulary)
        asked = {"tokens": folder, "job": asdict(case.job()), "steps": case.steps}
        loop = [sys.executable, str(ROOT / "benchmarks" / "bare_loop.py")]
        bare = [[*loop, json.dumps(asked | {"seed": seed})] for seed in range(2 * part)]
        code = f"from benchmarks.proxy_throughput import train_swarm as t; t({folder!r}, {asdict(case)}, {count})"
        spent = []
        for commands in (bare[:part], [[sys.executable, "-c", code]], bare[part:]):
            advance("swarm")
            spent.append(timed(commands))
    ours, peer = spent[1], [(before + after) * count / (2 * part) for before, after in zip(*spent[::2], strict=True)]
    importing = timed([[sys.executable, "-c", "import torch"]])[1]
    what = f"{case}: {count} proxies of {case.tokens} tokens on 2 cores, everything included, proxies a minute"
    note = {"ours": [round(x, 1) for x in ours], "bare": [round(x, 1) for x in peer]}
    rates = (60 * count / ours[0], 60 * count / peer[0])
    return row(what, *rates, reach, wall_and_cpu_seconds=note, cpu_seconds_of_import_torch=round(importing, 2))


def swarms(scale: Scale, advance: Advance) -> Iterator[Row]:
    """Swarms of two lengths; the reach is for the short one."""
    found = []
    for case in scale.swarms:
        found.append(swarm(case, scale.proxies, None if found else SWARM, advance))
        yield found[-1]
    if len(found) > 1:
        yield even([case.tokens for case in scale.swarms], found)


def even(tokens: Sequence[int], found: Sequence[Row]) -> Row:
    """The length up to which a swarm is as much faster as it should be: seconds a proxy are start-up and tokens x rate."""
    (start, per_token), (peer_start, peer_per_token) = (
        np.polynomial.Polynomial.fit(tokens, [60 / item[name] for item in found], 1).convert().coef
        for name in ("value", "peer")
    )
    length = (peer_start - SWARM * start) / (SWARM * per_token - peer_per_token)
    pairs = {"ours": (start, per_token), "bare": (peer_start, peer_per_token)}
    note = {who: [round(float(first), 2), round(1e5 * float(each), 2)] for who, (first, each) in pairs.items()}
    what = f"tokens of a proxy up to which a swarm is {SWARM:g} times as fast"
    return row(what, float(length), None, seconds_of_start_up_and_of_100k_tokens=note)


def timed(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Wall and CPU seconds of these processes, two at a time and of one thread each.

    Raises RuntimeError for one that fails.
    """
    environment, waiting = os.environ | ONE_THREAD, list(commands)
    running: list[subprocess.Popen[bytes]] = []
    spent, began = _children(), time.perf_counter()
    while waiting or running:
        while waiting and len(running) < 2:
            running.append(subprocess.Popen(waiting.pop(0), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL))
        time.sleep(0.005)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            if process.returncode:
                raise RuntimeError(f"a process ended with {process.returncode}")
    return time.perf_counter() - began, _children() - spent


def _children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_parts(scale: Scale) -> dict[str, Part]:
    """What is measured on a CPU."""
    trainings = sum(len(kinds) * (1 + scale.rounds) for kinds in scale.trainings.values())
    return {
        "one": (trainings, partial(trained, scale)),
        "stack": (1, partial(stacked, scale)),
        "swarm": (3 * len(scale.swarms), partial(swarms, scale)),
    }


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """Tells on stderr how far it is: in a bar where rich is installed, in lines where not."""
    try:
        from pipelines.progress import Bars
    except ImportError:
        done = iter(range(1, total + 1))
        yield lambda what: print(f"{next(done)}/{total} {what}", file=sys.stderr, flush=True)
        return
    with Bars().task("proxy throughput", total) as advance:
        yield lambda _: advance(1)


def main() -> None:
    """Measure, print, and end with the rows as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    parser.add_argument("--smoke", action="store_true", help="both parts, in tiny sizes")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="one stack swarm on a CPU, alone peak ladder on a GPU"
    )
    asked = parser.parse_args()
    parts: dict[str, Part] = {}
    if asked.smoke or asked.device == "cpu":
        parts |= cpu_parts(SMOKE if asked.smoke else FULL)
    if asked.smoke or asked.device == "cuda":
        parts |= proxy_gpu.gpu_parts(proxy_gpu.SMOKE if asked.smoke else proxy_gpu.FULL, asked.device)
    chosen = [parts[name] for name in asked.only or parts]
    rows: list[Row] = []
    with progress(sum(count for count, _ in chosen)) as advance:
        for _, measure in chosen:
            for found in measure(advance):
                rows.append(found)
                show(found)
    if asked.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
