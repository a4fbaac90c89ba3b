"""The ladder of proxy sizes, and the settings that follow from a size and a token budget, each with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mixopt.errors import JobError, did_you_mean


@dataclass(frozen=True)
class Shape:
    """A decoder's shape. `sequence` is the tokens per row it trains on."""

    width: int
    layers: int
    heads: int
    hidden: int
    sequence: int

    @property
    def parameters(self) -> int:
        """Non-embedding parameters: attention 4 d^2, SwiGLU 3 d h and two gains a layer, one gain at the end."""
        d, h = self.width, self.hidden
        return self.layers * (4 * d * d + 3 * d * h + 2 * d) + d

    def flops(self, vocabulary: int) -> float:
        """Training FLOPs per token: 6 (parameters + head) + attention over half a row on average.

        Source: Kaplan et al. 2020 (arXiv:2001.08361), with the output head and causal attention counted.
        """
        return 6.0 * (self.parameters + self.width * vocabulary) + 6.0 * self.layers * self.width * self.sequence


SIZES = {
    "10k": Shape(32, 1, 2, 64, 64),
    "100k": Shape(64, 2, 4, 176, 128),
    "300k": Shape(96, 3, 6, 256, 128),
    "1m": Shape(128, 5, 4, 344, 256),
    "4m": Shape(256, 5, 8, 688, 256),
    "15m": Shape(384, 8, 6, 1024, 512),
    "30m": Shape(512, 10, 8, 1368, 1024),
    "60m": Shape(640, 12, 10, 1760, 1024),
    "150m": Shape(896, 15, 14, 2392, 2048),
    "400m": Shape(1280, 20, 20, 3416, 2048),
}
PART_TOKENS = 1 << 14
STEP_LAW_FROM, STEP_LAW_TO = 60_000_000, 1_000_000_000


@dataclass(frozen=True)
class Derived:
    """A number that follows from others, with the sentence that says how."""

    value: float
    reason: str


def shape(size: str) -> Shape:
    """The shape of a named size. Raises JobError for an unknown name."""
    if size not in SIZES:
        raise JobError(f"proxies.size: unknown size {size!r}; {did_you_mean(size, SIZES)} Sizes: {', '.join(SIZES)}.")
    return SIZES[size]


def rows_at_once(rows: int, sequence: int) -> int:
    """Rows of a batch that go through the model together: about equal parts of at most 16,384 tokens, or a row."""
    return math.ceil(rows / math.ceil(rows / max(1, PART_TOKENS // sequence)))


def member_bytes(form: Shape, vocabulary: int, rows: int, precision: str = "float32") -> int:
    """Memory that one proxy takes while it trains: parameters, moments, gradients, and a step's activations.

    An estimate: activations are counted for the decoder of `model.py` as 16 d + 4 h numbers per token and layer, half as
    many again for what a step holds in passing.
    """
    parameters = form.parameters + 2 * form.width * vocabulary
    numbers = form.layers * (16 * form.width + 4 * form.hidden) + 6 * form.width
    wide = 4 if precision == "float32" else 3
    return 24 * parameters + rows_at_once(rows, form.sequence) * form.sequence * numbers * wide * 3 // 2


def learning_rate(parameters: int, tokens: int) -> Derived:
    """Peak learning rate.

    Step Law inside its range; below it 0.01 at 100k parameters, which a sweep of this trainer gave (docs/log.md),
    falling with the cube root of the parameters, which is an assumption.
    Source: Step Law, arXiv:2503.04715: 1.79 S^-0.713 D^0.307.
    """
    if STEP_LAW_FROM <= parameters <= STEP_LAW_TO:
        value = 1.79 * parameters**-0.713 * tokens**0.307
        return Derived(value, f"learning rate {value:.3g}: Step Law, {_range()}")
    value = min(0.01 * (parameters / 1e5) ** (-1 / 3), 0.02)
    return Derived(value, f"learning rate {value:.3g}: own small-size rule; Step Law was {_range()}")


def batch_rows(tokens: int, sequence: int) -> Derived:
    """Rows per step: Step Law's batch, held between 4 rows and a 100th of the budget (at least 100 steps).

    Source: Step Law, arXiv:2503.04715: 0.58 D^0.571 tokens.
    """
    wanted = 0.58 * tokens**0.571
    rows = max(4, min(round(wanted / sequence), tokens // (100 * sequence)))
    asked = f"Step Law, {_range()}, asks for {wanted:,.0f} tokens"
    return Derived(rows, f"batch {rows} rows of {sequence} tokens: {asked}; at least 4 rows and 100 steps")


def eval_tokens(tokens: int, domains: int, checkpoints: int, sequence: int) -> Derived:
    """Held-out tokens read per domain at each checkpoint: evaluation takes about a tenth of the training compute."""
    affordable = 0.1 * 3 * tokens / (checkpoints * domains)  # a forward pass is a third of a training step
    value = max(4, min(round(affordable / sequence), (1 << 20) // sequence)) * sequence
    return Derived(value, f"{value:,} held-out tokens per domain and checkpoint: a tenth of the training compute")


def _range() -> str:
    return f"fitted on {STEP_LAW_FROM // 10**6}M to {STEP_LAW_TO // 10**9}B parameters"
