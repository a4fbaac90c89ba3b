"""Numbers of a full run that follow from others: the learning rate, a GPU's peak, and how much of it is used.

    MFU = tokens per second x FLOPs per token / (devices x peak FLOP/s of a device)

Source: PaLM, arXiv:2204.02311, appendix B. FLOPs per token are those of `mixopt/ladder.py`: what is computed again under
activation checkpointing is not counted, and attention counts half a row, not a whole one as in PaLM.
"""

from __future__ import annotations

import re

from mixopt.ladder import Shape
from proxies import sizes
from proxies.sizes import Derived

# FLOP/s of dense bfloat16 matrix products, by what the driver calls the device; the first that fits.
# Source: NVIDIA's data sheets of A100, A30, A10, L4, L40S, H100, H200, GH200 and HGX B200; AMD's of MI250X, MI300X.
# Their figures "with sparsity" are halved; an MI250X shows itself as two devices.
PEAKS = (
    (r"\bGB200\b", 2500e12),
    (r"\b(B200|B300)\b", 2250e12),
    (r"\bH200 NVL\b", 835.5e12),
    (r"\b(H200|GH200)\b", 989.5e12),
    (r"\bH100 NVL\b", 835.5e12),
    (r"\bH100 PCIe\b", 756.5e12),
    (r"\b(H100|H800)\b", 989.5e12),
    (r"\b(A100|A800)\b", 312e12),
    (r"\bA30\b", 165e12),
    (r"\bA10\b", 125e12),
    (r"\bL40S\b", 362e12),
    (r"\bL4\b", 121e12),
    (r"\bMI300X\b", 1307e12),
    (r"\bMI250X\b", 191.5e12),
)
# a slice or another board of the same name: its peak is another
NOT_THE_WHOLE = r"\b(MIG|H800 PCIe|vGPU|GRID)\b"


def peak_flops(device: str, precision: str = "bfloat16") -> float | None:
    """Peak FLOP/s of one device for dense bfloat16, by its name as torch says it; None where nobody told us."""
    if precision != "bfloat16" or re.search(NOT_THE_WHOLE, device):
        return None
    return next((peak for pattern, peak in PEAKS if re.search(pattern, device)), None)


def mfu(tokens_per_second: float, flops_per_token: float, peak: float | None, devices: int) -> float | None:
    """Model FLOPs utilization, the share of all devices' peak that went into the model; None where it is not known."""
    return tokens_per_second * flops_per_token / (devices * peak) if peak else None


def learning_rate(shape: Shape, tokens: int) -> Derived:
    """Peak learning rate: the proxies' rule for models as large as Step Law saw, what was published for larger ones."""
    if shape.learning_rate is None:
        return sizes.learning_rate(shape.body, tokens)
    return Derived(shape.learning_rate, f"learning rate {shape.learning_rate:.3g}: published with {shape.rate_source}")
