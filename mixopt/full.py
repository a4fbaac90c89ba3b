"""The configuration of a full run, `full.yaml`: everything beside mixture and text that decides the real model.

What is not given is derived from the search, the ladder of models and this machine, and printed with its source. A run
that goes on after a restart must be the same run: only what `FREE` names may change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from mixopt.errors import JobError, did_you_mean
from mixopt.handoff import Plan
from mixopt.ladder import LADDER
from mixopt.methods.online import limited
from mixopt.mixture import Schedule
from mixopt.parsing import knobs_type, read, sentence, together
from mixopt.policies.ado import ADO
from mixopt.policies.aioli import Aioli
from mixopt.policies.odm import ODM
from mixopt.policies.skillit import SkillIt
from mixopt.policy import Fixed, OnlinePolicy, Scheduled, Train, Valid
from mixopt.sections import Positive, Proportion, Section, TrackingSection
from mixopt.space import MixtureSpace

STATIC, SCHEDULE = "static", "schedule"
POLICIES: dict[str, type] = {"ado": ADO, "aioli": Aioli, "odm": ODM, "skillit": SkillIt}
UNHEARD = {  # policies that hear what a full run does not measure
    "doge": "gradients of every domain",
    "doremi": "losses of a reference model",
    "dynamixsft": "look-aheads, which train aside",
    "grape": "gradients of every domain",
    "regmixd": "a transition that its own swarm taught it; its plan is feed: schedule",
    "rnb": "gradients of every domain",
}
FREE = ("launch", "checkpoint", "tracking", "compile", "micro_batch_tokens", "activation_checkpointing", "log_every")
"""What another start of the same run may change: where and how it is computed, not what."""


class OptimizerSection(Section):
    """AdamW with a decay of all but the embeddings, gradients clipped to a norm.

    Source of the values: Llama 2 (arXiv:2307.09288), section 2.2, but for its epsilon of 1e-5.
    """

    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    clip: Annotated[float, Field(gt=0)] = 1.0


class CheckpointSection(Section):
    """How often, in tokens, the run is saved, how many checkpoints stay, and in which folder."""

    every: Positive | None = None
    keep: Positive = 2
    folder: str | None = None


class LaunchSection(Section):
    """Worker processes, by Ray Train, torchrun or somebody else, and how often they are started again after one was lost."""

    by: Literal["auto", "ray", "torchrun", "external"] = "auto"
    workers: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    restarts: Annotated[int, Field(ge=0)] = 3
    address: str | None = None


class TextSection(Section):
    """The folder of a prepared corpus, unless it is the search's; `tokenizer` is its fingerprint, if another is meant."""

    manifest: str | None = None
    tokenizer: str | None = None


def _feed(value: Any) -> Any:
    return {"policy": value} if isinstance(value, str) else value


def _tracking(value: Any) -> Any:
    return {"mlflow": value} if isinstance(value, str) else value


class Full(Section):
    """A full run. Keys without a value are derived: `pipelines/full/course.py`."""

    model: str
    sequence: Positive | None = None
    batch_tokens: Positive | None = None
    micro_batch_tokens: Positive | None = None
    tokens: Positive | None = None
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    warmup: Proportion = 0.01
    schedule: Literal["wsd", "cosine"] = "wsd"
    cooldown: Proportion = 0.2
    optimizer: OptimizerSection = OptimizerSection()
    precision: Literal["bfloat16", "float32"] | None = None
    compile: bool | None = None
    activation_checkpointing: Literal["none", "full"] = "none"
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    feed: Annotated[dict[str, Any], BeforeValidator(_feed)] = Field(default_factory=lambda: {"policy": STATIC})
    valid_every: Positive | None = None
    valid_tokens: Positive | None = None
    log_every: Positive | None = None
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    checkpoint: CheckpointSection = CheckpointSection()
    launch: LaunchSection = LaunchSection()
    data: TextSection = TextSection()
    tracking: Annotated[TrackingSection | None, BeforeValidator(_tracking)] = None

    def to_json(self) -> dict[str, Any]:
        """The keys of the file, for the lock."""
        body = self.model_dump(exclude_none=True)
        return body | ({"tracking": {"mlflow": self.tracking.mlflow}} if self.tracking else {})


def load(path: Path, overrides: Sequence[str] = ()) -> Full:
    """Read a configuration; each override is `a.b=value`. Raises JobError with every problem found."""
    body = read(path, "configuration", overrides)
    return parse({key: value for key, value in body.items() if key != "derived"}, str(path))


