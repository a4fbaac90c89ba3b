"""The job file: everything a search depends on, parsed at the border into frozen values.

Unknown keys are errors; all errors are reported at once, each with its key path.
"""

from __future__ import annotations

import copy
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError

from mixopt.backends import BACKENDS
from mixopt.data import DataConfig, HubSource, Source, TokenizerConfig
from mixopt.errors import JobError, did_you_mean
from mixopt.methods import BASELINES, METHODS, make
from mixopt.mixture import SUM_TOLERANCE
from mixopt.parsing import knobs_type, read, sentence, together
from mixopt.sections import (
    CompareSection,
    ComputeSection,
    DataSection,
    DomainSection,
    ObjectiveSection,
    ProxiesSection,
    Section,
    TargetSection,
    TrackingSection,
    ValidateSection,
    named,
)
from mixopt.study import Method
from mixopt.validate import UNIFORM


def _tracking(value: Any) -> Any:
    return {"mlflow": value} if value is None or isinstance(value, str) else value


class Job(Section):
    """A search, resolved: every key has its value."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    store: str = "~/.cache/mixopt"
    data: DataSection
    target: TargetSection
    objective: ObjectiveSection = ObjectiveSection()
    proxies: ProxiesSection = ProxiesSection()
    method: Annotated[dict[str, Any], BeforeValidator(named)] = Field(default_factory=lambda: {"name": "olmix"})
    compute: ComputeSection = ComputeSection()
    tracking: Annotated[TrackingSection, BeforeValidator(_tracking)] = TrackingSection()
    validation: Annotated[ValidateSection, Field(alias="validate")] = ValidateSection()
    compare: CompareSection = CompareSection()
    export: list[str] = Field(default_factory=list)

    @property
    def is_baseline(self) -> bool:
        """Whether the method trains no proxies of its own."""
        return self.method["name"] in BASELINES

    def to_json(self) -> dict[str, Any]:
        """The resolved job with the keys of the file."""
        return self.model_dump(by_alias=True, exclude_none=True) | {"tracking": {"mlflow": self.tracking.mlflow}}

    def store_path(self, folder: Path) -> Path:
        """Where runs and tokens are kept; relative to `folder`, `$NAME` is taken from the environment."""
        return Path(_path(self.store, folder, "store")).absolute()

    def data_config(self, folder: Path) -> DataConfig:
        """What to prepare; relative paths start at `folder`, `$NAME` is taken from the environment."""
        section = self.data
        domains = None
        if section.domains is not None:
            domains = {name: _source(d, folder, f"data.domains.{name}") for name, d in section.domains.items()}
        given = section.tokenizer
        if given.bytes:
            tokenizer = TokenizerConfig("bytes")
        elif given.file is not None:
            tokenizer = TokenizerConfig(
                "file", file=_path(given.file, folder, "data.tokenizer.file"), end_of_text=given.end_of_text
            )
        else:
            tokenizer = TokenizerConfig("train", vocabulary=given.train or 0, end_of_text=given.end_of_text)
        return DataConfig(domains, section.source, tokenizer, section.validation.fraction)

    def make_method(self) -> Method:
        """The method with its knobs."""
        return make(self.method["name"], self.knobs())

    def knobs(self) -> dict[str, Any]:
        """The method's knobs, all of them, as the method's own types."""
        return _knobs(self.method)

    def compared(self) -> tuple[dict[str, Any], ...]:
        """The methods to compare: label, name and all knobs of each. Uniform is always among them.

        A name alone that is also the job's `method` has the knobs given there.
        """
        own = {"name": self.method["name"], **self.knobs()}
        given = [own if body == {"name": own["name"]} else body for body in self.compare.methods]
        if not any(body["name"] == body.get("label", UNIFORM) == UNIFORM for body in given):
            given.append({"name": UNIFORM})
        return tuple(
            {"label": body.get("label", body["name"]), "name": body["name"], "knobs": _knobs(_unlabelled(body))}
            for body in given
        )


def load(path: Path, overrides: Sequence[str] = (), sizes: Collection[str] = ()) -> Job:
    """Read a job file; each override is `a.b=value`. Raises JobError with every problem found."""
    body = read(path, "job file", overrides, ("method",))
    body.setdefault("name", path.stem)
    if path.name.endswith(".lock.yaml"):  # what a search wrote down runs again
        body = {key: value for key, value in body.items() if key not in ("derived", "provenance")}
    return parse(body, str(path), sizes)


def parse(body: Mapping[str, Any], where: str, sizes: Collection[str] = ()) -> Job:
    """A job from plain data, its method with all knobs; `sizes` are the proxies there are (unchecked if none).

    Raises JobError with every problem found: those of single keys, and those of sections that are fine by themselves.
    """
    problems = []
    try:
        job = Job.model_validate(body)
    except ValidationError as e:
        problems = [sentence(Job, error) for error in e.errors()]
        job = Job.model_validate(_without(body, [error["loc"] for error in e.errors()]))
    problems += _problems(job, sizes)
    if problems:
        raise JobError(together(where, problems))
    return job.model_copy(update={"method": {"name": job.method["name"], **job.knobs()}})


def _without(body: Mapping[str, Any], wrong: Sequence[Sequence[str | int]]) -> dict[str, Any]:
    """The job without the keys that are wrong, and with stand-ins for those it needs, so that the rest is checked."""
    rest: dict[str, Any] = copy.deepcopy(dict(body))
    for path in wrong:
        inside: Any = rest
        for key in path[:-1]:
            inside = inside.get(key) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside.pop(path[-1] if path[-1] != "validation" else "validate", None)
    standins: dict[str, Any] = {"name": "job", "data": {"source": "environment"}, "target": {}}
    for key, value in standins.items():
        if not rest.get(key) or not isinstance(rest[key], type(value)):
            rest[key] = value
    rest["target"].setdefault("tokens", 1)
    try:
        Job.model_validate(rest)
    except ValidationError:
        return standins | {"target": {"tokens": 1}}
    return rest


def _problems(job: Job, sizes: Collection[str]) -> Iterator[str]:
    """What single fields cannot know."""
    try:
        job.data_config(Path())
    except JobError as e:
        yield from str(e).splitlines()
    given = job.data.tokenizer
    if sum((given.bytes, given.train is not None, given.file is not None)) != 1:
        yield "data.tokenizer: give one of bytes, {train: vocabulary} or {file: tokenizer.json}."
    if given.bytes and given.end_of_text:
        yield "data.tokenizer.end_of_text: bytes have an end of text of their own."
    if 0 < job.validation.seeds < 3:
        yield f"validate.seeds: an interval needs at least 3 paired seeds, 0 leaves it out (got {job.validation.seeds})."
    if sizes and job.proxies.size not in sizes:
        yield f"proxies.size: unknown size {job.proxies.size!r}; {did_you_mean(job.proxies.size, sizes)}"
    for name in job.export:
        if name not in BACKENDS:
            yield f"export: unknown backend {name!r}; {did_you_mean(name, BACKENDS)}"
    if job.target.prior is not None and abs(sum(job.target.prior.values()) - 1) > SUM_TOLERANCE:
        yield f"target.prior: must sum to 1 (got {sum(job.target.prior.values()):.6g})."
    yield from _group_problems(job.target)
    yield from _method_problems(job.method, "method")
    yield from _compare_problems(job.compare, sizes)
    if job.data.domains is not None:
        yield from unknown_domains(job, list(job.data.domains))


def _group_problems(target: TargetSection) -> Iterator[str]:
    for name, group in target.groups.items():
        if group.lower > group.upper:
            yield f"target.groups.{name}: lower {group.lower:g} is above upper {group.upper:g}."
        if len(set(group.domains)) < len(group.domains):
            yield f"target.groups.{name}.domains: names a domain twice."


def unknown_domains(job: Job, names: Sequence[str]) -> Iterator[str]:
    """A sentence for each domain name in target and objective that is not among `names`."""
    target, objective = job.target, job.objective
    asked: dict[str, Sequence[str]] = {
        "target.lower": list(target.lower),
        "target.upper": list(target.upper),
        "target.prior": list(target.prior or {}),
        "objective.weights": list(objective.weights),
        "objective.domains": objective.domains or [],
        "objective.floors": list(objective.floors),
        **{f"target.groups.{name}.domains": group.domains for name, group in target.groups.items()},
    }
    for path, given in asked.items():
        for name in given:
            if name not in names:
                yield f"{path}: unknown domain {name!r}; {did_you_mean(name, names)}"
    yield from _unknown_in_method(job.method, names, "method")
    for i, body in enumerate(job.compare.methods):
        yield from _unknown_in_method(body, names, f"compare.methods.{i}")
    missing = [name for name in names if target.prior is not None and name not in target.prior]
    if missing:
        yield f"target.prior: no proportion for {', '.join(missing)}; 0 is allowed."
    listed = names if objective.domains is None else objective.domains
    if not any(objective.weights.get(name, 1.0) for name in listed):
        yield "objective: no domain has a positive weight."
    for name in objective.weights:
        if name in names and name not in listed:
            yield f"objective.weights: {name!r} is not among objective.domains."


def _unknown_in_method(method: Mapping[str, Any], names: Sequence[str], where: str) -> Iterator[str]:
    """A sentence for each mixture among a method's knobs, phases of a schedule included, that has other domains."""
    phases = method.get("phases")
    mixtures = {f"{where}.{knob}": method.get(knob) for knob in ("start", "prior")}
    if isinstance(phases, list | tuple) and all(
        isinstance(phase, list | tuple) and len(phase) == 2 for phase in phases
    ):
        mixtures |= {f"{where}.phases[{k}]": phase[1] for k, phase in enumerate(phases)}
    for path, given in mixtures.items():
        if isinstance(given, Mapping):
            yield from (f"{path}: unknown domain {n!r}; {did_you_mean(str(n), names)}" for n in given if n not in names)
            if missing := [name for name in names if name not in given]:
                yield f"{path}: no proportion for {', '.join(missing)}; 0 is allowed."


