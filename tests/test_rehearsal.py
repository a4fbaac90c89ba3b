"""A run without training: what is counted is what the trainer would measure and train beside it."""

from __future__ import annotations

import pytest

from mixopt.errors import JobError
from mixopt.mixture import Mixture
from mixopt.policies.aioli import Aioli
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policy import Fixed
from mixopt.rehearsal import affordable, begin, beside, readings

NAMES = ("a", "b", "c")
EVEN = Fixed(Mixture(dict.fromkeys(NAMES, 1 / 3)))


def test_probes_of_a_step_cost_the_same_beside_runs_of_any_length() -> None:
    """A look-ahead of one step of 100 tokens for each of three domains at the end of most rounds."""
    policy = DynamixSFT(rounds=10)
    short, long = (beside(policy, NAMES, total, 100) for total in (10_000, 100_000))
    assert short == long
    assert short in (9 * 300, 10 * 300)


def test_the_longest_affordable_run() -> None:
    policy = DynamixSFT(rounds=10)
    assert affordable(EVEN, NAMES, 20_000, 100) == 20_000
    tokens = affordable(policy, NAMES, 20_000, 100)
    assert 19_800 <= tokens + beside(policy, NAMES, tokens, 100) <= 20_000
    with pytest.raises(
        JobError, match="its probes alone take .* the search budget is 2,500|rounds do not fit into a run"
    ):
        affordable(DynamixSFT(rounds=24), NAMES, 2_500, 100)


def test_held_out_text_is_read_at_the_start_and_after_each_segment() -> None:
    """Two sweeps of three probes and the rest of four rounds, a quarter of the text each time."""
    assert readings(Aioli(rounds=4, sweeps=2, part=0.25), NAMES, 100_000, 100) == pytest.approx(0.25 * (1 + 4 * 7))
    assert readings(EVEN, NAMES, 1000, 100) == 0


def test_a_policy_that_cannot_feed_a_run_says_so() -> None:
    with pytest.raises(JobError, match=r"method\.probe_share: .* less than a step \(100\)"):
        begin(Aioli(rounds=50), NAMES, 10_000, 100)
