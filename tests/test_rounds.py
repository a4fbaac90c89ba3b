"""What policies share that adapt in rounds: where a round ends, and which knobs are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mixopt.errors import JobError
from mixopt.policies.ado import ADO
from mixopt.policies.aioli import Aioli
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policies.odm import ODM
from mixopt.policies.rounds import Round
from mixopt.policy import Feedback


def test_the_next_round_makes_up_for_one_that_was_too_long() -> None:
    first = Round(4, 1000)
    second = first.after(Feedback(260, 1000, {}))
    assert [first.tokens, second.tokens] == [250, 240]


@pytest.mark.parametrize("policy", [ADO(), DynamixSFT(), ODM()])
def test_rounds_shorter_than_a_step_are_refused(policy: Any) -> None:
    with pytest.raises(JobError, match=r"method\.rounds: 60 rounds do not fit into a run of 50 training steps"):
        policy.init(("a", "b"), Feedback(0, 500, {}, step=10))


@pytest.mark.parametrize(("make", "knob"), [(ADO, "prior"), (DynamixSFT, "prior"), (ODM, "start"), (Aioli, "start")])
@pytest.mark.parametrize("sizes", [{"a": 0.6, "b": 0.6}, {"a": -0.5, "b": 1.5}, {}])
def test_what_is_no_mixture_is_refused_by_the_name_of_its_knob(
    make: Callable[..., Any], knob: str, sizes: dict[str, float]
) -> None:
    with pytest.raises(JobError, match=rf"^method\.{knob}: proportions (sum to|must be)"):
        make(**{knob: sizes})
