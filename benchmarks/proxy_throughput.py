"""Training tokens per second of the trainer against a bare PyTorch loop, and of a whole swarm against a process a proxy.

    python benchmarks/proxy_throughput.py [--device cpu|cuda] [--json] [--smoke]

The peer is `bare_loop.py`: same shape, batch and precision, written with care for one proxy at a time. Ours is the
`Trainer` as a search calls it: sampler, memory-mapped tokens, records. Both train proxies from their initialisation to a
held-out loss on one row of each of four domains, and all of that is counted. Tokens are generated. On a CPU rates are
per CPU second of one thread and the swarm is timed by the clock; on a GPU (`gpu_throughput.py`, which needs nothing but
torch and numpy installed) by the clock, without what a proxy pays once. Contenders alternate; the numbers are medians.
Rows without a reach inform.

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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # a machine with a GPU need not have mixopt installed

import numpy as np
import torch

from benchmarks.bare_loop import Job, Loop, read
from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.mixture import Mixture
from mixopt.policy import Fixed
from mixopt.runs import Proxy, RunRecord, RunSpec
from pipelines.local_executor import ONE_THREAD, LocalExecutor
from proxies.sizes import shape
from proxies.train import Trainer

DOMAINS, TOKENS = 4, 300_000
ROUNDS = 5
QUICKSTART = 120_000  # tokens of a proxy in pipelines/jobs/quickstart.yaml
Row = dict[str, Any]
Advance = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """A proxy: its size, vocabulary, rows a step, and the tokens of a timed training."""

    size: str
    vocabulary: int
    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.size}, vocabulary {self.vocabulary}, {self.step} tokens a step"

    @property
    def step(self) -> int:
        """Tokens of a step."""
        return self.batch * shape(self.size).sequence

    @property
    def steps(self) -> int:
        """Steps of a training."""
        return -(-self.tokens // self.step)

    def job(self, **how: Any) -> Job:
        """The same for the bare loop."""
        return Job(**asdict(shape(self.size)), vocabulary=self.vocabulary, batch=self.batch, **how)

    def specs(self, manifest: Manifest, count: int, checkpoints: int = 1, precision: str = "float32") -> list[RunSpec]:
        """Runs of one stack that differ in mixture, seed and learning rate."""
        form, names = shape(self.size), manifest.names
        supply = {domain.name: domain.train.tokens for domain in manifest.domains}
        drawn = np.random.default_rng(0).dirichlet(np.ones(len(names)), count)
        specs = []
        for seed, w_D in enumerate(drawn):
            proxy = Proxy(
                size=self.size,
                tokens=self.tokens,
                sequence=form.sequence,
                batch=self.batch,
                learning_rate=0.003 * (1 + seed / count),
                checkpoints=checkpoints,
                eval_tokens=form.sequence,
                supply=supply,
                data=manifest.fingerprint,
                precision=precision,
            )
            specs.append(RunSpec(Fixed(Mixture.from_array(names, w_D)), proxy, seed))
        return specs


@dataclass(frozen=True)
class Scale:
    """What is measured: everything, or next to nothing."""

    cases: tuple[Case, ...]
    compiled: tuple[Case, ...]
    wide: Case
    stack: Case
    members: int
    proxies: int
    swarms: tuple[Case, ...]
    rounds: int


FULL = Scale(
    cases=(
        Case("100k", 512, 4, 65_536),
        Case("100k", 512, 16, 65_536),
        Case("100k", 4096, 4, 32_768),
        Case("1m", 4096, 4, 16_384),
        Case("4m", 4096, 4, 8192),
    ),
    compiled=(Case("100k", 512, 4, 65_536), Case("100k", 4096, 4, 32_768)),
    wide=Case("4m", 4096, 4, 8192),
    stack=Case("100k", 512, 4, 20 * 512),
    members=8,
    proxies=64,
    swarms=(Case("100k", 512, 4, 40_960), Case("100k", 512, 4, QUICKSTART)),
    rounds=ROUNDS,
)
TINY = Case("10k", 64, 2, 512)
SMOKE = Scale((TINY,), (), TINY, TINY, 2, 2, (TINY,), 1)


def corpus(root: Path, vocabulary: int, tokens: int = TOKENS) -> Manifest:
    """Generated tokens, one file a domain; the held-out part is the same file."""
    rng = np.random.default_rng(0)
    domains = []
    for d in range(DOMAINS):
        path = f"{d:02}.u16"
        rng.integers(0, vocabulary, tokens, dtype="<u2").tofile(root / path)
        split = Split(tokens, 4 * tokens, 1, (Shard(path, tokens),))
        domains.append(Domain(f"d{d:02}", tokens, split, split, str(d)))
    manifest = Manifest(tuple(domains), Tokenizer("bytes", vocabulary, 0, f"generated {vocabulary}"), root)
    manifest.save()
    return manifest


def row(what: str, value: float, peer: float | None, reach: float | None = None, **note: Any) -> Row:
    """A row in which more is better."""
    ratio = value / peer if peer else None
    ok = None if reach is None or ratio is None else ratio >= reach
    return {"what": what, "value": value, "peer": peer, "ratio": ratio, "reach": reach, "ok": ok, "note": note}


def good(records: Sequence[RunRecord]) -> Sequence[RunRecord]:
    """These records; a run that failed must not count as a fast one."""
    for record in records:
        if record.error:
            raise RuntimeError(record.error)
    return records


def alternated(contenders: Mapping[str, Callable[[], float]], rounds: int, advance: Advance) -> dict[str, list[float]]:
    """Rates of the contenders in turn, so that a slower hour of the machine meets all of them."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            advance(name)
            rates[name].append(measure())
    return rates


