"""The sections of the job file, each parsed into frozen values."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mixopt.designs import Name as DesignName

Proportion = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(gt=0)]


class Section(BaseModel):
    """A part of the job file: frozen, unknown keys refused, infinities and NaN refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, validate_default=True)


class HubSection(Section):
    """A dataset of the Hugging Face hub."""

    path: str
    name: str | None = None
    split: str = "train"
    streaming: bool = True
    revision: str | None = None


class DomainSection(Section):
    """One domain: files (`path`, any fsspec URL with globs) or a hub dataset; `tokens` is what the real run has.

    `dtype` is that of a token file's ids, where it does not say it.
    """

    path: str | None = None
    text: str = "text"
    hf: HubSection | None = None
    valid: str | None = None
    tokens: Positive | None = None
    dtype: str | None = None


class TokenizerSection(Section):
    """`bytes`, `{train: vocabulary}` or `{file: tokenizer.json, end_of_text: token}`."""

    train: Annotated[int, Field(ge=258, le=1 << 20)] | None = None
    file: str | None = None
    end_of_text: str | None = None
    bytes: bool = False


class ValidationSection(Section):
    """What is held out of each domain that names no `valid` path of its own."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05


def _tokenizer(value: Any) -> Any:
    return {"bytes": True} if value == "bytes" else value


class DataSection(Section):
    """Where the text is: `domains`, or `source: environment`, the real text found on this machine."""

    domains: Annotated[dict[str, DomainSection], Field(min_length=2)] | None = None
    source: Literal["environment"] | None = None
    tokenizer: Annotated[TokenizerSection, BeforeValidator(_tokenizer)] = TokenizerSection(train=4096)
    validation: ValidationSection = ValidationSection()


class GroupSection(Section):
    """Domains whose proportions must sum to between `lower` and `upper`."""

    domains: Annotated[list[str], Field(min_length=1)]
    lower: Proportion = 0.0
    upper: Proportion = 1.0


class TrustSection(Section):
    """How far the mixture may be from the prior: KL divergence in nats, sum of absolute differences."""

    kl: Annotated[float, Field(gt=0)] | None = None
    l1: Annotated[float, Field(gt=0)] | None = None


class TargetSection(Section):
    """The real run: tokens, parameters, tokens per row, repetition, bounds, groups of domains, prior and trust in it."""

    tokens: Positive
    parameters: Positive | None = None
    sequence: Positive = 4096
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    lower: dict[str, Proportion] = {}
    upper: dict[str, Proportion] = {}
    groups: dict[str, GroupSection] = {}
    prior: dict[str, Proportion] | None = None
    trust: TrustSection = TrustSection()


class ObjectiveSection(Section):
    """Weighted mean of BPB over `domains` (all unless given); a domain without a weight has weight 1.

    `floors` says by which fraction a domain's BPB may be worse than at the prior.
    """

    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    domains: list[str] | None = None
    floors: dict[str, Annotated[float, Field(gt=-1)]] = {}


class ProxiesSection(Section):
    """The proxies. What is not given is derived from size and tokens, and printed with its source."""

    size: str = "100k"
    tokens: Positive | None = None
    count: Positive | None = None
    design: DesignName = "dirichlet"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    batch: Positive | None = None
    checkpoints: Annotated[int, Field(ge=1, le=100)] = 4
    eval_tokens: Positive | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    precision: Literal["float32", "bfloat16"] | None = None
    horizons: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(max_length=8)] = []
    match_repetition: bool = True


class ComputeSection(Section):
    """Where proxies are trained: `local` worker processes or `ray` (its own on this machine, or a cluster's address)."""

    executor: Literal["local", "ray"] = "local"
    workers: Annotated[int, Field(ge=0)] = Field(default_factory=lambda: os.cpu_count() or 1)
    address: str | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = "cpu"
    stack: Positive | None = None
    compile: bool | None = None


class TrackingSection(Section):
    """MLflow: `sqlite:///file.db`, the URL of a server, or null for none."""

    mlflow: Annotated[str | None, BeforeValidator(lambda given: None if given == "none" else given)] = (
        "sqlite:///mlflow.db"
    )


def named(value: Any) -> Any:
    """A method given by its name alone, or with its knobs."""
    return {"name": value} if isinstance(value, str) else value


class CompareSection(Section):
    """Which methods `mixopt compare` compares, at equal cost.

    Each searches with `budget` tokens, then every answer trains a proxy of `size` and `tokens` under paired `seeds`. What
    a method leaves of its budget its final run gets, as many FLOPs or as many tokens: `total`.
    """

    methods: list[Annotated[dict[str, Any], BeforeValidator(named)]] = [
        {"name": name} for name in ("olmix", "regmix", "prior", "uniform")
    ]
    seeds: int = 3
    size: str | None = None
    tokens: Positive | None = None
    budget: Positive | None = None
    total: Literal["flops", "tokens"] = "flops"


class ValidateSection(Section):
    """Paired seeds for the recommendation against prior, uniform and the best swarm point; 0 leaves it out."""

    seeds: Annotated[int, Field(ge=0)] = 3
