"""What this machine offers to a search, and what it lacks."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BASE = ("numpy", "scipy", "pandas", "scikit-learn", "lightgbm", "pydantic", "torch", "tokenizers", "datasets")
EXTRAS = {  # packages, the extra that installs them, and what for
    "ray": ("ray", "compute.executor: ray"),
    "mlflow": ("mlflow", "tracking.mlflow"),
    "ai2-olmo-core": ("olmo", "mixopt train"),
}
LEAST_MEMORY = 3 << 30
LEAST_DISK = 2 << 30


def examine() -> list[dict[str, Any]]:
    """One finding per check: what was looked at, what was found, what to do, and whether it is fine."""
    return [*_python(), *_packages(), *_machine()]


def _python() -> Iterator[dict[str, Any]]:
    yield _finding("python", platform.python_version(), "")


def _packages() -> Iterator[dict[str, Any]]:
    for name in BASE:
        found = _version(name)
        yield _finding(name, found or "missing", "" if found else f"pip install {name}", ok=bool(found))
    for name, (extra, use) in EXTRAS.items():
        found = _version(name)
        yield _finding(
            name, found or "not installed", "" if found else f"only for {use}: pip install 'mixopt[{extra}]'"
        )


def _machine() -> Iterator[dict[str, Any]]:
    yield _finding("cores", str(os.cpu_count()), "one proxy trains on each")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    short = memory < LEAST_MEMORY
    yield _finding("memory", f"{memory / 2**30:.1f} GiB", "the quickstart wants 3 GiB" if short else "", ok=not short)
    free = shutil.disk_usage(Path.home()).free
    full = free < LEAST_DISK
    yield _finding("disk at home", f"{free / 2**30:.1f} GiB free", "set store: elsewhere" if full else "", ok=not full)
    if importlib.util.find_spec("torch"):
        import torch

        name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        yield _finding(
            "GPU", name, "compute.device: cuda uses it" if torch.cuda.is_available() else "proxies train on the CPU"
        )
        from proxies.program import PRECISIONS, can_compile, multiply_rate

        able = can_compile("cpu")
        note = "" if able else "long searches train 1.5 times as fast with a C++ compiler (g++ or clang++)"
        yield _finding("C++ compiler", "there" if able else "none", note)
        rates = {name: multiply_rate(dtype) / 1e9 for name, dtype in PRECISIONS.items()}
        best = max(rates, key=lambda name: rates[name])
        found = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
        advice = "" if best == "float32" else "proxies.precision: bfloat16 may pay from 4m proxies on"
        yield _finding("GFLOP/s of a core", found, advice)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _finding(check: str, found: str, note: str, *, ok: bool = True) -> dict[str, Any]:
    return {"check": check, "found": found, "note": note, "ok": ok}
