"""What the workers of a full run tell each other beside gradients: sums of losses, and whether they agree.

Shapes: any.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from mixopt.errors import RunFailed


@dataclass(frozen=True)
class Ranks:
    """Worker `rank` of `world`. Alone it talks to nobody; with others it needs a group that carries CPU tensors."""

    rank: int = 0
    world: int = 1

    def total(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum over all workers, the same on each of them."""
        if self.world == 1:
            return values
        tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64).copy())
        dist.all_reduce(tensor)
        return tensor.numpy()

    def agree(self, body: Any, what: str) -> None:
        """Raise RunFailed unless this plain data is the same on all workers."""
        if self.world == 1:
            return
        digest = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:15], 16)
        extremes = torch.tensor([digest, -digest], dtype=torch.int64)
        dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        if extremes[0] != -extremes[1]:
            raise RunFailed(
                f"workers do not agree on {what}: a policy must be a function of what it is told, without clocks or random "
                "numbers of its own."
            )
