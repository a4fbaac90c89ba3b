"""Tokens per CPU second of the sampler, against two ways people draw mixtures today, in one run on one machine.

    python benchmarks/sampler.py [--json]

Peers: a loop over rows of per-domain memory maps, and `datasets.interleave_datasets` over iterable datasets of rows.
All read the same generated token files (17 domains of 4 M tokens, rows of 256) with the same proportions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from pipelines.progress import Bars
from proxies.tokens import Sampler, TokenStore

DOMAINS, TOKENS, SEQUENCE, BATCH, STEPS, REPEATS = 17, 4_000_000, 256, 64, 256, 5
REACH = {"per-row loop": 5.0, "interleave_datasets": 500.0}


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
    for _ in range(STEPS):
        batch = np.empty((BATCH, SEQUENCE + 1), dtype=np.int64)
        for row in range(BATCH):
            source = maps[rng.choice(DOMAINS, p=w_D)]
            start = int(rng.integers(0, len(source) - SEQUENCE - 1))
            batch[row] = source[start : start + SEQUENCE + 1]
        tokens += batch[:, 1:].size
    return tokens


def interleaved(manifest: Manifest, w_D: np.ndarray) -> int:
    """Rows as examples of iterable datasets, interleaved by probability, batched as torch tensors."""
    from datasets import IterableDataset, interleave_datasets

    def rows(path: str) -> Iterator[dict[str, np.ndarray]]:
        source = np.memmap(path, dtype="<u2", mode="r")
        for start in range(0, len(source) - SEQUENCE - 1, SEQUENCE):
            yield {"tokens": source[start : start + SEQUENCE + 1].astype(np.int64)}

    paths = [str(manifest.root / d.train.shards[0].path) for d in manifest.domains]
    parts = [IterableDataset.from_generator(rows, gen_kwargs={"path": path}) for path in paths]
    mixed = interleave_datasets(parts, probabilities=list(w_D), seed=0).with_format("torch").batch(BATCH)
    tokens = 0
    for _, batch in zip(range(STEPS // 16), mixed, strict=False):
        tokens += batch["tokens"][:, 1:].numel()
    return tokens


def rate(draw: Callable[[Manifest, np.ndarray], int], manifest: Manifest, w_D: np.ndarray) -> float:
    """Tokens per CPU second."""
    began = time.process_time()
    return draw(manifest, w_D) / (time.process_time() - began)


def main() -> None:
    """Alternate the contenders, report medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    as_json = parser.parse_args().json
    contenders = {"mixopt": ours, "per-row loop": per_row, "interleave_datasets": interleaved}
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    with tempfile.TemporaryDirectory() as folder, Bars().task("sampler", REPEATS * len(contenders)) as advance:
        manifest = corpus(Path(folder))
        w_D = np.random.default_rng(1).dirichlet(np.ones(DOMAINS))
        ours(manifest, w_D)  # the first pass reads the files
        for _ in range(REPEATS):
            for name, draw in contenders.items():
                rates[name].append(rate(draw, manifest, w_D))
                advance(1)
    value = statistics.median(rates["mixopt"])
    rows = []
    for name, reach in REACH.items():
        peer = statistics.median(rates[name])
        rows.append({"what": f"sampler against {name}", "value": value, "peer": peer, "ratio": value / peer})
        rows[-1] |= {"reach": reach, "ok": value / peer >= reach}
    for row in rows:
        print(f"{row['what']}: {row['value']:.3g} against {row['peer']:.3g} tokens/CPU-s, {row['ratio']:.1f}x")
    if as_json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
