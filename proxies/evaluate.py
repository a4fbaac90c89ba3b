"""Held-out losses of a stack of proxies, by domain, in nats per token and bits per byte.

Shapes: K stack, Q merged models, P parameters of one model, D domains, N rows, S sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mixopt.domains import Domain, Split
from proxies.program import Program
from proxies.tokens import TokenStore

TOKENS_AT_ONCE = 4096  # of each member


class HeldOut:
    """The held-out rows of every domain, the same ones for every run and checkpoint."""

    def __init__(self, store: TokenStore, eval_tokens: int, device: str) -> None:
        domains = store.manifest.domains
        self.domains: Sequence[Domain] = domains
        rows = [torch.from_numpy(store.held_out(domain.name, eval_tokens)) for domain in domains]
        self.rows = torch.cat(rows).to(device)
        self.sizes = [len(part) for part in rows]

    def tokens(self, part: float = 1.0) -> int:
        """Tokens predicted in one evaluation on this part of the rows."""
        return sum(self._sizes(part)) * (self.rows.shape[1] - 1)

    def losses_KD(self, program: Program, weights: Tensor, part: float = 1.0) -> Tensor:
        """Mean loss in nats per token [K, D] of the models [K, P], on the first part of every domain's rows."""
        sizes, chosen = self._sizes(part), self.rows
        if sizes != self.sizes:
            pairs = zip(self.rows.split(self.sizes), sizes, strict=True)
            chosen = torch.cat([rows[:size] for rows, size in pairs])
        at_once = max(1, TOKENS_AT_ONCE // (self.rows.shape[1] - 1))
        parts = []
        for rows in chosen.split(at_once):
            losses = program.token_losses(weights, rows.expand(len(weights), -1, -1))
            parts.append(losses.mean(-1))
        by_row = torch.cat(parts, dim=1).double()
        return torch.stack([own.mean(-1) for own in by_row.split(sizes, dim=1)], dim=1)

    def _sizes(self, part: float) -> list[int]:
        """Rows of each domain in this part of them: one at least."""
        return [max(1, round(part * size)) for size in self.sizes]

    def merged_QD(self, program: Program, weights: Tensor, shares_QK: Tensor, at_once: int = 16) -> Tensor:
        """Mean loss in nats per token [Q, D] of weighted averages of the models [K, P], `at_once` of them in memory.

        Averages of models that share their initialisation and have not drifted far apart are models of their own.
        Source: Wortsman et al. 2022 (arXiv:2203.05482).
        """
        return torch.cat([self.losses_KD(program, some @ weights) for some in shares_QK.to(weights).split(at_once)])

    def metrics(self, losses_D: Sequence[float]) -> dict[str, float]:
        """Both units of one model's losses: "loss/code" in nats per token, "bpb/code" in bits per byte."""
        metrics = {}
        for domain, loss in zip(self.domains, losses_D, strict=True):
            metrics[f"loss/{domain.name}"] = loss
            metrics[f"bpb/{domain.name}"] = bits_per_byte(loss, domain.valid)
        return metrics


def bits_per_byte(nats_per_token: float, split: Split) -> float:
    """Nats per token * tokens / bytes / ln 2, over the held-out text: comparable across tokenizers.

    Bytes are those of the raw UTF-8 text, so a tokenizer gains nothing by what it drops.
    Source: Gao et al. 2020, The Pile (arXiv:2101.00027).
    """
    return nats_per_token * split.tokens / split.bytes / math.log(2)
