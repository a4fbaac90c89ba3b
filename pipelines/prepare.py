"""Documents or token files in, token shards and a manifest out: done once for the same inputs.

    store/data/<key>/manifest.json          domains, counts, tokenizer
    store/data/<key>/prepared.json          what the key stands for, and how many documents were dropped
    store/data/<key>/<domain>/train-00000.u16

The folder is written under another name and renamed: present means complete.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mixopt.data import DataConfig
from mixopt.domains import Domain, Manifest
from mixopt.errors import DataError
from mixopt.progress import Progress
from pipelines import environment, readers, token_files, tokenizer
from pipelines.adopt import Adopted, adopt, digests, peek
from pipelines.held_out import HeldOut, digest
from pipelines.readers import Part
from pipelines.shards import THREADS, Shards, ahead, domain_of, publish
from pipelines.tokenizer import Encoder, TokenArray

FORMAT = "mixopt.data/v2"
BATCH_BYTES = 1 << 21  # of text, encoded at once
SAMPLE_BYTES = 1 << 25  # of text, on which a tokenizer is trained
SAMPLE_PART = 1 << 16  # of it, from each file that is sampled, at least

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Corpus:
    """The documents of one domain. Without `valid` parts, the held-out ones are split off `train`."""

    name: str
    sources: tuple[str, ...]
    train: list[Part]
    valid: list[Part] = field(default_factory=list)


def prepare(config: DataConfig, store: Path, progress: Progress) -> Manifest:
    """The manifest of the configured text, which is tokenised unless the same inputs have been before.

    The sources' own `tokens` are laid over what is stored. Raises DataError for text that cannot be used.
    """
    corpora = _corpora(config)
    inputs = {
        "format": FORMAT,
        "tokenizer": [config.tokenizer.kind, config.tokenizer.vocabulary, config.tokenizer.end_of_text],
        "tokenizer_file": _sha(tokenizer.read(config.tokenizer)),
        "validation_fraction": config.validation_fraction,
        "max_bytes": config.max_bytes,
        "domains": {c.name: [[part.identity for part in side] for side in (c.train, c.valid)] for c in corpora},
    }
    folder = store / "data" / _sha(json.dumps(inputs, sort_keys=True))
    if not (folder / "manifest.json").exists():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _alone(folder, progress):
                if not (folder / "manifest.json").exists():
                    publish(folder, lambda out: _build(config, corpora, inputs, out, progress))
        except OSError as e:
            raise DataError(f"store {store}: cannot be written ({e}). Free space there, or name another store.") from e
    return with_available_tokens(Manifest.load(folder), config)


def _corpora(config: DataConfig) -> list[Corpus | Adopted]:
    """The domains, sorted by name, with their files."""
    found: list[Corpus | Adopted]
    if config.domains is None:
        found = [Corpus(name, ("environment",), [part]) for name, part in sorted(environment.parts().items())]
    else:
        found = _each(lambda name: corpus(name, config), sorted(config.domains))
    if len(found) < 2:
        names = ", ".join(corpus.name for corpus in found) or "none"
        raise DataError(f"data: a mixture needs at least two domains (got {names}). Add a domain.")
    return found


def corpus(name: str, config: DataConfig) -> Corpus | Adopted:
    """One domain's files. Raises DataError for those that cannot be used, as far as that shows without reading them."""
    source = (config.domains or {})[name]
    where = source.hf.path if source.hf else source.path
    sources = tuple(s for s in (where, source.valid) if s)
    tokens = token_files.find(name, source.path, source.dtype) if source.path else []
    tokens_valid = token_files.find(name, source.valid, source.dtype) if source.valid else []
    if source.valid and bool(tokens) != bool(tokens_valid):
        raise DataError(f"domain {name!r}: {where} and {source.valid} are text and token files. Give both as one kind.")
    if tokens and config.tokenizer.kind == "train":
        raise DataError(
            f"domain {name!r}: {where} are token files, so the tokenizer is not to be trained. Give the one that made them: "
            "data.tokenizer: {file: tokenizer.json}."
        )
    if tokens:
        return Adopted(name, sources, tokens, tokens_valid)
    if source.dtype:
        raise DataError(f"domain {name!r}: dtype belongs to token files, {where} is text. Leave it out.")
    valid = readers.files(name, source.valid, source.text) if source.valid else []
    return Corpus(name, sources, readers.parts(name, source), valid)


def _build(
    config: DataConfig, corpora: list[Corpus | Adopted], inputs: dict[str, Any], out: Path, progress: Progress
) -> None:
    """Write shards, tokenizer and manifest into `out`."""
    text = [corpus for corpus in corpora if isinstance(corpus, Corpus)]
    ready = [corpus for corpus in corpora if isinstance(corpus, Adopted)]
    _each(_peek, text)
    held_out = HeldOut(int(config.validation_fraction * 2**64), keep=any(corpus.valid for corpus in corpora))
    for one in text:
        held_out.digests.update(digest(raw) for _, raw in _documents(one.valid, config.max_bytes))
    with progress.task("train the tokenizer", None, "bytes") as advance:
        encoder = tokenizer.make(config.tokenizer, _sample(text, held_out, advance))
    _each(partial(peek, encoder=encoder), ready)
    for other in ready:
        held_out.digests.update(digests(other, encoder, config.max_bytes))
    encoder.save(out)
    domains, dropped = [], {}
    for own in sorted(corpora, key=lambda c: bool(c.valid)):  # what is split off must be known to the others
        act = "check" if isinstance(own, Adopted) else "tokenise"
        with progress.task(f"{act} {own.name}", None, "bytes") as advance:
            if isinstance(own, Adopted):
                made, dropped[own.name] = adopt(own, held_out, encoder, config.max_bytes, out, advance)
            else:
                sided = _sided(own, held_out, config.max_bytes)
                made, dropped[own.name] = _tokenise(own, sided, encoder, out, advance)
        domains.append(_checked(made, config))
    Manifest(tuple(sorted(domains, key=lambda d: d.name)), encoder.identity, out).save()
    (out / "prepared.json").write_text(json.dumps({**inputs, "dropped": dropped}, indent=1) + "\n", encoding="utf-8")


