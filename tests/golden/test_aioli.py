"""Aioli's update worked by hand: LearnParams, normalisation, the multiplicative and the memoryless step.

Source of the algorithm: Chen et al. 2024, arXiv:2411.05735; of the memoryless step its reference code at a236112. For
h = .75, A = [[.40, .10], [.05, .30]] and eta = .2 the numbers are arithmetic: beta_ij = .75 A_ij + .25 A_ij', the
columns of Abar sum to .45 / .85 and .40 / .85.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mixopt.mixture import FloatArray, Mixture, Segment
from mixopt.policies.aioli import Aioli, State, learn, normalise, step
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
    assert step(np.array([0.7, 0.3]), same, ETA) == pytest.approx(np.array([0.7, 0.3]))


def test_steps() -> None:
    once = step(np.array([0.5, 0.5]), normalise(A_DD), ETA)
    assert once == pytest.approx(FIRST, abs=1e-6)
    assert step(once, normalise(A_DD), ETA) == pytest.approx(SECOND, abs=1e-6)
    assert step(np.ones(2), normalise(A_DD), ETA) == pytest.approx(FIRST, abs=1e-6)


@pytest.mark.parametrize(("ema", "second"), [(None, SECOND), (0.1, FIRST), (0.0, FIRST)])
def test_two_rounds_of_a_run_whose_losses_fall_by_a(ema: float | None, second: tuple[float, float]) -> None:
    """A probe on p lowers the losses by A p. Both modes agree after a round; only the multiplicative one goes on."""
    policy = Aioli(eta=ETA, rounds=2, sweeps=3, probe_share=0.6, one_hot=H, ema=ema)
    states = [state for _, state, _ in follow(policy, 200)]
    assert states[6].p == pytest.approx(FIRST, abs=1e-6)
    assert states[13].p == pytest.approx(second, abs=1e-6)
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
    assert state.p == pytest.approx(np.exp(ETA * mean_D) / np.exp(ETA * mean_D).sum())


def test_probes_take_their_share_and_average_to_uniform() -> None:
    policy = Aioli(rounds=4, sweeps=2, probe_share=0.4)
    *_, (seen, state, _) = follow(policy, 400)
    assert (seen, policy.evidence(state)) == (400, {"probe_share": 0.4})
    probes = [s for *_, s in follow(policy, 400) if max(s.mixture.values()) == policy.one_hot]
    assert {s.tokens for s in probes} == {10}
    assert sum(s.mixture["a"] * s.tokens for s in probes) == pytest.approx(80)


def follow(
    policy: Aioli, total: int, matrix: Callable[[int], FloatArray] = lambda seen: A_DD
) -> list[tuple[int, State, Segment]]:
    """(tokens seen, state, segment just trained) after every segment; probes are 10 tokens or more."""
    L_D: FloatArray = np.array([5.0, 4.0])
    state, seen, walked = policy.init(NAMES, Feedback(0, total, {"valid": L_D})), 0, []
    while seen < total:
        segment = policy.segment(state)
        seen += segment.tokens
        L_D = L_D - matrix(seen) @ segment.mixture.array(NAMES)
        state = policy.update(state, Feedback(seen, total, {"valid": L_D}))
        walked.append((seen, state, segment))
    return walked


def test_the_first_mixture_is_the_start() -> None:
    start = Mixture({"a": 0.9, "b": 0.1})
    walked = follow(Aioli(eta=ETA, rounds=2, sweeps=1, start=dict(start)), 200)
    expected = np.array([0.9, 0.1]) * np.exp(ETA * normalise(A_DD).sum(axis=0))
    assert walked[2][2].mixture.array(NAMES) == pytest.approx(expected / expected.sum())
