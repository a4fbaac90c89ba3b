"""Do a job's proxies rank mixtures like larger ones, or like those of a larger vocabulary?

The job's own swarm mixtures are trained with the job's setting, with the changed one, and with the job's setting
again under another seed, which tells disagreement from noise. All runs go through the run store: searches share them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixopt import ranks
from mixopt.data import TokenizerConfig
from mixopt.domains import Manifest
from mixopt.errors import JobError, RunFailed
from mixopt.job import Job
from mixopt.methods.regmix import RegMix
from mixopt.mixture import FloatArray
from mixopt.progress import Progress
from mixopt.runs import Proxy, Swarm
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from pipelines import tuned
from pipelines.compute import make_executor
from pipelines.plan import Setting, make_proxy, make_study, setting
from pipelines.prepare import prepare

LEAST = 8  # mixtures without which a rank correlation says nothing


@dataclass(frozen=True)
class Change:
    """What the other proxies have in place of the job's; nothing at all compares seeds only."""

    size: str | None = None
    tokens: int | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be told apart."""
        if self.vocabulary is not None and (self.size is not None or self.tokens is not None):
            raise JobError(
                "--vocabulary: goes with neither --size nor --tokens; its tokens follow from the bytes that the job's "
                "proxies read. Change one thing, the other in the job itself: --set proxies.size=1m."
            )


@dataclass(frozen=True)
class Side:
    """One of the two settings: its job, the text as its tokenizer reads it, and the proxies."""

    job: Job
    manifest: Manifest
    chosen: Setting
    proxy: Proxy

    def to_json(self) -> dict[str, Any]:
        """Plain data for the result."""
        proxy = self.proxy
        return {
            "size": proxy.size,
            "tokens": proxy.tokens,
            "sequence": proxy.sequence,
            "batch": proxy.batch,
            "learning_rate": proxy.learning_rate,
            "vocabulary": self.manifest.tokenizer.vocabulary,
            "derived": list(self.chosen.reasons),
        }


def run(job: Job, folder: Path, change: Change, mixtures: int, progress: Progress) -> dict[str, Any]:
    """Train what is missing and compare. Killed and run again it goes on where it was and says the same.

    Raises JobError for a change that changes nothing, RunFailed where too few mixtures trained well.
    """
    began, store = time.perf_counter(), job.store_path(folder)
    if mixtures < LEAST:
        raise JobError(f"--mixtures: {mixtures} are too few to rank; give at least {LEAST}.")
    manifest = prepare(job.data_config(folder), store, progress)
    rate = tuned.find(job, store, manifest.names, manifest.tokenizer.vocabulary)
    study = replace(make_study(job, manifest, rate), count=mixtures)
    own = Side(job, manifest, setting(job, len(manifest.domains), rate), study.proxy)
    other = None if change == Change() else changed(job, folder, own, change, progress)
    specs = RegMix().ask(study, np.random.default_rng([study.seed, 0]))
    shop = Workshop(make_executor(job, manifest), Store(store), progress)
    again = [replace(spec, seed=study.seed + 1) for spec in specs]
    made = shop.make([*specs, *again], "proxies").records
    swarms = [Swarm(made[: len(made) // 2]), Swarm(made[len(made) // 2 :])]
    trained = set(shop.trained)
    if other is not None:
        shop = Workshop(make_executor(other.job, other.manifest), Store(store), progress)
        swarms.append(shop.make([replace(spec, proxy=other.proxy) for spec in specs], "the other proxies"))
        trained |= shop.trained
    return {
        "job": job.name,
        "own": own.to_json(),
        "other": other.to_json() if other else None,
        "notes": notes(job, other, change),
        **compare(study, swarms, name(own, other)),
        "proxies_trained": len(trained),
        "proxies_reused": sum(len(swarm.records) for swarm in swarms) - len(trained),
        "seconds": time.perf_counter() - began,
    }


def changed(job: Job, folder: Path, own: Side, change: Change, progress: Progress) -> Side:
    """The other setting: what the job gives stays, what it does not give is derived anew, tokens are the job's."""
    store, manifest = job.store_path(folder), own.manifest
    target, tokens = job.target.tokens, change.tokens or own.chosen.tokens
    if change.vocabulary is not None:
        manifest = retokenised(job, folder, own.manifest, change.vocabulary, progress)
        scale = bytes_per_token(own.manifest) / bytes_per_token(manifest)
        target, tokens = round(target * scale), round(tokens * scale)
    update = {"size": change.size or job.proxies.size, "tokens": tokens}
    other = job.model_copy(
        update={
            "proxies": job.proxies.model_copy(update=update),
            "target": job.target.model_copy(update={"tokens": target}),
        }
    )
    names = manifest.names
    chosen = setting(other, len(names), tuned.find(other, store, names, manifest.tokenizer.vocabulary))
    proxy = make_proxy(other, manifest, chosen)
    if proxy == own.proxy:
        raise JobError(
            f"ranks: these are the job's own proxies ({proxy.size}, {proxy.tokens:,} tokens, vocabulary "
            f"{manifest.tokenizer.vocabulary:,}). Name another --size, --vocabulary or --tokens, or use --seed-only."
        )
    return Side(other, manifest, chosen, proxy)