def _peek(corpus: Corpus) -> None:
    """Read one document of each side: a wrong column of the last domain must not wait for the others."""
    for side in (corpus.train, corpus.valid):
        next(_documents(side), None)


def _sample(corpora: list[Corpus], held_out: HeldOut, advance: Callable[[float], None]) -> Iterator[str]:
    """Documents on which to train a tokenizer: as much of each domain, spread over its files, none of it held out."""
    share = SAMPLE_BYTES // len(corpora)
    for corpus in corpora:
        chosen = corpus.train[:: max(1, len(corpus.train) * SAMPLE_PART // share)]
        for part in chosen:
            for text, raw in _documents([part], share // len(chosen)):
                if held_out.never(raw):
                    advance(len(raw))
                    yield text[:share]


def _sided(corpus: Corpus, held_out: HeldOut, limit: int | None) -> Iterator[tuple[str, str, int]]:
    """(side, text, bytes) of each document."""
    for text, raw in _documents(corpus.valid, limit):
        yield "valid", text, len(raw)
    for text, raw in _documents(corpus.train, limit):
        yield held_out.side(raw, split_off=not corpus.valid), text, len(raw)


def _tokenise(
    corpus: Corpus,
    sided: Iterable[tuple[str, str, int]],
    encoder: Encoder,
    out: Path,
    advance: Callable[[float], None],
) -> tuple[Domain, int]:
    """Write one domain's shards; also the number of documents dropped because they are held out elsewhere."""
    train, valid = Shards.sides(out, corpus.name, encoder.identity)
    shards, dropped = {"train": train, "valid": valid}, 0
    with ThreadPoolExecutor(THREADS) as pool:
        for batch in ahead(pool, partial(_encoded, encoder), _batches(sided)):
            for side, count, size, documents in batch:
                if documents:
                    shards[side].append(np.concatenate(documents), count, size)
                dropped += count if side == "dropped" else 0
                advance(size)
    return domain_of(corpus.name, corpus.sources, encoder.identity, train, valid), dropped


def _encoded(encoder: Encoder, batch: list[tuple[str, str, int]]) -> list[tuple[str, int, int, list[TokenArray]]]:
    """(side, documents, bytes of text, ids of each document) of a batch's sides; those dropped have no ids."""
    found = []
    for side in ("train", "valid", "dropped"):
        texts = [text for own, text, _ in batch if own == side]
        documents = encoder.encode(texts) if side != "dropped" else []
        found.append((side, len(texts), sum(size for own, _, size in batch if own == side), documents))
    return found


def _checked(domain: Domain, config: DataConfig) -> Domain:
    """The domain. Raises DataError where one side of it is empty."""
    count = domain.train.documents + domain.valid.documents
    if not count:
        raise DataError(f"domain {domain.name!r}: no document with text in {', '.join(domain.sources)}.")
    if not domain.valid.documents:
        raise DataError(
            f"domain {domain.name!r}: no held-out document among its {count:,} (validation fraction "
            f"{config.validation_fraction:g}). Add documents (a .txt file is one), hold out a larger fraction, or give "
            "`valid`."
        )
    if not domain.train.documents:
        raise DataError(
            f"domain {domain.name!r}: no document to train on, all {count:,} are held out. "
            "Add documents, or hold out a smaller fraction."
        )
    return domain


def with_available_tokens(manifest: Manifest, config: DataConfig) -> Manifest:
    """The manifest with the token counts that the configuration gives for the real run."""
    given = {name: source.tokens for name, source in (config.domains or {}).items() if source.tokens is not None}
    for domain in manifest.domains:
        if given.get(domain.name, domain.train.tokens) < domain.train.tokens:
            raise DataError(
                f"data.domains.{domain.name}.tokens: {given[domain.name]:,} are fewer than the {domain.train.tokens:,} "
                "prepared from its documents. Give at least these, or leave it out where they are all there is."
            )
    return replace(manifest, domains=tuple(replace(d, tokens=given.get(d.name, d.tokens)) for d in manifest.domains))


def _documents(parts: Iterable[Part], limit: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Each document that has text, and its UTF-8, until `limit` bytes of them."""
    size = 0
    for part in parts:
        for text in part.read():
            if text and not text.isspace():
                raw = text.encode()
                size += len(raw)
                yield text, raw
            if limit is not None and size >= limit:
                return


def _batches(sided: Iterable[tuple[str, str, int]]) -> Iterator[list[tuple[str, str, int]]]:
    """Documents in lists of about BATCH_BYTES."""
    batch, total = [], 0
    for item in sided:
        batch.append(item)
        total += item[2]
        if total >= BATCH_BYTES:
            yield batch
            batch, total = [], 0
    yield batch


def _each(act: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """`act` on every item. Raises one DataError with everything that is wrong."""
    done, problems = [], []
    for item in items:
        try:
            done.append(act(item))
        except DataError as e:
            problems.append(e)
    if problems:
        raise DataError("\n".join(map(str, problems))) from problems[0]
    return done


@contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one prepared folder; a killed process gives it back."""
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.task("another process prepares the same text", None):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
