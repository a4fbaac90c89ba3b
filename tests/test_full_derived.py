"""What follows from a full run's model and machine."""

from __future__ import annotations

import pytest

from mixopt.ladder import LADDER
from pipelines.full.derived import learning_rate, mfu, peak_flops
from proxies import sizes


@pytest.mark.parametrize(
    ("device", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5e12),
        ("NVIDIA H100 PCIe", 756.5e12),
        ("NVIDIA H100 NVL", 835.5e12),
        ("NVIDIA H200", 989.5e12),
        ("NVIDIA GH200 480GB", 989.5e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA GB200", 2500e12),
        ("NVIDIA L40S", 362e12),
        ("AMD Instinct MI300X", 1307e12),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peaks_by_the_names_that_drivers_give(device: str, peak: float | None) -> None:
    assert peak_flops(device) == peak
    assert peak_flops(device, "float32") is None


def test_mfu() -> None:
    """160,000 tokens/s of 6e9 FLOPs each on two devices of 1e15: 9.6e14 of 2e15."""
    assert mfu(160_000, 6e9, 1e15, 2) == pytest.approx(0.48)
    assert mfu(160_000, 6e9, None, 2) is None


@pytest.mark.parametrize("name", LADDER)
def test_learning_rates_say_where_they_come_from(name: str) -> None:
    shape = LADDER[name]
    rate = learning_rate(shape, 20 * shape.body)
    assert 1e-4 < rate.value < 1e-2
    if shape.body > sizes.STEP_LAW_TO:
        assert "published with" in rate.reason
    else:
        assert rate == sizes.learning_rate(shape.body, 20 * shape.body)
