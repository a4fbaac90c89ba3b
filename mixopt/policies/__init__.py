"""The online policies: one paper per file, and this list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mixopt.errors import DataError, did_you_mean
from mixopt.mixture import Mixture, Schedule
from mixopt.policies.ado import ADO
from mixopt.policies.aioli import Aioli
from mixopt.policies.audited import Audited
from mixopt.policies.doge import Alignment
from mixopt.policies.doremi import GroupDRO
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policies.grape import Grape
from mixopt.policies.limited import Limited
from mixopt.policies.odm import ODM
from mixopt.policies.regmixd import RegMixD
from mixopt.policies.rnb import Balance
from mixopt.policies.skillit import SkillIt
from mixopt.policies.watched import Watched
from mixopt.policy import Fixed, OnlinePolicy, Scheduled, tuples


def _audited(body: Mapping[str, Any]) -> Audited[Any]:
    return Audited(from_json(body["inner"]), tuple(body["at"]), body["part"], body["weight"])


def _fixed(body: Mapping[str, Any]) -> Fixed:
    return Fixed(Mixture(body["mixture"]))


def _limited(body: Mapping[str, Any]) -> Limited:
    return Limited(from_json(body["inner"]), body["caps"], body["max_epochs"], body["dry"], body["ahead"])


def _scheduled(body: Mapping[str, Any]) -> Scheduled:
    return Scheduled(Schedule.of(body["phases"]))


POLICIES: dict[str, Callable[[Mapping[str, Any]], OnlinePolicy[Any]]] = {
    "ado": lambda body: ADO(**tuples(body)),
    "aioli": lambda body: Aioli(**tuples(body)),
    "audited": _audited,
    "doge": lambda body: Alignment(**tuples(body)),
    "doremi": lambda body: GroupDRO(**tuples(body)),
    "dynamixsft": lambda body: DynamixSFT(**tuples(body)),
    "fixed": _fixed,
    "grape": lambda body: Grape(**tuples(body)),
    "limited": _limited,
    "odm": lambda body: ODM(**tuples(body)),
    "regmixd": RegMixD.from_json,
    "rnb": lambda body: Balance(**tuples(body)),
    "scheduled": _scheduled,
    "skillit": lambda body: SkillIt(**tuples(body)),
    "watched": lambda body: Watched(Mixture(body["mixture"]), body["part"]),
}


def from_json(body: Mapping[str, Any]) -> OnlinePolicy[Any]:
    """The policy that `to_json` described. Raises DataError for an unknown one."""
    kind = str(body.get("policy"))
    if kind not in POLICIES:
        raise DataError(f"run record: unknown policy {kind!r}; {did_you_mean(kind, POLICIES)}")
    return POLICIES[kind]({key: value for key, value in body.items() if key != "policy"})
