"""Rows on a device are those of the store, bit for bit, wherever the tokens are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mixopt.domains import Manifest
from proxies import resident
from proxies.resident import Resident, Streamed, fits, placed
from proxies.tokens import TokenStore

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", [Resident, Streamed])
@pytest.mark.parametrize("vocabulary", [300, 40_000, 65_536, 65_537, 200_000])
def test_rows_are_those_of_the_store(
    generated: Callable[[int], Manifest], vocabulary: int, kind: type[Resident | Streamed], device: str
) -> None:
    store = TokenStore(generated(vocabulary), 32)
    count = store.first("b") + store.blocks("b")
    for blocks in (np.arange(count), np.random.default_rng(0).integers(0, count, (2, 3, 4)), np.zeros((0, 4), int)):
        rows = kind(store, device).gather(blocks)
        assert (rows.dtype, rows.device.type) == (torch.int64, device)
        assert np.array_equal(rows.cpu().numpy(), store.gather(blocks))
    assert int(kind(store, device).gather(np.arange(count)).max()) == vocabulary - 1


def test_upload_in_pieces(generated: Callable[[int], Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    store, blocks = TokenStore(generated(40_000), 32), np.arange(79)
    whole = Resident(store, "cpu").gather(blocks)
    monkeypatch.setattr(resident, "PIECE", 64)
    assert torch.equal(Resident(store, "cpu").gather(blocks), whole)


def test_tokens_take_at_most_half_of_what_is_free(generated: Callable[[int], Manifest]) -> None:
    narrow = TokenStore(generated(300), 32)
    assert [fits(narrow, free) for free in (4 * 2600, 4 * 2600 - 1)] == [True, False]
    wide = TokenStore(generated(200_000), 32)
    assert [fits(wide, free) for free in (8 * 2600, 8 * 2600 - 1)] == [True, False]


def test_a_host_copies_nothing(corpus: Manifest) -> None:
    assert isinstance(placed(TokenStore(corpus, 64), "cpu"), Streamed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_device_holds_what_fits(corpus: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(placed(TokenStore(corpus, 64), "cuda"), Resident)
    monkeypatch.setattr(resident, "SHARE", 0.0)
    assert isinstance(placed(TokenStore(corpus, 64), "cuda"), Streamed)
