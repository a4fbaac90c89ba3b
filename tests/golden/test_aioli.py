"""Aioli's update worked by hand: LearnParams, normalisation, the multiplicative and the memoryless step.

Source of the algorithm: Chen et al. 2024, arXiv:2411.05735; of the memoryless step its reference code at a236112. For
h = .75, A = [[.40, .10], [.05, .30]] and eta = .2 the numbers are arithmetic: beta_ij = .75 A_ij + .25 A_ij', the
columns of Abar sum to .45 / .85 and .40 / .85.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from mixopt.mixture import SMALLEST, FloatArray, Mixture, Segment
from mixopt.policies.aioli import Aioli, State, learn, normalise
from mixopt.policies.rounds import exponentiated
from mixopt.policy import Feedback

NAMES = ("a", "b")
A_DD = np.array([[0.40, 0.10], [0.05, 0.30]])
BETA_DD = np.array([[0.325, 0.175], [0.1125, 0.2375]])
H, ETA = 0.75, 0.2
FIRST, SECOND = (0.502941, 0.497059), (0.505882, 0.494118)


def test_learn_returns_what_the_probes_were_made_of() -> None:
    assert learn(BETA_DD, H) == pytest.approx(A_DD, abs=1e-12)
    assert learn(A_DD, 1.0) == pytest.approx(A_DD)


def test_learn_solves_row_by_row() -> None:
    """With three domains and a matrix that is not symmetric rows and columns are not confused."""
    A = np.array([[0.5, 0.1, 0.0], [0.2, 0.6, 0.3], [0.0, 0.1, 0.4]])
    W = np.full((3, 3), 0.2) + 0.4 * np.eye(3)
    beta = np.stack([A @ W[j] for j in range(3)], axis=1)
    assert learn(beta, 0.6) == pytest.approx(A, abs=1e-12)


def test_normalised_columns() -> None:
    assert normalise(A_DD).sum(axis=0) == pytest.approx([0.529412, 0.470588], abs=1e-6)


def test_a_negative_entry_shifts_all() -> None:
    A = np.array([[0.40, -0.10], [0.05, 0.30]])
    assert normalise(A) == pytest.approx(np.array([[0.476190, 0.0], [0.142857, 0.380952]]), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.3, 0.3])
def test_entries_that_are_all_alike_move_nothing(value: float) -> None:
    same = normalise(np.full((2, 2), value))
    assert same == pytest.approx(np.full((2, 2), 0.25))
    assert step([0.7, 0.3], same) == pytest.approx([0.7, 0.3])


def test_steps() -> None:
    once = step([0.5, 0.5], normalise(A_DD))
    assert once == pytest.approx(FIRST, abs=1e-6)
    assert step(once, normalise(A_DD)) == pytest.approx(SECOND, abs=1e-6)


def step(p: Sequence[float], A_DD: FloatArray) -> list[float]:
    moved = exponentiated(Mixture(dict(zip(NAMES, p, strict=True))), NAMES, ETA * A_DD.sum(axis=0))
    return [moved[name] for name in NAMES]


@pytest.mark.parametrize(("ema", "second"), [(None, SECOND), (0.1, FIRST), (0.0, FIRST)])
def test_two_rounds_of_a_run_whose_losses_fall_by_a(ema: float | None, second: tuple[float, float]) -> None:
    """A probe on p lowers the losses by A p. Both modes agree after a round; only the multiplicative one goes on."""
    policy = Aioli(eta=ETA, rounds=2, sweeps=3, probe_share=0.6, one_hot=H, ema=ema)
    states = [state for _, state, _ in follow(policy, 200)]
    assert states[6].p.array(NAMES) == pytest.approx(FIRST, abs=1e-6)
    assert states[13].p.array(NAMES) == pytest.approx(second, abs=1e-6)
    assert policy.matrix(states[13]) == pytest.approx(normalise(A_DD))
    assert policy.matrix(states[4]) is None


def test_the_moving_average_weighs_the_round_before() -> None:
    """Rounds with column sums s and then t (swapped): with ema = .25 the second p follows .75 t + .25 s."""
    policy = Aioli(eta=ETA, rounds=2, sweeps=1, probe_share=0.5, one_hot=H, ema=0.25)
    swapped_DD = A_DD[::-1, ::-1]
    state = next(
        state for at, state, _ in follow(policy, 200, lambda seen: A_DD if seen <= 100 else swapped_DD) if at == 150
    )
    mean_D = 0.75 * normalise(swapped_DD).sum(axis=0) + 0.25 * normalise(A_DD).sum(axis=0)
    assert state.p.array(NAMES) == pytest.approx(np.exp(ETA * mean_D) / np.exp(ETA * mean_D).sum())


def test_probes_take_their_share_and_average_to_uniform() -> None:
    policy = Aioli(rounds=4, sweeps=2, probe_share=0.4)
    *_, (seen, state, _) = follow(policy, 400)
    assert (seen, policy.evidence(state)) == (400, {"probe_share": 0.4})
    probes = [s for *_, s in follow(policy, 400) if max(s.mixture.values()) == policy.one_hot]
    assert {s.tokens for s in probes} == {10}
    assert sum(s.mixture["a"] * s.tokens for s in probes) == pytest.approx(80)


def follow(
    policy: Aioli,
    total: int,
    matrix: Callable[[int], FloatArray] = lambda seen: A_DD,
    cut: Callable[[int, Segment], Mixture | None] = lambda seen, segment: None,
) -> list[tuple[int, State, Segment]]:
    """(tokens seen, state, segment just trained) after every segment; probes are 10 tokens or more."""
    L_D: FloatArray = np.array([5.0, 4.0])
    state, seen, walked = policy.init(NAMES, Feedback(0, total, {"valid": L_D})), 0, []
    while seen < total:
        segment = policy.segment(state)
        seen += segment.tokens
        trained = cut(seen, segment)
        L_D = L_D - matrix(seen) @ (trained or segment.mixture).array(NAMES)
        state = policy.update(state, Feedback(seen, total, {"valid": L_D}, trained=trained))
        walked.append((seen, state, segment))
    return walked


def test_the_first_mixture_is_the_start() -> None:
    start = Mixture({"a": 0.9, "b": 0.1})
    walked = follow(Aioli(eta=ETA, rounds=2, sweeps=1, start=dict(start)), 200)
    expected = np.array([0.9, 0.1]) * np.exp(ETA * normalise(A_DD).sum(axis=0))
    assert walked[2][2].mixture.array(NAMES) == pytest.approx(expected / expected.sum())


def test_a_round_with_a_cut_probe_moves_nothing() -> None:
    """Of three rounds the second has a probe of `a` of which a limit left nothing: p and A stay until the third is learnt."""
    even = Mixture({"a": 0.5, "b": 0.5})

    def cut(seen: int, segment: Segment) -> Mixture | None:
        return even if 100 < seen <= 200 and segment.mixture["a"] == H else None

    policy = Aioli(eta=ETA, rounds=3, sweeps=2, probe_share=0.4, one_hot=H)
    walked = follow(policy, 300, cut=cut)
    ends = {seen: state for seen, state, _ in walked if seen % 100 == 0}
    assert ends[100].p.array(NAMES) == pytest.approx(FIRST, abs=1e-6)
    assert (ends[200].p, ends[200].A) == (ends[100].p, ends[100].A)
    assert ends[300].p.array(NAMES) == pytest.approx(SECOND, abs=1e-6)
    assert policy.evidence(ends[100]) == pytest.approx({"probe_share": 0.4})
    assert policy.evidence(ends[300]) == pytest.approx({"probe_share": 0.4, "cut_rounds": 1})


def test_a_mixture_cut_in_the_rest_of_a_round_was_no_probe() -> None:
    even = Mixture({"a": 0.5, "b": 0.5})
    policy = Aioli(eta=ETA, rounds=2, sweeps=1, probe_share=0.4, one_hot=H)
    *_, (_, state, _) = follow(policy, 200, cut=lambda seen, segment: even if seen % 100 == 0 else None)
    assert state.p.array(NAMES) == pytest.approx(SECOND, abs=1e-6)
    assert "cut_rounds" not in policy.evidence(state)


def test_no_proportion_ends_at_zero() -> None:
    """All that helps is `a`: 20 rounds of 25 nats would take 1e-200 of `b` beyond what numbers hold."""
    only_a = np.array([[1.0, 0.0], [0.0, 0.0]])
    policy = Aioli(eta=25.0, rounds=20, sweeps=1, start={"a": 1.0, "b": 1e-200})
    *_, (_, state, _) = follow(policy, 2000, lambda seen: only_a)
    assert state.p["b"] == pytest.approx(SMALLEST)


def test_rounds_end_at_the_nearest_step() -> None:
    """Three rounds of 100 tokens in steps of 7, each segment trained to its nearest step: 33.3, 66.7 and 100 tokens."""
    policy = Aioli(rounds=3, sweeps=1, probe_share=0.5)
    state, seen, ends = policy.init(NAMES, Feedback(0, 100, {"valid": np.ones(2)}, 7)), 0, []
    while seen < 100:
        seen += max(1, round(policy.segment(state).tokens / 7)) * 7
        state = policy.update(state, Feedback(seen, 100, {"valid": np.ones(2)}, 7))
        ends += [seen] if state.interval == 0 else []
    assert ends == [35, 70, 98]
