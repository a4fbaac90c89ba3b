"""The methods: one paper per file, and this list. Online methods are policies that `make` turns into methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixopt.methods.baselines import Prior, Uniform, UniMax
from mixopt.methods.doge import DoGE
from mixopt.methods.doremi import DoReMi
from mixopt.methods.olmix import Olmix
from mixopt.methods.online import Online
from mixopt.methods.regmix import RegMix
from mixopt.methods.regmixd import RegMixDynamic
from mixopt.methods.schedule import Planned
from mixopt.methods.skillit import SkillIt
from mixopt.policies.ado import ADO
from mixopt.policies.aioli import Aioli
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policies.grape import Grape
from mixopt.policies.odm import ODM
from mixopt.policies.rnb import Balance
from mixopt.study import Method

BASELINES: dict[str, type] = {"prior": Prior, "uniform": Uniform, "unimax": UniMax, "schedule": Planned}
ONLINE: dict[str, type] = {
    "ado": ADO,
    "aioli": Aioli,
    "dynamixsft": DynamixSFT,
    "grape": Grape,
    "odm": ODM,
    "rnb": Balance,
}
METHODS: dict[str, type] = {
    "regmix": RegMix,
    "olmix": Olmix,
    "doge": DoGE,
    "doremi": DoReMi,
    "regmixd": RegMixDynamic,
    "skillit": SkillIt,
    **ONLINE,
    **BASELINES,
}


def make(name: str, knobs: Mapping[str, Any]) -> Method:
    """The method of this name with these knobs."""
    made = METHODS[name](**knobs)
    return Online(made) if name in ONLINE else made
