"""What the files that people write have in common: overrides of keys, and a sentence for each thing that is wrong.

A model is a section of `mixopt/sections.py`; unknown keys are told the nearest known one, whatever the file.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as checked_dataclass

from mixopt.errors import JobError, did_you_mean
from mixopt.sections import named
from mixopt.yaml_text import parse_yaml


def read(path: Path, what: str, overrides: Sequence[str] = (), names: Collection[str] = ()) -> dict[str, Any]:
    """A YAML file of keys, each override `a.b=value` applied; `names` are keys that may be given as a name alone.

    Raises JobError for a file that cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise JobError(f"{what} {path}: cannot be read ({e}).") from e
    body = parse_yaml(text, str(path))
    if not isinstance(body, dict):
        raise JobError(f"{what} {path}: must be a mapping of keys (got {type(body).__name__}).")
    for override in overrides:
        _set(body, override, names)
    return body


def _set(body: dict[str, Any], override: str, names: Collection[str]) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise JobError(f"--set {override}: must look like proxies.count=64.")
    *parents, last = path.split(".")
    for key in parents:
        below = body.setdefault(key, {})
        if not isinstance(below, dict):
            below = body[key] = named(below) if key in names else {}
        body = below
    body[last] = parse_yaml(value, f"--set {path}")


def knobs_type(made: type) -> TypeAdapter[Any]:
    """Checks the knobs of a method or policy, a dataclass: `validate_python` raises ValidationError or what it raises itself."""
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return TypeAdapter(checked_dataclass(made, config=config, frozen=True))


def sentence(model: type[BaseModel], error: Any, known: Sequence[str] | None = None) -> str:
    """One validation error of a model with its key path, what was got and what is allowed."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        key = str(error["loc"][-1])
        return f"{path}: no such key; {did_you_mean(key, known or _keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"{path}: is required."
    got = error["input"]
    hint = " Write integers as 25_000_000_000." if isinstance(got, str) and "int" in error["type"] else ""
    return f"{path}: {error['msg'][0].lower()}{error['msg'][1:]} (got {got!r}).{hint}"


def together(where: str, problems: Sequence[str]) -> str:
    """All problems of a file in one message."""
    if len(problems) == 1:
        return f"{where}: {problems[0]}"
    return f"{where}: {len(problems)} problems:\n" + "\n".join(f"  - {problem}" for problem in problems)


def _keys(model: Any, path: Sequence[str | int]) -> list[str]:
    """The keys a section has, found by walking the models along a key path."""
    for part in path:
        fields = {(f.alias or n): f.annotation for n, f in model.model_fields.items()} if _is_section(model) else {}
        annotation = fields.get(str(part), model)
        candidates = [annotation, *_arguments(annotation)]
        model = next((c for c in candidates if _is_section(c)), model)
    return [field.alias or name for name, field in model.model_fields.items()]


def _arguments(annotation: Any) -> list[Any]:
    found = []
    for argument in getattr(annotation, "__args__", ()):
        found += [argument, *_arguments(argument)]
    return found


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
