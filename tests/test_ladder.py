"""The ladder: names that say what they count, and formulas that agree with the engine and with published counts."""

from __future__ import annotations

import pytest

from mixopt.errors import JobError
from mixopt.ladder import LADDER, NAMED_AT, Shape, shape

UNITS = {"m": 1e6, "b": 1e9}


@pytest.mark.parametrize("name", LADDER)
def test_a_name_is_its_count_of_parameters(name: str) -> None:
    said = float(name[:-1]) * UNITS[name[-1]]
    counted = LADDER[name].body if name == "1m" else LADDER[name].parameters(NAMED_AT)
    assert counted == pytest.approx(said, rel=0.1)


@pytest.mark.parametrize("form", LADDER.values(), ids=LADDER)
def test_heads_divide_the_width_and_one_another(form: Shape) -> None:
    assert form.d_model % (2 * form.heads) == 0, "RoPE turns pairs"
    assert form.heads % form.kv_heads == 0


def test_published_counts() -> None:
    """Counts of safetensors at huggingface.co/meta-llama: Meta-Llama-3-8B, and Llama-3.2-3B, which ties its embeddings."""
    assert LADDER["8b"].parameters(128_256) == 8_030_261_248
    assert LADDER["3b"].parameters(128_256) - 3072 * 128_256 == 3_212_749_824


def test_attention_costs_what_its_pairs_cost() -> None:
    """A row of S tokens has S (S + 1) / 2 pairs; a pair costs two products of d, in three passes, two FLOPs each."""
    form, vocabulary, row = LADDER["160m"], 1000, 512
    pairs = row * (row + 1) / 2
    per_token = form.layers * 12 * form.d_model * pairs / row
    assert form.flops(vocabulary, row) == 6 * (form.parameters(vocabulary) - form.d_model * vocabulary) + per_token


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(JobError, match=r"unknown name '150m'.*160m"):
        shape("150m")
