"""Tokens per CPU second of the sampler against ways people draw mixtures today, and how soon a huge store yields a batch.

    python benchmarks/sampler.py [--json]

Peers: a loop over rows of per-domain memory maps that draws each row's domain and offset by itself; the same loop with
both drawn for a step at once; `datasets.interleave_datasets` over iterable datasets of rows as torch tensors, as its
documentation has it; and the same as lists, which numpy stacks faster. All read the same generated token files (17
domains of 4 M tokens, rows of 256) with the same proportions, in one run on one machine. Opening files counts.

The huge store holds 10^11 tokens in files without content: its manifest is read, its domains are checked and given
their supplies, and the first batch is gathered.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from datasets import IterableDataset, interleave_datasets

from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from pipelines.progress import Bars
from proxies.tokens import Sampler, TokenStore, check_lengths, supply_tokens, supply_wanted

DOMAINS, TOKENS, SEQUENCE, BATCH, STEPS, REPEATS = 17, 4_000_000, 256, 64, 1024, 5
REACH = {
    "per-row loop": 5.0,
    "per-row loop, drawn by the step": 3.0,
    "interleave_datasets, torch": 500.0,
    "interleave_datasets, lists": 100.0,
}
HUGE, HUGE_SHARD, SECONDS = 10**11, 1 << 28, 1.0


def corpus(root: Path) -> Manifest:
    """Generated tokens, one file a domain."""
    rng = np.random.default_rng(0)
    domains = []
    for d in range(DOMAINS):
        path = f"{d:02}.u16"
        rng.integers(0, 4096, TOKENS, dtype=np.uint16).tofile(root / path)
        split = Split(TOKENS, 4 * TOKENS, 1, (Shard(path, TOKENS),))
        domains.append(Domain(f"d{d:02}", TOKENS, split, split, str(d)))
    return Manifest(tuple(domains), Tokenizer("bytes", 4096, 0, "generated"), root)


def ours(manifest: Manifest, w_D: np.ndarray) -> int:
    """Rows of `STEPS` steps, 64 steps at a time as the trainer asks for them."""
    store = TokenStore(manifest, SEQUENCE)
    supply = [store.blocks(name) for name in manifest.names]
    sampler = Sampler(store, manifest.names, supply, BATCH, seed=0)
    drawn_D, tokens = np.zeros(DOMAINS, dtype=np.int64), 0
    for first in range(0, STEPS, 64):
        rows, drawn_D = sampler.rows(w_D, first, 64, drawn_D)
        tokens += rows[..., 1:].size
    return tokens


def per_row(manifest: Manifest, w_D: np.ndarray) -> int:
    """One random domain and one random offset a row."""
    maps = [np.memmap(manifest.root / d.train.shards[0].path, dtype="<u2", mode="r") for d in manifest.domains]
    rng, tokens = np.random.default_rng(0), 0
    for _ in range(STEPS // 4):
        batch = np.empty((BATCH, SEQUENCE + 1), dtype=np.int64)
        for row in range(BATCH):
            source = maps[rng.choice(DOMAINS, p=w_D)]
            start = int(rng.integers(0, len(source) - SEQUENCE - 1))
            batch[row] = source[start : start + SEQUENCE + 1]
        tokens += batch[:, 1:].size
    return tokens


def per_step(manifest: Manifest, w_D: np.ndarray) -> int:
    """Domains and offsets of a step in one call each, then a loop over its rows."""
    maps = [np.memmap(manifest.root / d.train.shards[0].path, dtype="<u2", mode="r") for d in manifest.domains]
    rng, tokens, last_D = np.random.default_rng(0), 0, np.array([len(source) - SEQUENCE - 1 for source in maps])
    for _ in range(STEPS):
        batch = np.empty((BATCH, SEQUENCE + 1), dtype=np.int64)
        domains = rng.choice(DOMAINS, size=BATCH, p=w_D)
        starts = rng.integers(0, last_D[domains])
        for row, (d, start) in enumerate(zip(domains.tolist(), starts.tolist(), strict=True)):
            batch[row] = maps[d][start : start + SEQUENCE + 1]
        tokens += batch[:, 1:].size
    return tokens


def interleaved(manifest: Manifest, w_D: np.ndarray) -> IterableDataset:
    """Rows as examples of iterable datasets, interleaved by probability."""

    def rows(path: str) -> Iterator[dict[str, np.ndarray]]:
        source = np.memmap(path, dtype="<u2", mode="r")
        for start in range(0, len(source) - SEQUENCE - 1, SEQUENCE):
            yield {"tokens": source[start : start + SEQUENCE + 1].astype(np.int64)}

    paths = [str(manifest.root / d.train.shards[0].path) for d in manifest.domains]
    parts = [IterableDataset.from_generator(rows, gen_kwargs={"path": path}) for path in paths]
    return interleave_datasets(parts, probabilities=list(w_D), seed=0)


def as_torch(manifest: Manifest, w_D: np.ndarray) -> int:
    """Batches as tensors."""
    batches = interleaved(manifest, w_D).with_format("torch").batch(BATCH)
    return sum(batch["tokens"][:, 1:].numel() for _, batch in zip(range(STEPS // 64), batches, strict=False))


def as_lists(manifest: Manifest, w_D: np.ndarray) -> int:
    """Batches as lists of lists, stacked."""
    batches = interleaved(manifest, w_D).batch(BATCH)
    return sum(np.array(batch["tokens"])[:, 1:].size for _, batch in zip(range(STEPS // 8), batches, strict=False))


def rate(draw: Callable[[Manifest, np.ndarray], int], manifest: Manifest, w_D: np.ndarray) -> float:
    """Tokens per CPU second, of a second pass: the first one brings what it reads into the caches."""
    draw(manifest, w_D)
    began = time.process_time()
    return draw(manifest, w_D) / (time.process_time() - began)


def huge(root: Path) -> float:
    """Seconds until a store of 10^11 tokens has yielded its first batch."""
    shards = [
        Shard(f"{start // HUGE_SHARD:05}.u16", min(HUGE_SHARD, HUGE - start)) for start in range(0, HUGE, HUGE_SHARD)
    ]
    for shard in shards:
        with (root / shard.path).open("wb") as f:
            f.truncate(2 * shard.tokens)
    splits = [
        Split(sum(s.tokens for s in own), 1, 1, tuple(own)) for own in (shards[d::DOMAINS] for d in range(DOMAINS))
    ]
    domains = tuple(Domain(f"d{d:02}", split.tokens, split, split, str(d)) for d, split in enumerate(splits))
    Manifest(domains, Tokenizer("bytes", 4096, 0, "generated"), root).save()
    began = time.perf_counter()
    manifest = Manifest.load(root)
    check_lengths(manifest, SEQUENCE, BATCH)
    store = TokenStore(manifest, SEQUENCE)
    supply = [
        supply_tokens(supply_wanted(d, 10**9, 10**12), store.blocks(d.name), SEQUENCE) // SEQUENCE
        for d in manifest.domains
    ]
    sampler = Sampler(store, manifest.names, supply, BATCH, seed=0)
    rows, _ = sampler.rows(np.full(DOMAINS, 1 / DOMAINS), 0, 1, np.zeros(DOMAINS, dtype=np.int64))
    seconds = time.perf_counter() - began
    if rows.shape != (1, BATCH, SEQUENCE + 1):
        raise AssertionError(f"a batch of shape {rows.shape}")
    return seconds


def compared(rates: dict[str, list[float]]) -> Iterator[dict[str, object]]:
    """A row for each peer: medians and their ratio."""
    value = statistics.median(rates["mixopt"])
    for name, reach in REACH.items():
        peer = statistics.median(rates[name])
        what = f"sampler against {name}, tokens per CPU second"
        yield {"what": what, "value": value, "peer": peer, "ratio": value / peer, "reach": reach}


def main() -> None:
    """Alternate the contenders, report medians and ratios."""
    warnings.filterwarnings("ignore", "To copy construct from a tensor")  # of `datasets`, at every batch
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    as_json = parser.parse_args().json
    contenders = dict(zip(("mixopt", *REACH), (ours, per_row, per_step, as_torch, as_lists), strict=True))
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder, Bars().task("sampler", REPEATS * len(contenders)) as advance:
        manifest = corpus(Path(folder))
        w_D = np.random.default_rng(1).dirichlet(np.ones(DOMAINS))
        for _ in range(REPEATS):
            for name, draw in contenders.items():
                rates[name].append(rate(draw, manifest, w_D))
                advance(1)
    rows = list(compared(rates))
    with tempfile.TemporaryDirectory() as folder:
        seconds = huge(Path(folder))
    what = f"first batch of a store of {HUGE:.0e} tokens, seconds against {SECONDS:g}"
    rows.append({"what": what, "value": seconds, "peer": SECONDS, "ratio": SECONDS / seconds, "reach": 1.0})
    for row in rows:
        row["ok"] = row["ratio"] >= row["reach"]
        print(f"{row['what']}: {row['value']:.3g} against {row['peer']:.3g}, {row['ratio']:.1f}x")
    if as_json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
