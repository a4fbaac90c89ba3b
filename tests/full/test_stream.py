"""The loader of a full run: all workers' rows are the sampler's batch, for any number of them, and after any restart."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from pipelines.full.course import Course
from pipelines.full.stream import Batch, Stream

PHASES = [([0.5, 0.25, 0.25], 3), ([0.0, 0.5, 0.5], 4), ([0.9, 0.1, 0.0], 2)]


def stream(course: Course, rank: int = 0, world: int = 1) -> Stream:
    return Stream(course.sampler, rank, world)


def read(own: Stream, phases: list = PHASES) -> list[Batch]:
    batches = []
    for w, steps in phases:
        own.follow(np.array(w), steps)
        batches += [own.next() for _ in range(steps)]
    return batches


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_the_rows_of_all_workers_are_the_batch_of_the_sampler(course: Callable[..., Course], world: int) -> None:
    run = course(launch={"device": "cpu"})
    of_each = [read(stream(run, rank, world)) for rank in range(world)]
    drawn_D, first = np.zeros(3, dtype=np.int64), 0
    for w, steps in PHASES:
        rows, drawn_D = run.sampler.rows(np.array(w), first, steps, drawn_D)
        for t in range(steps):
            own = [batches[first + t] for batches in of_each]
            together = np.empty_like(rows[t])
            for rank, batch in enumerate(own):
                together[rank::world] = batch.rows
            assert np.array_equal(together, rows[t])
            assert all(np.array_equal(batch.counts_D, own[0].counts_D) for batch in own)
            domains = np.concatenate([batch.domains_N for batch in own])
            assert np.array_equal(np.bincount(domains, minlength=3), own[0].counts_D)
        first += steps
        assert np.array_equal(own[0].drawn_D, drawn_D)


@pytest.mark.parametrize("at", range(10))
def test_a_restart_in_another_number_of_workers_reads_on(course: Callable[..., Course], at: int) -> None:
    run = course()
    whole, before, left = read(stream(run)), stream(run, 0, 2), list(PHASES)
    while before.step < at:
        if before.step == before.until:
            w, steps = left.pop(0)
            before.follow(np.array(w), steps)
        before.next()
    after = stream(run)
    after.load(json.loads(json.dumps(before.state())))
    seen = [after.next() for _ in range(after.until - at)]
    seen += read(after, left)
    assert (after.step, len(seen)) == (len(whole), len(whole) - at)
    for mine, theirs in zip(seen, whole[at:], strict=True):
        assert np.array_equal(mine.rows, theirs.rows)
        assert np.array_equal(mine.drawn_D, theirs.drawn_D)


def test_equal_segments_are_one_in_the_history(course: Callable[..., Course]) -> None:
    own = stream(course())
    read(own, [([0.5, 0.5, 0.0], 2), ([0.5, 0.5, 0.0], 3), ([0.0, 0.5, 0.5], 1)])
    assert own.state()["history"] == [[[0.5, 0.5, 0.0], 5], [[0.0, 0.5, 0.5], 1]]


def test_nothing_is_read_of_which_nobody_knows_the_mixture(course: Callable[..., Course]) -> None:
    own = stream(course())
    with pytest.raises(ValueError, match="nothing is known of step 0"):
        own.next()
    own.follow(np.array([1.0, 0.0, 0.0]), 2)
    own.next()
    with pytest.raises(ValueError, match="ends at step 2, this is step 1"):
        own.follow(np.array([0.0, 1.0, 0.0]), 2)
    own.next()
    own.follow(np.array([0.0, 1.0, 0.0]), 1)
    assert set(own.next().domains_N.tolist()) == {1}  # nothing was read ahead past the end of the segment


def test_a_domain_is_read_whole_before_a_row_returns(course: Callable[..., Course]) -> None:
    run = course()
    blocks = run.store.blocks("law")
    own = stream(run)
    own.follow(np.array([0.0, 1.0, 0.0]), -(-blocks // run.rows))
    rows = np.concatenate([own.next().rows for _ in range(blocks // run.rows)])
    assert len(np.unique(rows, axis=0)) == len(rows)
