"""The parameters of K models as one matrix: a row is a model.

Every tensor of a model is a slice of its row, so that a stack's optimiser step, its checkpoint, a member that joins and a
weighted average of members are each one operation on the matrix.

Shapes: K stack, P parameters of one model, d width, h hidden, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proxies.sizes import Shape


@dataclass(frozen=True)
class Layout:
    """Where each tensor lies in a row: the layers' matrices, the head, the embedding, the gains.

    `matrices` are rows and columns of what Muon orthogonalises, `gains` the vectors, which no weight decay touches: two
    a layer and one at the end. `shapes` and `sizes` are those of every tensor, in the order in which they lie in a row;
    `hidden` columns hold matrices, `decayed` ones everything but gains, `total` is P.
    """

    shape: Shape
    vocabulary: int
    matrices: dict[str, tuple[int, int]] = field(init=False, compare=False, repr=False)
    gains: tuple[str, ...] = field(init=False, compare=False, repr=False)
    shapes: dict[str, tuple[int, ...]] = field(init=False, compare=False, repr=False)
    sizes: dict[str, int] = field(init=False, compare=False, repr=False)
    hidden: int = field(init=False, compare=False)
    decayed: int = field(init=False, compare=False)
    total: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Lay the tensors out, once."""
        d, h, layers = self.shape.width, self.shape.hidden, range(self.shape.layers)
        one = {"qkv": (d, 3 * d), "out": (d, d), "gate_up": (d, 2 * h), "down": (h, d)}
        matrices = {f"{layer}.{name}": size for layer in layers for name, size in one.items()}
        gains = (*(f"{layer}.{part}_gain" for layer in layers for part in ("attention", "mlp")), "gain")
        tables = {"head": (d, self.vocabulary), "embed": (self.vocabulary, d)}
        shapes = matrices | tables | dict.fromkeys(gains, (d,))
        sizes = {name: math.prod(size) for name, size in shapes.items()}
        total = sum(sizes.values())
        found = {"matrices": matrices, "gains": gains, "shapes": shapes, "sizes": sizes, "total": total}
        found |= {"hidden": sum(sizes[name] for name in matrices), "decayed": total - len(gains) * d}
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def tensors(self, flat: Tensor, names: Sequence[str] = ()) -> dict[str, Tensor]:
        """Views of consecutive tensors (all unless named) of rows [..., P]: each [..., *its shape]."""
        chosen = names or list(self.shapes)
        parts = flat.split([self.sizes[name] for name in chosen], dim=-1)
        return {n: p.view(*p.shape[:-1], *self.shapes[n]) for n, p in zip(chosen, parts, strict=True)}


def init(layout: Layout, seed: int) -> Tensor:
    """One model [P]: normal with deviation 1 / sqrt(fan in), output projections zero, gains one."""
    generator = torch.Generator().manual_seed(seed)
    d = layout.shape.width
    flat = torch.zeros(layout.total)
    for name, tensor in layout.tensors(flat).items():
        if name in layout.gains:
            tensor.fill_(1.0)
        elif not name.endswith((".out", ".down")):
            deviation = {"embed": 1.0, "head": 0.1 / math.sqrt(d)}.get(name, 1 / math.sqrt(d))
            tensor.normal_(0.0, deviation, generator=generator)
    return flat
