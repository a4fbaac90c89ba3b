"""What the text is: domains with their counts, and the manifest that names them.

A prepared corpus is a folder: `manifest.json` and, for each domain, token shards. A shard is a flat file of token
ids, little-endian and without a header, 16 bits wide (`.u16`) or 32 (`.u32`) for vocabularies above 65 536. Or it is a
part of a file that another program wrote, used where it lies.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from mixopt.errors import DataError, did_you_mean


@dataclass(frozen=True)
class Shard:
    """One file of token ids; `path` is relative to the manifest's folder.

    In a file of others the ids begin after `offset` bytes and are of numpy's `dtype`. Where only some stretches of it
    belong to the split, `runs` is a file beside the manifest: int64 [2, R + 1], how many tokens are before each of R
    stretches and after the last, then where each begins in the file, and 0.
    """

    path: str
    tokens: int
    dtype: str = ""
    offset: int = 0
    runs: str = ""


@dataclass(frozen=True)
class Split:
    """The prepared tokens of one domain for training, or its held-out ones. `bytes` are of the raw UTF-8 text."""

    tokens: int = 0
    bytes: int = 0
    documents: int = 0
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True)
class TokenFile:
    """A file of token ids that another program wrote: `path` without what is appended to it (`.bin`, `/index.json`).

    `plain` says that it is nothing but ids; `row` is how many a sample has, where all samples have as many.
    """

    kind: Literal["megatron", "npy", "mds"]
    path: str
    tokens: int
    dtype: str
    plain: bool = True
    row: int = 0


@dataclass(frozen=True)
class Domain:
    """A named part of the corpus.

    `tokens` is what the real run can draw without repeating; it is larger than `train.tokens` where only a part of
    the domain was prepared. `fingerprint` changes with the domain's text or tokenizer. `files` are those of others that
    the domain was prepared from, held-out documents included.
    """

    name: str
    tokens: int
    train: Split = field(default_factory=Split)
    valid: Split = field(default_factory=Split)
    fingerprint: str = ""
    sources: tuple[str, ...] = ()
    files: tuple[TokenFile, ...] = ()


@dataclass(frozen=True)
class Tokenizer:
    """Identity of the tokenizer; `file` is relative to the manifest's folder, empty for bytes."""

    kind: str
    vocabulary: int
    end_of_text: int
    fingerprint: str
    file: str = ""


@dataclass(frozen=True)
class Manifest:
    """The domains of one prepared corpus, sorted by name."""

    domains: tuple[Domain, ...]
    tokenizer: Tokenizer
    root: Path

    def __getitem__(self, name: str) -> Domain:
        """The domain of this name."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise DataError(f"unknown domain {name!r}; {did_you_mean(name, self.names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Domain names, in the canonical (sorted) order."""
        return tuple(domain.name for domain in self.domains)

    @property
    def fingerprint(self) -> str:
        """Identity of the prepared tokens: changes when any domain's text or the tokenizer does."""
        parts = [self.tokenizer.fingerprint, *(f"{d.name}={d.fingerprint}" for d in self.domains)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def token_bytes(self) -> int:
        """Width of one token id on disk, in bytes."""
        return 2 if self.tokenizer.vocabulary <= 1 << 16 else 4

    def save(self) -> Path:
        """Write `manifest.json` into `root`."""
        path = self.root / "manifest.json"
        body = {
            "schema": "mixopt.manifest/v1",
            "tokenizer": asdict(self.tokenizer),
            "domains": [asdict(domain) for domain in self.domains],
        }
        path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, root: Path) -> Manifest:
        """Read `manifest.json` from a prepared folder.

        Raises DataError if it is missing or was not written by this format.
        """
        path = root / "manifest.json"
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body["schema"] != "mixopt.manifest/v1":
                raise ValueError(f"schema {body['schema']!r}")
            domains = tuple(_domain(item) for item in body["domains"])
            return cls(domains, Tokenizer(**body["tokenizer"]), root)
        except (OSError, ValueError, KeyError, TypeError) as e:
            raise DataError(f"manifest {path}: not readable ({e}). Prepare the data again.") from e


def _domain(item: Mapping[str, Any]) -> Domain:
    splits = {
        key: Split(**{**item[key], "shards": tuple(Shard(**shard) for shard in item[key]["shards"])})
        for key in ("train", "valid")
    }
    files = tuple(TokenFile(**file) for file in item.get("files", ()))
    return Domain(**{**item, **splits, "sources": tuple(item["sources"]), "files": files})
