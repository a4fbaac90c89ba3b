"""The decoder: causal, the same alone and in a stack, sized as its name says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from proxies import loss
from proxies.model import mean_loss, token_losses
from proxies.parameters import Layout, init
from proxies.sizes import SIZES, Shape, batch_rows, learning_rate, member_bytes, rows_at_once

SMALL = Layout(SIZES["10k"], 64)
F32 = torch.float32


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 64, shape, generator=torch.Generator().manual_seed(seed))


def awake(seed: int) -> torch.Tensor:
    """A model [P] whose zero-initialised projections are not zero, so that every layer matters."""
    flat = init(SMALL, seed)
    noise = torch.randn(flat.shape, generator=torch.Generator().manual_seed(9)) * 0.1
    return torch.where(flat == 0, noise, flat)


def test_loss_at_start_is_near_uniform() -> None:
    loss = token_losses(init(SMALL, 0), SMALL, rows(4, 33), F32).mean()
    assert loss.item() == pytest.approx(math.log(64), abs=0.1)


def test_stack_equals_members() -> None:
    members = [awake(seed) for seed in range(3)]
    data = rows(3, 4, 33)
    together = token_losses(torch.stack(members), SMALL, data, F32)
    alone = torch.stack([token_losses(m, SMALL, d, F32) for m, d in zip(members, data, strict=True)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_causal() -> None:
    data = rows(1, 33)
    changed = data.clone()
    changed[0, 20] = (data[0, 20] + 1) % 64
    before, after = token_losses(awake(0), SMALL, data, F32), token_losses(awake(0), SMALL, changed, F32)
    assert torch.equal(before[0, :19], after[0, :19])
    assert not torch.equal(before[0, 20:], after[0, 20:])


@pytest.mark.parametrize("chunk", [1, 1000, 1 << 22])
def test_fused_loss_and_its_gradient_are_those_of_cross_entropy(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the size of the pieces, also of a stack whose members' losses are weighted differently."""
    monkeypatch.setitem(loss.CHUNK_BYTES, "cpu", chunk)
    monkeypatch.setattr(loss, "LEAST_ROWS", 1)
    g = torch.Generator().manual_seed(1)
    hidden, head = torch.randn(3, 20, 8, generator=g), torch.randn(3, 8, 64, generator=g)
    targets, scale = rows(3, 20), torch.tensor([1.0, 0.5, 2.0])
    found = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    wanted = [hidden.clone().requires_grad_(), head.clone().requires_grad_()]
    ours = loss.LinearCrossEntropy.apply(*found, targets)
    theirs = F.cross_entropy((wanted[0] @ wanted[1]).mT, targets, reduction="none").mean(-1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad((ours * scale).sum(), found),
        torch.autograd.grad((theirs * scale).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_training_and_held_out_losses_agree() -> None:
    members, data = torch.stack([awake(0), awake(1)]), rows(2, 4, 33)
    torch.testing.assert_close(
        mean_loss(members, SMALL, data, F32), token_losses(members, SMALL, data, F32).mean((1, 2))
    )


def test_bfloat16_is_near() -> None:
    members, data = torch.stack([awake(0)]), rows(1, 4, 33)
    exact = mean_loss(members, SMALL, data, F32)
    assert mean_loss(members, SMALL, data, torch.bfloat16) == pytest.approx(exact.item(), abs=0.02)
    assert mean_loss(members, SMALL, data, torch.bfloat16).dtype is F32


@pytest.mark.parametrize("name", SIZES)
def test_size_is_what_its_name_says(name: str) -> None:
    unit = {"k": 1e3, "m": 1e6}[name[-1]]
    assert SIZES[name].parameters == pytest.approx(float(name[:-1]) * unit, rel=0.2)
    assert SIZES[name].width % (2 * SIZES[name].heads) == 0


def test_parameters_are_counted() -> None:
    inner = sum(size for name, size in SMALL.sizes.items() if name not in ("embed", "head"))
    assert inner == SMALL.shape.parameters
    assert len(init(SMALL, 0)) == SMALL.total == inner + 2 * 64 * 32


def test_ladder_reaches_60m() -> None:
    assert any(s.parameters >= 59e6 for s in SIZES.values())


def test_batches_are_cut_into_parts_of_about_one_size() -> None:
    assert [rows_at_once(rows, 1024) for rows in (8, 16, 24, 17, 146)] == [8, 16, 12, 9, 15]
    assert rows_at_once(3, 1 << 20) == 1


def test_a_longer_batch_takes_no_more_memory_once_it_is_cut() -> None:
    form = SIZES["30m"]
    assert member_bytes(form, 4096, 16) == member_bytes(form, 4096, 160) > member_bytes(form, 4096, 4)
    assert member_bytes(form, 4096, 4) == pytest.approx(2.7 * 2**30, rel=0.6)  # measured: 2.7 GiB


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
