"""The sampler: exact shares, epochs without repetition, a pure function of (seed, step, history)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from mixopt.domains import Domain, Manifest, Shard, Split, Tokenizer
from mixopt.errors import DataError
from proxies import tokens
from proxies.tokens import Sampler, TokenStore, check_lengths, key, permute, supply_tokens, supply_wanted

W_D = np.array([0.62, 0.3, 0.08])


@pytest.fixture
def sampler(corpus: Manifest) -> Sampler:
    return Sampler(TokenStore(corpus, 64), corpus.names, [100, 100, 10], batch=8, seed=3)


@given(st.integers(1, 5000), st.integers(0, 2**40))
def test_permutation_is_one(size: int, seed: int) -> None:
    image = permute(np.arange(size), size, key(seed, "web", "test"))
    assert np.array_equal(np.sort(image), np.arange(size))


def test_permutations_differ_by_key() -> None:
    images = {tuple(permute(np.arange(50), 50, key(seed, "web", "test"))) for seed in range(20)}
    assert len(images) == 20


def test_one_call_permutes_ranges_of_different_sizes() -> None:
    sizes, seed = np.array([1, 2, 7, 1000, 40_000]), key(0, "web", "test")
    keys = seed + np.arange(5, dtype=np.uint64)
    positions = sizes // 2
    alone = [permute(np.array([i]), int(n), k)[0] for i, n, k in zip(positions, sizes, keys, strict=True)]
    assert permute(positions, sizes, keys).tolist() == alone


def keyed(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**63, count, dtype=np.uint64)


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10])
def test_small_permutations_favour_no_position(size: int) -> None:
    keys = keyed(100_000)
    for i in range(size):
        images = np.bincount(permute(np.full(len(keys), i), size, keys), minlength=size)
        assert np.abs(images * size / len(keys) - 1).max() < 0.07


def test_permutations_are_uniform_over_pairs() -> None:
    """Of where one position goes, nothing follows for the next one, nor for the one a line below in the network."""
    size, keys = 100, keyed(200_000)
    for i, j in ((0, 1), (98, 99), (40, 50), (0, 99)):
        a, b = (permute(np.full(len(keys), k), size, keys) for k in (i, j))
        pairs = np.bincount(a * size + b, minlength=size * size).reshape(size, size)
        assert np.diag(pairs).sum() == 0
        assert chisquare(pairs[~np.eye(size, dtype=bool)]).pvalue > 1e-3


@pytest.mark.parametrize("size", [1000, 15_625, 30_011])
def test_large_permutations_are_uniform_over_distances(size: int) -> None:
    keys = keyed(200_000)
    for distance in (1, 2, round(size**0.5), size // 2):
        start = np.arange(len(keys)) % (size - distance)
        moved = (permute(start + distance, size, keys) - permute(start, size, keys)) % size
        assert chisquare(np.bincount(moved, minlength=size)[1:]).pvalue > 1e-3


def test_block_numbers_run_through_domains_and_shards(corpus: Manifest) -> None:
    """Any arrangement of the numbers gathers the same windows as the files do one by one."""
    store = TokenStore(corpus, 64)
    assert [store.first(name) for name in corpus.names] == [0, 312, 312 + 311]
    windows = [
        np.lib.stride_tricks.sliding_window_view(np.fromfile(corpus.root / shard.path, "<u2"), 65)[::64]
        for domain in corpus.domains
        for shard in domain.train.shards
    ]
    every = np.concatenate(windows)
    blocks = np.random.default_rng(0).integers(0, len(every), (3, 2, 50))
    rows = store.gather(blocks)
    assert rows.dtype == np.int64
    assert np.array_equal(rows, every[blocks])
    assert store.gather(blocks[:, :0]).shape == (3, 0, 50, 65)
    assert store.gather(blocks, dtype=store.dtype).dtype == np.dtype("<u2")


@pytest.mark.parametrize("block", [-1, 935])
def test_a_block_that_is_not_there(corpus: Manifest, block: int) -> None:
    with pytest.raises(IndexError, match=rf"from 0 to 934 \(got {min(0, block)} to {max(0, block)}\)"):
        TokenStore(corpus, 64).gather(np.array([0, block]))


def test_blocks_and_rows_are_of_one_mind(corpus: Manifest, sampler: Sampler) -> None:
    none = np.zeros(3, dtype=np.int64)
    blocks, drawn_D = sampler.blocks(W_D, 5, 7, none)
    rows, again_D = sampler.rows(W_D, 5, 7, none)
    assert blocks.shape == (7, 8)
    assert np.array_equal(sampler.store.gather(blocks), rows)
    assert drawn_D.tolist() == again_D.tolist() == sampler.counts(W_D, 5, 7).sum(0).tolist()
    starts = [sampler.store.first(name) for name in corpus.names]
    domains = np.searchsorted(starts, blocks, side="right") - 1
    assert np.array_equal(domains, np.sort(domains, axis=1))
    assert np.bincount(domains.ravel()).tolist() == drawn_D.tolist()


def test_names_in_another_order_mean_the_same_domains(corpus: Manifest, sampler: Sampler) -> None:
    turned = Sampler(sampler.store, corpus.names[::-1], [10, 100, 100], batch=8, seed=3)
    draws = np.arange(25)
    for d in range(3):
        assert np.array_equal(turned.block(np.full(25, d), draws), sampler.block(np.full(25, 2 - d), draws))


@pytest.mark.parametrize(("vocabulary", "width"), [(65_536, 2), (65_537, 4), (200_000, 4)])
def test_vocabularies_of_any_size(generated: Callable[[int], Manifest], vocabulary: int, width: int) -> None:
    manifest = generated(vocabulary)
    store = TokenStore(manifest, 32)
    rows = store.gather(np.arange(store.blocks("a")))
    assert store.dtype.itemsize == width
    assert rows[0, 0] == vocabulary - 1
    flat = np.fromfile(manifest.root / "a-0", store.dtype)
    assert np.array_equal(rows[:31, :-1].ravel(), flat[: 31 * 32])


def test_a_store_opens_no_shard_before_it_is_read(tmp_path: Path) -> None:
    """More tokens than memory and more shards than files may be open, none of which is there."""
    shards = tuple(Shard(f"gone-{i}.u16", 1 << 28) for i in range(2000))
    split = Split(2000 << 28, 2000 << 30, 1, shards)
    names = ("a", "b")
    manifest = Manifest(
        tuple(Domain(n, split.tokens, split, split) for n in names), Tokenizer("x", 9, 0, "x"), tmp_path
    )
    store = TokenStore(manifest, 256)
    check_lengths(manifest, 256, 64)
    assert store.blocks("a") == store.first("b") == 2000 * ((1 << 20) - 1)
    blocks, _ = Sampler(store, names, [store.blocks(n) for n in names], 64, 0).blocks(
        np.ones(2) / 2, 10**6, 4, np.zeros(2, dtype=np.int64)
    )
    assert (blocks < store.first("b")).sum() == 128
    with pytest.raises(FileNotFoundError):
        store.gather(blocks)


def test_more_shards_than_are_held_open(generated: Callable[[int], Manifest], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = generated(300)
    blocks = np.random.default_rng(0).permutation(50)
    every = TokenStore(manifest, 32).gather(blocks)
    monkeypatch.setattr(tokens, "OPEN_SHARDS", 1)
    assert np.array_equal(TokenStore(manifest, 32).gather(blocks), every)


def test_rows_come_from_the_domain(corpus: Manifest, sampler: Sampler) -> None:
    """A row of `law` is a window of its own shards, also across two of them."""
    store = sampler.store
    rows = store.gather(store.first("law") + np.arange(store.blocks("law"))).astype("<u2")
    flat = [np.fromfile(corpus.root / s.path, dtype="<u2") for s in corpus["law"].train.shards]
    windows = {w.tobytes() for f in flat for w in np.lib.stride_tricks.sliding_window_view(f, 65)[::64]}
    assert {row.tobytes() for row in rows} == windows


def test_realised_shares_are_the_intended_ones(sampler: Sampler) -> None:
    drawn_D = sampler.drawn([(W_D, 5000)])
    assert drawn_D.sum() == 40_000
    assert np.abs(drawn_D - 40_000 * W_D).max() <= 4


def test_tiny_proportions_are_drawn(sampler: Sampler) -> None:
    w_D = np.array([0.9989, 0.001, 0.0001])
    assert np.abs(sampler.drawn([(w_D, 20_000)]) - 160_000 * w_D).max() <= 4


def test_zero_proportion_is_never_drawn(sampler: Sampler) -> None:
    for w_D in ([0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]):
        drawn_D = sampler.drawn([(np.array(w_D), 3000)])
        assert (drawn_D == 0).tolist() == [w == 0 for w in w_D]


def test_steps_do_not_depend_on_how_they_are_cut(sampler: Sampler) -> None:
    none = np.zeros(3, dtype=np.int64)
    whole, _ = sampler.rows(W_D, 0, 30, none)
    first, drawn_D = sampler.rows(W_D, 0, 11, none)
    rest, _ = sampler.rows(W_D, 11, 19, drawn_D)
    assert np.array_equal(whole, np.concatenate([first, rest]))


def test_resume_from_history_alone(sampler: Sampler) -> None:
    """Draws after a change of mixture are found again from the history, without the counters of the first run."""
    other_D = W_D[::-1].copy()
    _, drawn_D = sampler.rows(W_D, 0, 20, np.zeros(3, dtype=np.int64))
    straight, _ = sampler.rows(other_D, 20, 10, drawn_D)
    resumed, _ = sampler.rows(other_D, 20, 10, sampler.drawn([(W_D, 20)]))
    assert np.array_equal(straight, resumed)


def test_no_block_returns_before_the_supply_is_read(sampler: Sampler) -> None:
    supply = int(sampler.supply_D[0])
    blocks = sampler.block(np.zeros(3 * supply, dtype=np.int64), np.arange(3 * supply))
    epochs = blocks.reshape(3, supply)
    assert all(len(set(epoch)) == supply for epoch in epochs.tolist())
    assert len({tuple(sorted(epoch)) for epoch in epochs.tolist()}) == 1
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_seeds_share_the_stream_where_mixtures_agree(corpus: Manifest, sampler: Sampler) -> None:
    """Common random numbers: two mixtures with nearly the same proportions read nearly the same rows."""
    none = np.zeros(3, dtype=np.int64)
    a, _ = sampler.rows(W_D, 0, 20, none)
    b, _ = sampler.rows(np.array([0.61, 0.31, 0.08]), 0, 20, none)
    c, _ = Sampler(sampler.store, corpus.names, [100, 100, 10], batch=8, seed=4).rows(W_D, 0, 20, none)

    def shared(x: np.ndarray, y: np.ndarray) -> float:
        return len({r.tobytes() for r in x.reshape(-1, 65)} & {r.tobytes() for r in y.reshape(-1, 65)}) / 160

    assert shared(a, b) > 0.6 > shared(a, c)


def test_supply_repeats_as_often_as_the_real_run() -> None:
    web = Domain("web", 1_000_000, Split(tokens=500_000))
    budget, target, share = 10_000, 2_000_000, 0.4
    wanted = supply_wanted(web, budget, target)
    assert share * budget / wanted == pytest.approx(share * target / web.tokens)
    assert supply_wanted(web, budget, 10_000) == budget
    assert supply_tokens(wanted, blocks=1000, sequence=100) == 5000
    assert supply_tokens(wanted, blocks=7, sequence=100) == 700
    assert supply_tokens(0.3, blocks=7, sequence=100) == 100


@pytest.mark.parametrize(("sequence", "batch", "what"), [(4096, 1, "4000 held-out"), (640, 32, "20000 training")])
def test_domain_shorter_than_a_batch_is_refused(corpus: Manifest, sequence: int, batch: int, what: str) -> None:
    with pytest.raises(DataError, match=f"domain 'code': {what} tokens are too few"):
        check_lengths(corpus, sequence, batch)


def test_held_out_rows_are_the_same_for_every_run(corpus: Manifest) -> None:
    store = TokenStore(corpus, 64)
    first, second = store.held_out("web", 640), TokenStore(corpus, 64).held_out("web", 640)
    assert first.shape == (10, 65)
    assert np.array_equal(first, second)
