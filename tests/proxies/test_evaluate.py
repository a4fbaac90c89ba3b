"""Held-out losses by domain, and those of averaged models."""

from __future__ import annotations

import math

import pytest
import torch

from mixopt.domains import Manifest
from mixopt.runs import Proxy
from proxies.evaluate import HeldOut
from proxies.parameters import init
from proxies.program import program
from proxies.tokens import TokenStore


@pytest.fixture
def held_out(corpus: Manifest, proxy: Proxy) -> HeldOut:
    return HeldOut(TokenStore(corpus, proxy.sequence), proxy.eval_tokens, "cpu")


def test_losses_are_means_over_a_domains_rows(corpus: Manifest, proxy: Proxy, held_out: HeldOut) -> None:
    step = program(proxy, 64, compiled=False)
    weights = torch.stack([init(step.layout, seed) for seed in range(2)])
    losses_KD = held_out.losses_KD(step, weights)
    rows = held_out.rows.split(held_out.sizes)
    for k in range(2):
        for d in range(3):
            (own,) = step.token_losses(weights[k : k + 1], rows[d][None])
            assert losses_KD[k, d].item() == pytest.approx(own.mean().item(), rel=1e-5)
    metrics = held_out.metrics(losses_KD[0].tolist())
    assert metrics["bpb/law"] == pytest.approx(metrics["loss/law"] / 3 / math.log(2))


def test_averages_of_members_are_evaluated_in_one_call(proxy: Proxy, held_out: HeldOut) -> None:
    """Also when they do not all fit into memory at once; a member by itself is an average too."""
    step = program(proxy, 64, compiled=False)
    weights = torch.stack([init(step.layout, seed) for seed in range(3)])
    shares_QK = torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [0.5, 0.25, 0.25], [0.2, 0.3, 0.5], [1 / 3] * 3])
    merged_QD = held_out.merged_QD(step, weights, shares_QK, at_once=2)
    alone_KD = held_out.losses_KD(step, weights)
    torch.testing.assert_close(merged_QD[:2], alone_KD[[0, 2]])
    by_hand = 0.5 * weights[0] + 0.25 * weights[1] + 0.25 * weights[2]
    torch.testing.assert_close(merged_QD[2], held_out.losses_KD(step, by_hand[None])[0])
    assert merged_QD.shape == (5, 3)
