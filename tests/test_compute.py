"""How many runs share a device, what is compiled, what does not fit: functions of the job."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch

from mixopt.errors import JobError
from mixopt.job import Job, parse
from pipelines.compute import compiled, refuse_too_large, stack
from pipelines.plan import setting
from proxies.program import can_compile

SMALL = {"size": "100k", "tokens": 100_000}
SEVEN = list("abcdefg")


def job(proxies: dict[str, Any] | None = None, **compute: Any) -> Job:
    body = {"name": "small", "data": {"source": "environment"}, "target": {"tokens": 10**9}}
    return parse(body | {"proxies": SMALL | (proxies or {}), "compute": {"workers": 2} | compute}, "job")


def test_one_run_at_a_time_on_a_cpu_and_a_busy_gpu() -> None:
    assert stack(job(), setting(job(), 7)) == 1
    on_gpu = job(device="cuda")
    chosen = setting(on_gpu, 7)
    assert stack(on_gpu, chosen) * chosen.batch * chosen.shape.sequence == 1 << 18
    assert stack(job(stack=5), setting(job(), 7)) == 5


def test_precision_follows_the_device_unless_it_is_given() -> None:
    assert setting(job(), 7).precision == "float32"
    assert setting(job(device="cuda"), 7).precision == "bfloat16"
    given = setting(job({"precision": "bfloat16"}), 7)
    assert given.precision == "bfloat16"
    assert not any("matrix products" in reason for reason in given.reasons)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
def test_long_searches_are_compiled() -> None:
    short, long = compiled(job(), SEVEN, 4096), compiled(job({"tokens": 10**7}), SEVEN, 4096)
    assert (short.value, long.value) == (0, 1)
    assert "not compiled: about" in short.reason
    assert "compiling pays from 300 s" in long.reason
    assert compiled(job({"tokens": 10**7}, compile=False), SEVEN, 4096).value == 0
    assert compiled(job(compile=True), SEVEN, 4096).value == 1


def test_a_machine_without_triton_cannot_compile_for_a_gpu() -> None:
    assert can_compile("cuda") in (True, False)
    if not torch.cuda.is_available():
        assert not compiled(job(device="cuda"), SEVEN, 4096).value


def test_horizons_of_less_than_two_steps_are_refused() -> None:
    with pytest.raises(JobError, match=r"proxies.horizons: 0.001 of a run of \d+ steps is less than two"):
        setting(job({"horizons": [0.5, 0.001]}), 7)


def test_without_a_compiler_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    long = compiled(job({"tokens": 10**7}), SEVEN, 4096)
    assert long.value == 0
    assert "for want of a compiler" in long.reason
    with pytest.raises(JobError, match=r"compute.compile: true needs a C\+\+ compiler"):
        compiled(job(compile=True), SEVEN, 4096)


def test_proxies_that_do_not_fit_are_refused() -> None:
    large = job({"size": "400m", "tokens": 10**9}, workers=64)
    with pytest.raises(JobError, match=r"a 400m proxy takes [\d.]+ GiB to train and 64 train at once"):
        refuse_too_large(large, setting(large, 7), 4096)
    refuse_too_large(job(), setting(job(), 7), 4096)