def cpu_rate(train: Callable[[], object], tokens: int) -> float:
    """Tokens per CPU second of this process."""
    began = time.process_time()
    train()
    return tokens / (time.process_time() - began)


def contenders(case: Case, manifest: Manifest, kinds: Sequence[str]) -> dict[str, Callable[[], float]]:
    """Trainings to be timed: "ours" or "bare", then "compiled" or "bfloat16"."""

    def ours(how: str) -> Callable[[], float]:
        precision = "bfloat16" if how == "bfloat16" else "float32"
        train, specs = Trainer(manifest.root, compiled=how == "compiled"), case.specs(manifest, 1, precision=precision)
        return lambda: cpu_rate(lambda: good(list(train(specs))), case.steps * case.step)

    def bare(how: str) -> Callable[[], float]:
        job, tokens_DN = case.job(compiled=how == "compiled"), read(manifest.root, "cpu")

        def train() -> None:
            loop = Loop(job, tokens_DN, case.steps, seed=0)
            loop.run(case.steps)
            loop.held_out()

        return lambda: cpu_rate(train, case.steps * case.step)

    return {kind: (ours if kind.startswith("ours") else bare)(kind.partition(" ")[2]) for kind in kinds}


def single(scale: Scale, advance: Advance) -> Iterator[Row]:
    """One proxy at a time on one thread: eager, compiled, in bfloat16."""
    for case in scale.cases:
        kinds = ["bare", "ours"]
        kinds += ["ours compiled", "bare compiled"] if case in scale.compiled else []
        kinds += ["ours bfloat16"] if case == scale.wide else []
        with tempfile.TemporaryDirectory() as folder:
            runs = contenders(case, corpus(Path(folder), case.vocabulary), kinds)
            first = {}
            for kind, measure in runs.items():
                advance(f"{case}: {kind}, first")
                began = time.perf_counter()
                measure()
                first[kind] = time.perf_counter() - began
            rates = alternated(runs, scale.rounds, lambda kind, case=case: advance(f"{case}: {kind}"))
        median = {kind: statistics.median(found) for kind, found in rates.items()}
        unit = "tokens per CPU second"
        spread = {kind: [round(min(found)), round(max(found))] for kind, found in rates.items()}
        yield row(f"{case}: eager against bare loop, {unit}", median["ours"], median["bare"], 0.95, range=spread)
        if "ours compiled" in runs:
            what = f"{case}: compiled against bare loop, {unit}"
            yield row(what, median["ours compiled"], median["bare"], 1.2)
            what = f"{case}: compiled against bare loop compiled, {unit}"
            yield row(what, median["ours compiled"], median["bare compiled"])
            for kind in ("ours", "bare"):
                seconds = first[f"{kind} compiled"] - case.tokens / median[f"{kind} compiled"]
                yield row(f"{case}: {kind}, seconds of compiling, nothing cached", seconds, None)
        if "ours bfloat16" in runs:
            yield row(f"{case}: bfloat16 against float32, {unit}", median["ours bfloat16"], median["ours"])


def stacked(scale: Scale, advance: Advance) -> Row:
    """Held-out losses after each of 20 steps of proxies trained in a stack and alone."""
    case, steps = scale.stack, scale.stack.steps
    advance(f"{case}: stack against alone")
    losses = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = corpus(Path(folder), case.vocabulary)
        specs = case.specs(manifest, scale.members, checkpoints=steps)
        for slots in (scale.members, 1):
            records = {record.spec.id: record for record in Trainer(manifest.root, slots=slots)(specs)}
            parts = [metrics for spec in specs for _, metrics in good([records[spec.id]])[0].trajectory]
            losses.append(np.array([[metrics[f"loss/{name}"] for name in manifest.names] for metrics in parts]))
    most = float(np.abs(losses[0] - losses[1]).max())
    what = f"{case}: stack of {scale.members} against alone, {steps} steps, 5e-6 over the largest difference of losses"
    return row(what, 5e-6, max(most, 1e-12), 1.0, difference=most, losses=losses[0].size)


