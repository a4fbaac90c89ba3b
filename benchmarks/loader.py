"""Tokens per CPU second of the loader of a full run, and what its per-domain losses cost a training step.

    python benchmarks/loader.py [--losses] [--json]

The loader reads whole steps as one of 1, 8 and 64 workers: each of them works out the whole batch and reads its share of
the rows. 17 domains of 16 M generated tokens, rows of 2048, steps of 1,048,576 tokens, memory-mapped files in the page
cache; CPU time of all threads. `--losses` trains the 1m model, one worker on one thread, on steps that keep the losses
of rows and add them up by domain, in turn with steps as the engine makes them: medians of CPU time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mixopt import handoff
from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.full import parse
from mixopt.mixture import Mixture
from mixopt.space import MixtureSpace
from pipelines.full.course import Course, Searched, resolve
from pipelines.full.stream import Stream

DOMAINS, TOKENS, STEPS, REPEATS = 17, 16_000_000, 24, 5
REACH, MOST = 10.0, 1.02  # M tokens per CPU second; a step with losses by domain against one without
PAIRS = 60


def course(root: Path, vocabulary: int, each: int = TOKENS, **keys: Any) -> Course:
    """A full run over generated tokens, so many for `each` domain, in one file."""
    rng, domains = np.random.default_rng(0), []
    for d in range(DOMAINS):
        rng.integers(0, vocabulary, each, dtype=np.uint16).tofile(root / f"{d:02}.u16")
        split = Split(each, 4 * each, 1, (Shard(f"{d:02}.u16", each),))
        domains.append(Domain(f"d{d:02}", each, split, split, str(d)))
    manifest = Manifest(tuple(domains), Tokenizer("bytes", vocabulary, 0, "generated"), root)
    manifest.save()
    total = keys["tokens"]
    space = MixtureSpace(manifest.domains, total)
    mixture = Mixture.normalised({name: 1.0 + d for d, name in enumerate(manifest.names)})
    answer = handoff.document(space, mixture, manifest, None, {"prepared": str(root)})
    handoff.save(answer, root / "mixture.json")
    return resolve(Searched.load(root), parse({"model": "1m", "launch": {"device": "cpu"}} | keys, "benchmark"))


def rate(run: Course, world: int) -> float:
    """M tokens per CPU second of one worker among so many."""
    stream = Stream(run.sampler, 0, world)
    w_D = run.plan.mixture.array(run.names)
    found = []
    for _ in range(REPEATS):
        stream.follow(w_D, STEPS)
        began, tokens = time.process_time(), 0
        for _ in range(STEPS):
            tokens += stream.next().rows[:, 1:].size
        found.append(tokens / (time.process_time() - began) / 1e6)
    stream.close()
    return statistics.median(found)


def losses(run: Course) -> tuple[float, float]:
    """CPU seconds of a step that hears losses by domain, and of one as the engine makes it."""
    import torch
    from olmo_core.train.train_module import TransformerTrainModule

    from pipelines.full import engine
    from pipelines.full.ranks import Ranks

    torch.set_num_threads(1)
    engine.join(run)
    trainer, pilot = engine.build(run, Ranks(), torch.device("cpu"))
    module, loader = trainer.train_module, trainer.data_loader
    hearing = engine.Module.model_forward
    pilot.begin()
    module.zero_grads()
    took: dict[bool, list[float]] = {True: [], False: []}
    for step, batch in zip(range(2 * PAIRS), loader._iter_batches(), strict=False):
        hears = step % 2 == step // 2 % 2  # who goes first changes from pair to pair
        engine.Module.model_forward = hearing if hears else TransformerTrainModule.model_forward
        began = time.process_time()
        module.train_batch(batch)
        module.optim_step()
        module.zero_grads()
        if hears:
            pilot.hear(torch.cat(module.heard), loader.batch, 0.0)
        took[hears].append(time.process_time() - began)
    engine.leave()
    return statistics.median(took[True]), statistics.median(took[False])


def row(what: str, value: float, peer: float | None, reach: float | None, ok: bool | None) -> Mapping[str, Any]:
    """One line of the table."""
    return {
        "what": what,
        "value": value,
        "peer": peer,
        "ratio": value / peer if peer else None,
        "reach": reach,
        "ok": ok,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--losses", action="store_true", help="also measure training steps (a minute)")
    parser.add_argument("--json", action="store_true", help="end standard output with one JSON object")
    asked, rows = parser.parse_args(), []
    with tempfile.TemporaryDirectory() as folder:
        run = course(Path(folder), 4096, sequence=2048, batch_tokens=1 << 20, tokens=1 << 28)
        for world in (1, 8, 64):
            value = rate(run, world)
            rows.append(
                row(f"loader, 1 of {world} workers: M tokens per CPU second", value, None, REACH, value >= REACH)
            )
    if asked.losses:
        with tempfile.TemporaryDirectory() as folder:
            keys = {
                "sequence": 256,
                "batch_tokens": 4096,
                "tokens": 1 << 22,
                "valid_every": 1 << 22,
                "valid_tokens": 256,
            }
            hearing, deaf = losses(course(Path(folder), 4096, **keys))
            rows.append(row("step with losses by domain: CPU s", hearing, deaf, MOST, hearing <= MOST * deaf))
    for line in rows:
        ratio = f", {line['ratio']:.4f} of a step without" if line["ratio"] else ""
        sys.stderr.write(f"{line['what']}: {line['value']:.4g}{ratio} ({'ok' if line['ok'] else 'NOT REACHED'})\n")
    if asked.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
