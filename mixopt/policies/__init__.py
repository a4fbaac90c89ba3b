"""The online policies: one paper per file, and this list."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mixopt.errors import DataError, did_you_mean
from mixopt.mixture import Mixture, Schedule
from mixopt.policies.ado import ADO
from mixopt.policies.dynamixsft import DynamixSFT
from mixopt.policies.limited import Limited
from mixopt.policies.odm import ODM
from mixopt.policies.regmixd import RegMixD
from mixopt.policy import Fixed, OnlinePolicy, Scheduled, tuples


def _fixed(body: Mapping[str, Any]) -> Fixed:
    return Fixed(Mixture(body["mixture"]))


def _scheduled(body: Mapping[str, Any]) -> Scheduled:
    return Scheduled(Schedule.of(body["phases"]))


def _limited(body: Mapping[str, Any]) -> Limited:
    return Limited(from_json(body["inner"]), body["caps"], body["max_epochs"], body["dry"])


POLICIES: dict[str, Callable[[Mapping[str, Any]], OnlinePolicy[Any]]] = {
    "ado": lambda body: ADO(**tuples(body)),
    "dynamixsft": lambda body: DynamixSFT(**tuples(body)),
    "fixed": _fixed,
    "limited": _limited,
    "odm": lambda body: ODM(**tuples(body)),
    "regmixd": RegMixD.from_json,
    "scheduled": _scheduled,
}


def from_json(body: Mapping[str, Any]) -> OnlinePolicy[Any]:
    """The policy that `to_json` described. Raises DataError for an unknown one."""
    kind = str(body.get("policy"))
    if kind not in POLICIES:
        raise DataError(f"run record: unknown policy {kind!r}; {did_you_mean(kind, POLICIES)}")
    return POLICIES[kind]({key: value for key, value in body.items() if key != "policy"})
