"""Which text to prepare: where each domain's documents are, which are held out, which tokenizer reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from mixopt.domains import Manifest
from mixopt.errors import JobError, did_you_mean

TOKENIZERS = ("bytes", "train", "file")
TOKEN_TYPES = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")


@dataclass(frozen=True)
class HubSource:
    """A split of a dataset of the Hugging Face hub; without `revision`, what was prepared first stays."""

    path: str
    name: str | None = None
    split: str = "train"
    streaming: bool = True
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """One domain's documents: files (`path`, a glob of any fsspec URL) or a dataset of the hub, in column `text`.

    Or token files of others: Megatron's .bin and .idx, .npy, MDS; `dtype` is that of ids whose file does not say it.
    `valid` is a glob of held-out documents; without it they are split off. `tokens` is what the real run has, where
    these documents are only a part of it.
    """

    path: str | None = None
    text: str = "text"
    hf: HubSource | None = None
    valid: str | None = None
    tokens: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class TokenizerConfig:
    """`bytes`, a byte-level BPE to `train` on the corpus with this `vocabulary`, or a tokenizer.json `file`.

    `end_of_text` names the token that ends a document; a file's is looked for among the usual names.
    """

    kind: Literal["bytes", "train", "file"] = "train"
    vocabulary: int = 4096
    file: str | None = None
    end_of_text: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """The corpus: `domains`, or the text that every machine has (`source="environment"`).

    `validation_fraction` of the documents is held out where a domain has no `valid`; `max_bytes` stops the reading of
    each domain. Raises JobError with everything that is wrong.
    """

    domains: Mapping[str, Source] | None = None
    source: Literal["environment"] | None = None
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    validation_fraction: float = 0.05
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without reading a file."""
        problems = [*self._problems(), *_tokenizer_problems(self.tokenizer)]
        for name, source in (self.domains or {}).items():
            problems += _source_problems(name, source)
        if problems:
            raise JobError("\n".join(problems))

    def _problems(self) -> Iterator[str]:
        if (self.domains is None) == (self.source is None):
            yield "data: give exactly one of domains and source: environment."
        if self.source not in (None, "environment"):
            yield f"data.source: unknown source {self.source!r}; {did_you_mean(self.source, ['environment'])}"
        if not 0 < self.validation_fraction < 1:
            yield f"data.validation.fraction: must be between 0 and 1 (got {self.validation_fraction})."
        if self.max_bytes is not None and self.max_bytes <= 0:
            yield f"data.max_bytes: must be positive (got {self.max_bytes})."


def _source_problems(name: str, source: Source) -> Iterator[str]:
    where = f"data.domains.{name}"
    if not name or "/" in name or name.startswith("."):
        yield f"data.domains: {name!r} cannot name a folder; use letters, digits, '-' and '_'."
    if (source.path is None) == (source.hf is None):
        yield f"{where}: give exactly one of path (a glob of files) and hf (a dataset of the hub)."
    if source.dtype is not None and source.dtype not in TOKEN_TYPES:
        yield f"{where}.dtype: unknown type {source.dtype!r}; {did_you_mean(source.dtype, TOKEN_TYPES)}"
    if source.tokens is not None and source.tokens <= 0:
        yield f"{where}.tokens: must be positive (got {source.tokens})."


def _tokenizer_problems(tokenizer: TokenizerConfig) -> Iterator[str]:
    where = "data.tokenizer"
    if tokenizer.kind not in TOKENIZERS:
        yield f"{where}.kind: unknown kind {tokenizer.kind!r}; {did_you_mean(tokenizer.kind, TOKENIZERS)}"
    if (tokenizer.kind == "file") != (tokenizer.file is not None):
        got = f"got kind {tokenizer.kind!r}, file {tokenizer.file}"
        yield f"{where}.file: belongs to kind 'file' and to no other ({got})."
    if tokenizer.vocabulary < 257:
        yield f"{where}.vocabulary: must be at least 257, the bytes and end of text (got {tokenizer.vocabulary})."


def summary(manifest: Manifest) -> list[dict[str, str | int | float]]:
    """One row for each domain, for printing: what was prepared, what is held out, what the real run has."""
    return [
        {
            "domain": domain.name,
            "documents": domain.train.documents,
            "bytes": domain.train.bytes,
            "tokens": domain.train.tokens,
            "bytes/token": domain.train.bytes / max(1, domain.train.tokens),
            "held-out documents": domain.valid.documents,
            "held-out bytes": domain.valid.bytes,
            "held-out tokens": domain.valid.tokens,
            "available tokens": domain.tokens,
        }
        for domain in manifest.domains
    ]
