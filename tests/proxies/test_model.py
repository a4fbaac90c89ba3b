"""The decoder: causal, the same alone and in a stack, sized as its name says."""

from __future__ import annotations

import math

import pytest
import torch

from proxies.model import init, stack, token_losses
from proxies.sizes import SIZES, Shape, batch_rows, learning_rate

SMALL = SIZES["10k"]


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def awake(params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters whose zero-initialised projections are not zero, so that every layer matters."""
    g = torch.Generator().manual_seed(9)
    return {n: p if p.abs().sum() > 0 else torch.randn(p.shape, generator=g) * 0.1 for n, p in params.items()}


def test_loss_at_start_is_near_uniform() -> None:
    loss = token_losses(init(SMALL, 64, 0), SMALL, rows(4, 33)).mean()
    assert loss.item() == pytest.approx(math.log(64), abs=0.1)


def test_stack_equals_members() -> None:
    members = [awake(init(SMALL, 64, seed)) for seed in range(3)]
    data = rows(3, 4, 33)
    together = token_losses(stack(members), SMALL, data)
    alone = torch.stack([token_losses(m, SMALL, d) for m, d in zip(members, data, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_causal() -> None:
    params = awake(init(SMALL, 64, 0))
    data = rows(1, 33)
    changed = data.clone()
    changed[0, 20] = (data[0, 20] + 1) % 64
    before, after = token_losses(params, SMALL, data), token_losses(params, SMALL, changed)
    assert torch.equal(before[0, :19], after[0, :19])
    assert not torch.equal(before[0, 20:], after[0, 20:])


@pytest.mark.parametrize("name", SIZES)
def test_size_is_what_its_name_says(name: str) -> None:
    unit = {"k": 1e3, "m": 1e6}[name[-1]]
    assert SIZES[name].parameters == pytest.approx(float(name[:-1]) * unit, rel=0.2)
    assert SIZES[name].width % (2 * SIZES[name].heads) == 0


def test_parameters_are_counted() -> None:
    params = init(SMALL, 64, 0)
    inner = sum(p.numel() for n, p in params.items() if n not in ("embed", "head"))
    assert inner == SMALL.parameters


def test_ladder_reaches_60m() -> None:
    assert any(s.parameters >= 59e6 for s in SIZES.values())


def test_step_law_inside_its_range() -> None:
    """The published rows: (214.7M, 1e11 tokens) -> 4.890e-3 and 540.9 rows of 2048 tokens."""
    assert learning_rate(214_663_680, 10**11).value == pytest.approx(4.890e-3, rel=1e-3)
    assert batch_rows(10**11, 2048).value == 541
    assert Shape(960, 7, 10, 9368, 2048).parameters == pytest.approx(214_663_680, rel=2e-4)


def test_outside_the_range_is_said() -> None:
    assert "own small-size rule; Step Law was fitted on 60M to 1B" in learning_rate(100_000, 10**6).reason
    assert "at least 4 rows and 100 steps" in batch_rows(10**6, 128).reason


def test_step_law_holds_for_the_sizes_it_was_fitted_on() -> None:
    assert "Step Law, fitted" in learning_rate(SIZES["60m"].parameters, 10**9).reason
