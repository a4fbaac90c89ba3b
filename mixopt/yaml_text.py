"""YAML in and out.

Job files follow YAML 1.2 (`no` is a name, `1e-5` a number, `25_000_000_000` an integer) and hold plain data: aliases,
duplicate keys and keys that are not text are errors.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from mixopt.errors import JobError


def parse_yaml(text: str, where: str) -> Any:
    """YAML 1.2 as plain data. Raises JobError for bad syntax, aliases, duplicate keys and keys that are not text."""
    try:
        for event in YAML(typ="safe", pure=True).parse(text):
            if isinstance(event, AliasEvent):
                raise JobError(f"{where}: line {event.start_mark.line + 1}: aliases are not allowed; write it out.")
        body = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError, RecursionError) as e:
        raise JobError(f"{where}: not valid YAML: {' '.join(str(e).split())}") from e
    _check_keys(body, where)
    return body


def dump_yaml(body: Mapping[str, Any]) -> str:
    """Plain data as YAML that `parse_yaml` reads back."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    out = io.StringIO()
    yaml.dump(dict(body), out)
    return out.getvalue()


def _check_keys(body: Any, where: str) -> None:
    if isinstance(body, dict):
        for key, value in body.items():
            if not isinstance(key, str):
                raise JobError(f"{where}: key {key!r} is read as a {type(key).__name__}; put it in quotes.")
            _check_keys(value, f"{where}: {key}")
    elif isinstance(body, list):
        for value in body:
            _check_keys(value, where)


def parse_as_pyyaml(text: str) -> Any:
    """YAML 1.1, which is what PyYAML reads and therefore what the training stacks see."""
    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    return yaml.load(text)
