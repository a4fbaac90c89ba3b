"""The offline methods: one paper per file, and this list."""

from __future__ import annotations

from mixopt.methods.baselines import Prior, Uniform, UniMax
from mixopt.methods.olmix import Olmix
from mixopt.methods.regmix import RegMix

BASELINES: dict[str, type] = {"prior": Prior, "uniform": Uniform, "unimax": UniMax}
METHODS: dict[str, type] = {"regmix": RegMix, "olmix": Olmix, **BASELINES}