def parse(body: Mapping[str, Any], where: str) -> Full:
    """A configuration from plain data. Raises JobError with every problem found."""
    problems = []
    try:
        full = Full.model_validate(body)
    except ValidationError as e:
        problems = [sentence(Full, error) for error in e.errors()]
        wrong = {error["loc"][0] for error in e.errors()}
        full = Full.model_validate({"model": "1m"} | {k: v for k, v in body.items() if k not in wrong})
    problems += _problems(full)
    if problems:
        raise JobError(together(where, problems))
    return full


def _problems(full: Full) -> Iterator[str]:
    if full.model not in LADDER:
        yield f"model: unknown name {full.model!r}; {did_you_mean(full.model, LADDER)} Models: {', '.join(LADDER)}."
    if full.warmup + full.cooldown > 1 and full.schedule == "wsd":
        yield f"cooldown: warmup and cooldown are parts of the run, {full.warmup:g} and {full.cooldown:g} are more than all."
    for small, large in (("sequence", "batch_tokens"), ("sequence", "micro_batch_tokens")):
        few, many = getattr(full, small), getattr(full, large)
        if few and many and many % few:
            yield f"{large}: must be whole rows of {small} tokens ({few:,}; got {many:,}, the next is {-(-many // few) * few:,})."
    try:
        policy(full.feed)
    except JobError as e:
        yield from str(e).splitlines()


def policy(feed: Mapping[str, Any]) -> OnlinePolicy[Any] | None:
    """The policy that `feed` names, with its knobs; None for static and schedule, which the plan has.

    Raises JobError for an unknown one, for knobs it does not take, and for one that hears what is not measured.
    """
    name, given = str(feed.get("policy")), {key: value for key, value in feed.items() if key != "policy"}
    if name in UNHEARD:
        raise JobError(
            f"feed: {name} needs {UNHEARD[name]}; a full run measures training and held-out losses only. "
            f"These work: {', '.join(POLICIES)}. So do {STATIC} and {SCHEDULE}."
        )
    if name in (STATIC, SCHEDULE):
        if given:
            raise JobError(f"feed: {name} has no knobs (got {', '.join(given)}).")
        return None
    if name not in POLICIES:
        raise JobError(f"feed: unknown policy {name!r}; {did_you_mean(name, [STATIC, SCHEDULE, *POLICIES])}")
    kind = POLICIES[name]
    try:
        made = knobs_type(kind).validate_python(given)
    except ValidationError as e:
        known = [field.name for field in fields(kind)]
        said = (sentence(Full, {**error, "loc": ("feed", *error["loc"])}, known) for error in e.errors())
        raise JobError("\n".join(said)) from e
    except JobError as e:  # what the policy itself says of its knobs
        raise JobError("\n".join(f"feed.{line.removeprefix('method.')}" for line in str(e).splitlines())) from e
    return kind(**{field.name: getattr(made, field.name) for field in fields(kind)})


def planned(full: Full, plan: Plan) -> OnlinePolicy[Any] | None:
    """What the plan says the run is fed: its mixture or its schedule; None where a policy decides.

    Raises JobError for a plan without a schedule.
    """
    if full.feed["policy"] == STATIC:
        return Fixed(plan.mixture)
    if full.feed["policy"] != SCHEDULE:
        return None
    phases = plan.schedule or (plan.phases if len(plan.phases) > 1 else ())
    if not phases:
        raise JobError(
            f"feed: {SCHEDULE} needs a plan with phases, and mixture.json has one mixture. Use {STATIC}, or search with a "
            "method that plans one: schedule, regmixd, aioli, ado."
        )
    return Scheduled(Schedule(tuple((start / plan.target_tokens, mixture) for start, mixture in phases)))


def adaptive(full: Full, space: MixtureSpace) -> OnlinePolicy[Any]:
    """The policy that decides, kept within the epoch caps of `space`, which has the tokens that the store holds.

    Raises JobError for one that hears what is not measured.
    """
    made: Any = policy(full.feed)
    if getattr(made, "prior", ...) is None:
        made = replace(made, prior=dict(space.prior_mixture))
    if unheard := [signal.name for signal in made.needs if not isinstance(signal, Valid | Train)]:
        raise JobError(f"feed: the policy asks for {', '.join(unheard)}, which a full run does not measure.")
    return limited(made, space)


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between the configuration of a run and that of its resumption and may not, as sentences."""
    keys = sorted({*before, *now} - {*FREE, "derived"})
    return [f"{key} was {before.get(key)}, is {now.get(key)}" for key in keys if before.get(key) != now.get(key)]