def _method_problems(body: Mapping[str, Any], path: str) -> Iterator[str]:
    name = body.get("name")
    if not isinstance(name, str) or name not in METHODS:
        yield f"{path}.name: unknown method {name!r}; {did_you_mean(str(name), METHODS)}"
        return
    try:
        _knobs(body)
    except JobError as e:  # what the method itself says of its knobs
        yield from (f"{path}.{line.removeprefix('method.')}" for line in str(e).splitlines())
    except ValidationError as e:
        for error in e.errors():
            known = [field.name for field in fields(METHODS[name])]
            yield sentence(Job, {**error, "loc": (*path.split("."), *error["loc"])}, known)


def _compare_problems(section: CompareSection, sizes: Collection[str]) -> Iterator[str]:
    for i, body in enumerate(section.methods):
        yield from _method_problems(_unlabelled(body), f"compare.methods.{i}")
        label = body.get("label", "none given")
        if not isinstance(label, str) or not label.strip():
            yield f"compare.methods.{i}.label: must be a word (got {label!r})."
        if body.get("label") == UNIFORM and body.get("name") != UNIFORM:
            yield f"compare.methods.{i}.label: {UNIFORM!r} is what every method is compared with. Choose another."
    labels = Counter(str(body.get("label", body.get("name"))) for body in section.methods)
    for label, count in labels.items():
        if count > 1:
            yield f"compare.methods: {label!r} is there {count} times. Give each its own: {{name: {label}, label: ...}}."
    if section.seeds < 3:
        yield f"compare.seeds: an interval needs at least 3 paired seeds (got {section.seeds})."
    if sizes and section.size is not None and section.size not in sizes:
        yield f"compare.size: unknown size {section.size!r}; {did_you_mean(section.size, sizes)}"


def _knobs(body: Mapping[str, Any]) -> dict[str, Any]:
    """All knobs of a method, as its own types. Raises ValidationError or JobError for those it does not take."""
    name = body["name"]
    given = {key: value for key, value in body.items() if key != "name"}
    checked = knobs_type(METHODS[name]).validate_python(given)
    return {field.name: getattr(checked, field.name) for field in fields(METHODS[name])}


def _unlabelled(body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "label"}


def _source(domain: DomainSection, folder: Path, where: str) -> Source:
    return Source(
        path=_path(domain.path, folder, f"{where}.path") if domain.path else None,
        text=domain.text,
        hf=HubSource(**domain.hf.model_dump()) if domain.hf else None,
        valid=_path(domain.valid, folder, f"{where}.valid") if domain.valid else None,
        tokens=domain.tokens,
    )


def _path(given: str, folder: Path, where: str) -> str:
    expanded = os.path.expanduser(os.path.expandvars(given))
    if "$" in expanded:
        raise JobError(f"{where}: {given!r} names an environment variable that is not set.")
    return expanded if "://" in expanded or Path(expanded).is_absolute() else str(folder / expanded)
