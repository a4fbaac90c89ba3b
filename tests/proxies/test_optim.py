"""The optimiser step of a stack against torch's own, member by member."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mixopt.runs import Proxy
from proxies import optim
from proxies.optim import Horizon, Pace, State, adamw_, adamw_columns_, adamw_rows_, clip_, muon_, orthogonal, pace
from proxies.parameters import Layout, init
from proxies.sizes import SIZES

LAYOUT = Layout(SIZES["10k"], 64)


def gradients(members: int, seed: int) -> torch.Tensor:
    return torch.randn(members, LAYOUT.total, generator=torch.Generator().manual_seed(seed))


def state(members: int) -> State:
    weights = torch.stack([init(LAYOUT, seed) for seed in range(members)])
    return State(weights, torch.zeros_like(weights), torch.zeros_like(weights))


@pytest.mark.parametrize("rule", [adamw_rows_, adamw_columns_])
def test_each_member_gets_its_own_adamw(rule: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Three steps of torch.optim.AdamW with each member's learning rate and weight decay; none on gains."""
    monkeypatch.setattr(optim, "adamw_rows_", rule)
    rates, decays = (0.01, 0.001), (0.1, 0.5)
    stack = state(2)
    alone = [row.clone() for row in stack.weights]
    proxies = [
        Proxy("10k", 1, 64, 1, rate, 1, 1, {}, "", weight_decay=decay)
        for rate, decay in zip(rates, decays, strict=True)
    ]
    for step in range(3):
        gradient = gradients(2, step)
        (now,) = pace(proxies, [Horizon(100, 0, 0)] * 2, [step] * 2, 1)
        adamw_(stack, gradient, Pace(*now), LAYOUT)
    for k, (weights, rate, decay) in enumerate(zip(alone, rates, decays, strict=True)):
        decayed = weights[: LAYOUT.decayed].clone().requires_grad_()
        gains = weights[LAYOUT.decayed :].clone().requires_grad_()
        groups = [{"params": [decayed], "weight_decay": decay}, {"params": [gains], "weight_decay": 0.0}]
        theirs = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95))
        for step in range(3):
            decayed.grad, gains.grad = gradients(2, step)[k].split([LAYOUT.decayed, len(gains)])
            theirs.step()
        torch.testing.assert_close(stack.weights[k], torch.cat([decayed, gains]).detach(), rtol=1e-5, atol=1e-6)


def test_clipping_is_by_member() -> None:
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    clip_(gradient)
    torch.testing.assert_close(gradient, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_orthogonal_keeps_directions_and_evens_out_their_sizes() -> None:
    matrices = torch.randn(2, 24, 8, generator=torch.Generator().manual_seed(0))
    for found, given in zip(orthogonal(matrices), matrices, strict=True):
        u, _, v = torch.linalg.svd(given, full_matrices=False)
        inner = u.mT @ found @ v.mT
        assert torch.linalg.svdvals(found) == pytest.approx(torch.ones(8).numpy(), abs=0.35)
        assert (inner - inner.diag().diag()).abs().max() < 0.05
    torch.testing.assert_close(orthogonal(matrices.mT), orthogonal(matrices).mT)


def test_muon_moves_matrices_as_far_as_adam_would() -> None:
    """A root mean square of 0.2 times the learning rate in every matrix; everything else is AdamW's."""
    ours, adam = state(1), state(1)
    for each, rule in ((ours, muon_), (adam, adamw_)):
        (now,) = pace([Proxy("10k", 1, 64, 1, 0.01, 1, 1, {}, "", weight_decay=0.0)], [Horizon(9, 0, 0)], [0], 1)
        rule(each, gradients(1, 0), Pace(*now), LAYOUT)
    assert torch.equal(ours.weights[:, LAYOUT.hidden :], adam.weights[:, LAYOUT.hidden :])
    moved = LAYOUT.tensors((ours.weights[0] - init(LAYOUT, 0))[: LAYOUT.hidden], list(LAYOUT.matrices))
    for move in moved.values():
        assert move.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.25)


def test_schedule_rises_stays_and_falls() -> None:
    horizon = Horizon(steps=100, warmup=10, cooldown=0.5)
    assert [horizon.rate(t) for t in (0, 9, 49, 75, 100, 120)] == pytest.approx([0.1, 1, 1, 0.5, 0, 0])
    assert horizon.turn == 50
    assert Horizon(100, 0, 0).rate(99) == 1
