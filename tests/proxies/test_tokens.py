"""The sampler: exact shares, epochs without repetition, a pure function of (seed, step, history)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixopt.domains import Domain, Manifest, Split
from mixopt.errors import DataError
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


def test_rows_come_from_the_domain(corpus: Manifest, sampler: Sampler) -> None:
    """A row of `law` is a window of its own shards, also across two of them."""
    rows = sampler.store.rows("law", np.arange(sampler.store.blocks("law")))
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
    blocks = sampler.block(0, np.arange(3 * supply))
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
    tokens, target, share = 10_000, 2_000_000, 0.4
    wanted = supply_wanted(web, tokens, target)
    assert share * tokens / wanted == pytest.approx(share * target / web.tokens)
    assert supply_wanted(web, tokens, 10_000) == tokens
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
