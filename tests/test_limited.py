"""A policy within what the data allow: caps hold exactly, are shared by the others, and are lifted when there is room."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixopt.errors import RunFailed
from mixopt.mixture import Mixture, Schedule, Segment
from mixopt.policies.limited import Limited, filled
from mixopt.policies.odm import ODM
from mixopt.policy import Feedback, Fixed, Scheduled, plain

NAMES = ("a", "b", "c")
P = Mixture({"a": 0.5, "b": 0.3, "c": 0.2})
TURN = Mixture({"a": 0.0, "b": 0.5, "c": 0.5})


def walk(policy: Limited, total: int = 1000) -> list[Segment]:
    state, seen, segments = policy.init(NAMES, Feedback(0, total, {})), 0, []
    while seen < total:
        segment = policy.segment(state)
        seen += segment.tokens
        segments.append(segment)
        state = policy.load(json.loads(json.dumps(plain(policy.update(state, Feedback(seen, total, {}))))))
    return segments


def drawn(segments: list[Segment], name: str) -> float:
    return sum(s.tokens * s.mixture[name] for s in segments)


def test_the_excess_goes_to_the_others_in_proportion() -> None:
    """a may have .2: what is cut, .3, goes to b and c as 3 to 2; with b at .35 as well, the rest is c's."""
    (segment,) = walk(Limited(Fixed(P), {"a": 0.2}, 4))
    assert segment.mixture.array(NAMES) == pytest.approx(np.array([0.2, 0.48, 0.32]))
    (segment,) = walk(Limited(Fixed(P), {"a": 0.2, "b": 0.35}, 4))
    assert segment.mixture.array(NAMES) == pytest.approx(np.array([0.2, 0.35, 0.45]))


def test_what_fits_is_left_alone() -> None:
    assert walk(Limited(Fixed(P), {"a": 0.5, "c": 3.0}, 4)) == [Segment(P, 1000)]


def test_a_cap_counts_the_whole_run_and_the_policy_recovers() -> None:
    """a may be .3 of the run: .5 of the first half are 250 tokens, 50 are left for 400 tokens of phase 3."""
    phases = Scheduled(Schedule(((0.0, P), (0.5, TURN), (0.6, P))))
    first, second, third = walk(Limited(phases, {"a": 0.3}, 4))
    assert (first.mixture, second.mixture) == (P, TURN)
    assert third.mixture["a"] == pytest.approx(50 / 400)
    assert third.mixture["b"] / third.mixture["c"] == pytest.approx(1.5)
    assert drawn([first, second, third], "a") == pytest.approx(300)
    again = Scheduled(Schedule(((0.0, P), (0.5, Mixture({"a": 0.9, "b": 0.0, "c": 0.1})), (0.9, P))))
    segments = walk(Limited(again, {"a": 0.6, "b": 0.2}, 4))
    assert segments[2].mixture["b"] == pytest.approx(0.5)  # half of b's 200 tokens are left for the last 100; a has 0
    assert segments[2].mixture["a"] == pytest.approx(0, abs=1e-9)


def test_a_pace_leaves_some_for_the_end() -> None:
    """a may be .2 of the run and is wanted at .5: paced, it is drawn at .2 all along, after a start of 50 tokens more."""
    rounds = Scheduled(
        Schedule(tuple((k / 10, P if k % 2 else Mixture({"a": 0.5, "b": 0.2, "c": 0.3})) for k in range(10)))
    )
    hasty, paced = (walk(Limited(rounds, {"a": 0.2}, 4, ahead=ahead)) for ahead in (1.0, 0.05))
    assert [s.mixture["a"] for s in hasty[:5]] == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.0], abs=1e-9)
    assert [s.mixture["a"] for s in paced[:5]] == pytest.approx([0.3, 0.2, 0.2, 0.2, 0.2])
    assert drawn(paced, "a") == pytest.approx(200)
    only_a = Scheduled(Schedule(((0.0, Mixture({"a": 1.0, "b": 0.0, "c": 0.0})), (0.1, TURN))))
    assert walk(Limited(only_a, {"a": 0.2}, 4, ahead=0.05))[0].mixture["a"] == 1  # it wants nothing else


def test_running_dry_is_an_error_where_it_is_to_be_one() -> None:
    policy = Limited(Fixed(P), {"a": 0.2}, 4, dry="error")
    state = policy.init(NAMES, Feedback(0, 1000, {}))
    with pytest.raises(
        RunFailed, match=r"domain 'a' would run dry: 500 tokens .* 10 epochs, max_epochs is 4 \(200 tokens\)"
    ):
        policy.segment(state)


def test_exhausted_domains_are_an_error() -> None:
    with pytest.raises(RunFailed, match=r"1,000 tokens, but 2 epochs of all its domains are only 900"):
        walk(Limited(Fixed(P), {"a": 0.2, "b": 0.3, "c": 0.4}, 2))
    only_a = Scheduled(Schedule(((0.0, P), (0.8, Mixture({"a": 1.0, "b": 0.0, "c": 0.0})))))
    with pytest.raises(RunFailed, match=r"after 800 of 1,000 tokens the policy draws a alone"):
        walk(Limited(only_a, {"a": 0.5}, 2))


def test_it_answers_for_its_policy() -> None:
    policy = Limited(ODM(), {"a": 0.4}, 4)
    assert policy.needs == ODM().needs
    assert not hasattr(policy, "matrix")
    assert not hasattr(policy, "answer")


@given(st.lists(st.floats(0, 1), min_size=4, max_size=4), st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
@settings(max_examples=100, deadline=None)
def test_filled_keeps_the_caps_and_the_sum(weights: list[float], most: list[float]) -> None:
    p_D = (np.array(weights) + 1e-3) / (sum(weights) + 4e-3)
    most_D = np.array(most)
    w_D = filled(p_D, most_D)
    assert (w_D <= most_D + 1e-8).all()
    assert w_D.sum() == pytest.approx(min(1.0, most_D.sum()), abs=1e-7)
    lifted_D = w_D[w_D < most_D - 1e-8] / p_D[w_D < most_D - 1e-8]
    assert np.ptp(lifted_D) < 1e-6 if len(lifted_D) else True
