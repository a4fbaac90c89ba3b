"""Which documents are held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

Side = Literal["train", "valid", "dropped"]


@dataclass
class HeldOut:
    """Which documents are held out: those of `valid` parts, elsewhere the hashes of a text below `limit`.

    Equal documents are always on one side, in whichever domains they are; of text that is its UTF-8, of tokens their ids.
    Where a domain has `valid` parts a hash alone cannot know that, so the digests of all held-out documents are kept.
    """

    limit: int
    keep: bool
    digests: set[int] = field(default_factory=set)

    def side(self, raw: bytes | memoryview, split_off: bool) -> Side:
        """Where a document belongs: `train`, `valid` or, if another domain holds it out, `dropped`."""
        own = digest(raw)
        if split_off and own < self.limit:
            if self.keep:
                self.digests.add(own)
            return "valid"
        return "dropped" if own in self.digests else "train"

    def never(self, raw: bytes) -> bool:
        """Whether no domain could hold this document out."""
        own = digest(raw)
        return own >= self.limit and own not in self.digests


def digest(raw: bytes | memoryview) -> int:
    """64 bits of a document."""
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big")
