"""What repeated tokens are worth."""

from __future__ import annotations

import numpy as np
import pytest

from mixopt.errors import JobError
from mixopt.repetition import SATURATION, effective_tokens, fresh_equivalent


@pytest.mark.parametrize(("epochs", "worth"), [(2, 0.984), (4, 0.931), (5, 0.904), (16, 0.661), (40, 0.379)])
def test_the_published_values(epochs: float, worth: float) -> None:
    """Worth of a token relative to a fresh one; arXiv:2305.16264 with R* = 15.39."""
    assert effective_tokens(np.array(epochs * 1e9), np.array(1e9)) / (epochs * 1e9) == pytest.approx(worth, abs=5e-4)


def test_fresh_tokens_count_as_they_are() -> None:
    tokens = np.array([0.0, 1.0, 5e8, 1e9])
    np.testing.assert_array_equal(effective_tokens(tokens, np.array(1e9)), tokens)
    np.testing.assert_array_equal(effective_tokens(tokens, np.array(np.inf)), tokens)


def test_worth_grows_without_a_step_and_saturates() -> None:
    epochs = np.linspace(0.5, 400, 4000)
    worth = effective_tokens(epochs, np.array(1.0))
    assert (np.diff(worth) > 0).all()
    assert np.diff(worth).max() <= np.diff(epochs).max() + 1e-12
    assert worth[-1] == pytest.approx(1 + SATURATION, rel=1e-6)
    just_above = effective_tokens(np.array(1 + 1e-6), np.array(1.0))
    assert just_above == pytest.approx(1 + 1e-6, abs=1e-12)


def test_slow_saturation_is_almost_fresh_and_fast_saturation_almost_nothing() -> None:
    assert effective_tokens(np.array(4.0), np.array(1.0), 1e6) == pytest.approx(4, abs=1e-5)
    assert effective_tokens(np.array(4.0), np.array(1.0), 1e-3) == pytest.approx(1.001, abs=1e-9)


def test_units_do_not_matter() -> None:
    tokens, available = np.array([1e9, 7e9]), np.array([2e9, 1e9])
    np.testing.assert_allclose(
        effective_tokens(tokens, available), 1e9 * effective_tokens(tokens / 1e9, available / 1e9)
    )


def test_a_run_is_worth_another_mixture_of_fewer_tokens() -> None:
    X_ND, tokens_N = np.array([[0.5, 0.5], [0.1, 0.9]]), np.array([8e9, 1e9])
    q_ND, worth_N = fresh_equivalent(X_ND, tokens_N, np.array([1e9, np.inf]))
    first = 1e9 * (1 + SATURATION * (1 - np.exp(-3 / SATURATION)))
    np.testing.assert_allclose(worth_N, [first + 4e9, 1e9])
    np.testing.assert_allclose(q_ND[0], np.array([first, 4e9]) / (first + 4e9))
    np.testing.assert_allclose(q_ND[1], X_ND[1])
    same_ND, same_N = fresh_equivalent(X_ND, tokens_N, None)
    np.testing.assert_array_equal(same_ND, X_ND)
    np.testing.assert_array_equal(same_N, tokens_N)


def test_a_domain_without_text_may_be_left_out_and_not_read() -> None:
    assert effective_tokens(np.array([0.0, 3.0]), np.array([0.0, 5.0])).tolist() == [0.0, 3.0]
    with pytest.raises(JobError, match="needs available tokens .got 0.*infinity if it never repeats"):
        effective_tokens(np.array([1.0, 3.0]), np.array([0.0, 5.0]))


@pytest.mark.parametrize(
    ("tokens", "available", "saturation", "message"),
    [
        (-1.0, 1.0, 15.39, "tokens must be >= 0 and finite .got -1"),
        (np.nan, 1.0, 15.39, "got nan"),
        (np.inf, 1.0, 15.39, "got inf"),
        (1.0, np.nan, 15.39, "available tokens .got nan"),
        (1.0, -1.0, 15.39, "available tokens .got -1"),
        (1.0, 1.0, 0.0, "saturation must be greater than 0"),
    ],
)
def test_bad_input_is_refused(tokens: float, available: float, saturation: float, message: str) -> None:
    with pytest.raises(JobError, match=message):
        effective_tokens(np.array(tokens), np.array(available), saturation)
