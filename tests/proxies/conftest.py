"""A generated corpus of any vocabulary, with tokens at both ends of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer


@pytest.fixture
def generated(tmp_path: Path) -> Callable[[int], Manifest]:
    """Two domains, `a` in three shards (one too short for a row) and `b` in one, for a vocabulary."""

    def make(vocabulary: int) -> Manifest:
        rng, domains = np.random.default_rng(0), []
        dtype = "<u2" if vocabulary <= 1 << 16 else "<u4"
        for name, lengths in (("a", (1000, 20, 700)), ("b", (900,))):
            shards = []
            for i, length in enumerate(lengths):
                ids = rng.integers(0, vocabulary, length).astype(dtype)
                ids[::7], ids[1::7] = vocabulary - 1, 0
                ids.tofile(tmp_path / f"{name}-{i}")
                shards.append(Shard(f"{name}-{i}", length))
            split = Split(sum(lengths), 4 * sum(lengths), 1, tuple(shards))
            domains.append(Domain(name, split.tokens, split, split, name))
        return Manifest(tuple(domains), Tokenizer("generated", vocabulary, 0, "generated"), tmp_path)

    return make