def swarm(root: str, case: Mapping[str, Any], count: int) -> None:
    """Train a swarm on both cores, in a process of its own; as a search does, without compiling so short a one."""
    manifest = Manifest.load(Path(root))
    specs = Case(**case).specs(manifest, count)
    if len(good(list(LocalExecutor(Trainer(manifest.root), workers=2).run(specs)))) != count:
        raise RuntimeError("runs are missing")


def swarms(scale: Scale, case: Case, advance: Advance) -> Iterator[Row]:
    """A whole swarm on two cores, all that it takes included, against a process a proxy, two at a time.

    Half of the peer's processes run, a half of them before ours and a half after: they do not depend on each other.
    """
    count, peers = scale.proxies, max(2, scale.proxies // 4)
    with tempfile.TemporaryDirectory() as folder:
        manifest = corpus(Path(folder), case.vocabulary)
        asked = {"tokens": folder, "job": asdict(case.job()), "steps": case.steps}
        bare = [
            [sys.executable, "benchmarks/bare_loop.py", json.dumps(asked | {"seed": seed})] for seed in range(2 * peers)
        ]
        ours = f"from benchmarks.proxy_throughput import swarm; swarm({str(manifest.root)!r}, {asdict(case)}, {count})"
        advance(f"swarm of {case.tokens} tokens a proxy: bare")
        before = timed(bare[:peers])
        advance(f"swarm of {case.tokens} tokens a proxy: ours")
        mine = timed([[sys.executable, "-c", ours]])
        advance(f"swarm of {case.tokens} tokens a proxy: bare again")
        after = timed(bare[peers:])
    times = count / (2 * peers)
    wall, cpu = ((before[i] + after[i]) * times for i in range(2))
    rates = [count * 60 / wall for wall in (mine[0], wall)]
    what = f"{case}: {count} proxies of {case.tokens} tokens on 2 cores, proxies a minute, everything included"
    seconds = {"ours": [round(x, 1) for x in mine], "bare": [round(x, 1) for x in (wall, cpu)]}
    yield row(what, *rates, 3.0 if case == scale.swarms[0] else None, wall_and_cpu_seconds=seconds)


def timed(commands: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Wall and CPU seconds of these processes, two at a time and of one thread each."""
    environment, waiting, running = os.environ | ONE_THREAD, list(commands), []
    spent, began = children(), time.perf_counter()
    while waiting or running:
        while waiting and len(running) < 2:
            running.append(
                subprocess.Popen(waiting.pop(0), cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)  # noqa: S603
            )
        time.sleep(0.005)
        running = [process for process in running if process.poll() is None or fail(process.returncode)]
    return time.perf_counter() - began, children() - spent


def fail(code: int) -> bool:
    """Raise for a process that did not do its work."""
    if code:
        raise RuntimeError(f"a process ended with {code}")
    return False


def children() -> float:
    """CPU seconds of the processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_rows(scale: Scale, advance: Advance) -> Iterator[Row]:
    """All that is measured on a CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder  # compiling is timed: nothing may be left from before
        yield from single(scale, advance)
        yield stacked(scale, advance)
        for case in scale.swarms:
            yield from swarms(scale, case, advance)
    torch.set_num_threads(threads)


@contextmanager
def progress() -> Iterator[Advance]:
    """Tells on stderr what is being measured: in a bar where rich is installed, in lines where not."""
    try:
        from pipelines.progress import Bars
    except ImportError:
        yield lambda what: print(what, file=sys.stderr, flush=True)
        return
    bars = Bars()
    with bars.task("proxy throughput", None, "measurements") as advance:

        def tell(what: str) -> None:
            advance(1)

        yield tell


def main() -> None:
    """Measure, print, and leave with the rows as JSON."""
    from benchmarks import gpu_throughput

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    parser.add_argument("--smoke", action="store_true", help="both parts, in tiny sizes")
    asked = parser.parse_args()
    rows = []
    with progress() as advance:
        parts: list[Iterator[Row]] = []
        if asked.smoke:
            parts = [cpu_rows(SMOKE, advance), gpu_throughput.rows(gpu_throughput.SMOKE, asked.device, advance)]
        elif asked.device == "cpu":
            parts = [cpu_rows(FULL, advance)]
        else:
            parts = [gpu_throughput.rows(gpu_throughput.FULL, asked.device, advance)]
        for part in parts:
            for found in part:
                rows.append(found)
                tell(found)
    if asked.json:
        print(json.dumps({"rows": rows}))


def tell(found: Row) -> None:
    """One row for people."""
    against = "" if found["peer"] is None else f" against {found['peer']:.4g}, {found['ratio']:.3g}x"
    wanted = "" if found["reach"] is None else f" (reach {found['reach']:g}: {'yes' if found['ok'] else 'NO'})"
    note = f"  {found['note']}" if found["note"] else ""
    print(f"{found['what']}: {found['value']:.4g}{against}{wanted}{note}", flush=True)


if __name__ == "__main__":
    main()
