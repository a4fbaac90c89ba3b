"""Held-out losses of the real model, by domain: every worker reads its share of the same rows.

Shapes: D domains, N held-out rows of all domains, S sequence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from mixopt.mixture import FloatArray
from pipelines.full.course import Course
from pipelines.full.ranks import Ranks
from proxies.evaluate import bits_per_byte
from proxies.tokens import IntArray, Rows

RowLosses = Callable[[Rows], Tensor]
"""Mean losses [N] in nats per token of rows [N, S + 1]."""


class HeldOut:
    """The held-out rows of every domain, the same at every point of the run and for any number of workers."""

    def __init__(self, course: Course, ranks: Ranks, at_once: int) -> None:
        self.ranks, self.at_once = ranks, at_once
        self.splits = [course.manifest[name].valid for name in course.names]
        self.names: Sequence[str] = course.names
        rows = [course.store.held_out(name, course.full.valid_tokens or 0) for name in course.names]
        self.rows, self.sizes = np.concatenate(rows), [len(own) for own in rows]

    def losses_D(self, row_losses: RowLosses, part: float = 1.0) -> FloatArray:
        """Mean loss in nats per token [D], on the first part of every domain's rows. All workers must call."""
        rows_N, domains_N = self._chosen(part)
        own_N = np.arange(len(rows_N))[self.ranks.rank :: self.ranks.world]
        sums_D = np.zeros(len(self.sizes))
        for k in range(math.ceil(math.ceil(len(rows_N) / self.ranks.world) / self.at_once)):
            some_N = own_N[k * self.at_once : (k + 1) * self.at_once]
            filled = np.resize(some_N, self.at_once) if len(some_N) else np.zeros(self.at_once, dtype=int)
            losses = (
                row_losses(self.rows[rows_N[filled]]).double().cpu().numpy()
            )  # of one shape, on all workers as often
            np.add.at(sums_D, domains_N[some_N], losses[: len(some_N)])
        return self.ranks.total(sums_D) / np.bincount(domains_N, minlength=len(self.sizes))

    def metrics(self, losses_D: FloatArray) -> dict[str, float]:
        """Both units: "loss/code" in nats per token, "bpb/code" in bits per byte."""
        found = {}
        for name, loss, split in zip(self.names, losses_D.tolist(), self.splits, strict=True):
            found[f"bpb/{name}"] = bits_per_byte(loss, split)
            found[f"loss/{name}"] = loss
        return found

    def _chosen(self, part: float) -> tuple[IntArray, IntArray]:
        """Numbers of the rows that belong to this part, at least one of each domain, and their domains' numbers."""
        firsts = np.cumsum([0, *self.sizes[:-1]])
        counts = [max(1, round(part * size)) for size in self.sizes]
        rows_N = np.concatenate([first + np.arange(n) for first, n in zip(firsts, counts, strict=True)])
        return rows_N, np.repeat(np.arange(len(counts)), counts)
