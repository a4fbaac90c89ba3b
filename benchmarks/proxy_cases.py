"""What the throughput benchmarks share: proxies to train, generated tokens, rounds of contenders, rows of results."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bare_loop import Job
from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.mixture import Mixture
from mixopt.policy import Fixed
from mixopt.runs import Proxy, RunRecord, RunSpec
from proxies.sizes import shape

DOMAINS, TOKENS = 4, 300_000
Row = dict[str, Any]
Advance = Callable[[str], None]
Part = tuple[int, Callable[[Advance], Iterator[Row]]]  # how often progress is told, and what measures


@dataclass(frozen=True)
class Case:
    """A proxy: its size, vocabulary, rows a step, and steps."""

    size: str
    vocabulary: int
    batch: int
    steps: int

    def __str__(self) -> str:
        return f"{self.size}, vocabulary {self.vocabulary}, {self.step} tokens a step"

    @property
    def step(self) -> int:
        """Tokens of a step."""
        return self.batch * shape(self.size).sequence

    @property
    def tokens(self) -> int:
        """Tokens of a training."""
        return self.steps * self.step

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


def corpus(root: Path, vocabulary: int, count: int = DOMAINS) -> Manifest:
    """Generated tokens, one file a domain; the held-out part is the same file."""
    rng = np.random.default_rng(0)
    domains = []
    for d in range(count):
        path = f"{d:02}.u16"
        rng.integers(0, vocabulary, TOKENS, dtype="<u2").tofile(root / path)
        split = Split(TOKENS, 4 * TOKENS, 1, (Shard(path, TOKENS),))
        domains.append(Domain(f"d{d:02}", TOKENS, split, split, str(d)))
    manifest = Manifest(tuple(domains), Tokenizer("bytes", vocabulary, 0, f"generated {vocabulary}"), root)
    manifest.save()
    return manifest


def good(records: Sequence[RunRecord]) -> Sequence[RunRecord]:
    """These records. Raises RuntimeError for a run that failed: it must not count as a fast one."""
    for record in records:
        if record.error:
            raise RuntimeError(record.error)
    return records


def alternated(contenders: Mapping[str, Callable[[], float]], rounds: int, advance: Advance) -> dict[str, list[float]]:
    """Rates of the contenders in turn, so that what slows the machine for a while meets all of them."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            advance(name)
            rates[name].append(measure())
    return rates


def row(what: str, value: float, peer: float | None, reach: float | None = None, **note: Any) -> Row:
    """A result in which more is better."""
    ratio = value / peer if peer else None
    ok = None if reach is None or ratio is None else ratio >= reach
    return {"what": what, "value": value, "peer": peer, "ratio": ratio, "reach": reach, "ok": ok, "note": note}


def show(found: Row) -> None:
    """A row for people."""
    against = "" if found["peer"] is None else f" against {found['peer']:.4g}, {found['ratio']:.3g}x"
    wanted = "" if found["reach"] is None else f" (reach {found['reach']:g}: {'yes' if found['ok'] else 'NO'})"
    note = f" {found['note']}" if found["note"] else ""
    print(f"{found['what']}: {found['value']:.4g}{against}{wanted}{note}", flush=True)


def forget(device: str) -> None:
    """Forget compiled graphs and free memory before the next case."""
    torch.compiler.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
