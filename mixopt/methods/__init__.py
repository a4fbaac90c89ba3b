"""The methods: one paper per file, and this list. Online methods are policies that `make` turns into methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixopt.methods.baselines import Prior, Uniform, UniMax
from mixopt.methods.olmix import Olmix
from mixopt.methods.online import Online
from mixopt.methods.regmix import RegMix
from mixopt.methods.regmixd import RegMixDynamic
from mixopt.methods.schedule import Planned
from mixopt.policies.ado import ADO
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policies.odm import ODM
from mixopt.study import Method

BASELINES: dict[str, type] = {"prior": Prior, "uniform": Uniform, "unimax": UniMax, "schedule": Planned}
ONLINE: dict[str, type] = {
    "ado": ADO,
    "dynamixsft": DynamixSFT,
    "odm": ODM,
}
METHODS: dict[str, type] = {
    "regmix": RegMix,
    "olmix": Olmix,
    "regmixd": RegMixDynamic,
    **ONLINE,
    **BASELINES,
}


def make(name: str, knobs: Mapping[str, Any]) -> Method:
    """The method of this name with these knobs."""
    made = METHODS[name](**knobs)
    return Online(made) if name in ONLINE else made