def retokenised(job: Job, folder: Path, manifest: Manifest, vocabulary: int, progress: Progress) -> Manifest:
    """The same text under a tokenizer trained with this vocabulary; the real run's tokens scale with the prepared."""
    config = job.data_config(folder)
    end = config.tokenizer.end_of_text if config.tokenizer.kind == "train" else None
    domains = config.domains and {key: replace(source, tokens=None) for key, source in config.domains.items()}
    config = replace(config, domains=domains, tokenizer=TokenizerConfig("train", vocabulary, end_of_text=end))
    other = prepare(config, job.store_path(folder), progress)
    scaled = []
    for domain in other.domains:
        mine = manifest[domain.name]
        scaled.append(replace(domain, tokens=round(mine.tokens * domain.train.tokens / mine.train.tokens)))
    return replace(other, domains=tuple(scaled))


def bytes_per_token(manifest: Manifest) -> float:
    """Bytes of raw text per token over all that was prepared for training."""
    return sum(d.train.bytes for d in manifest.domains) / sum(d.train.tokens for d in manifest.domains)


def compare(study: Study, swarms: Sequence[Swarm], other: str) -> dict[str, Any]:
    """The statistics of own, again and, unless only seeds are compared, other runs of the same mixtures, in order.

    A mixture of which any run diverged is left out. Raises RunFailed where fewer than LEAST stay.
    """
    rows = list(zip(*(swarm.records for swarm in swarms), strict=True))
    good = [row for row in rows if not any(record.error for record in row)]
    if len(good) < LEAST:
        failed = next((record for row in rows for record in row if record.error), None)
        why = f" First, run {failed.spec.id}: {failed.why}." if failed else ""
        raise RunFailed(
            f"only {len(good)} of {len(rows)} mixtures ended well under every setting, ranks need {LEAST}.{why} "
            "A lower proxies.learning_rate or more --mixtures helps."
        )
    tables: list[FloatArray] = [Swarm(column).metrics_RM(study.objective.metrics) for column in zip(*good, strict=True)]
    index_BR = ranks.resamples(len(good), np.random.default_rng([study.seed, 2]))
    noise = ranks.agreement(tables[0], tables[1], study.objective, index_BR)
    found = lost = None
    if len(tables) > 2:
        found = ranks.agreement(tables[0], tables[2], study.objective, index_BR)
        lost = ranks.shortfall(tables[0], tables[1], tables[2], study.objective, index_BR)
    trusted, sentence = ranks.verdict(found, noise, lost, other)
    return {
        "mixtures": len(good),
        "left_out": len(rows) - len(good),
        "agreement": found.to_json() if found else None,
        "noise": noise.to_json(),
        "shortfall": list(lost) if lost else None,
        "trusted": trusted,
        "verdict": sentence,
    }


def name(own: Side, other: Side | None) -> str:
    """What to call the other proxies in a sentence."""
    if other is None:
        return "another seed"
    vocabulary = other.manifest.tokenizer.vocabulary
    if own.manifest.tokenizer != other.manifest.tokenizer:
        return f"{other.proxy.size} proxies of vocabulary {vocabulary:,}"
    return f"{other.proxy.size} proxies of {other.proxy.tokens:,} tokens"


def notes(job: Job, other: Side | None, change: Change) -> list[str]:
    """What the reader of the numbers should know."""
    if other is None:
        return []
    section = job.proxies
    given = [key for key in ("learning_rate", "batch") if getattr(section, key) is not None]
    said = [f"proxies.{key} {getattr(section, key):g} is given by the job: both settings use it." for key in given]
    if change.vocabulary is not None:
        said.append(
            f"{other.proxy.tokens:,} tokens of the vocabulary {change.vocabulary:,} are as many bytes as the job's "
            "proxies read; proportions are of tokens under either."
        )
    return said
