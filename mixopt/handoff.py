"""The hand-off: `mixture.json`, the answer as one neutral file that every backend is a pure function of.

The file's format is public and speaks of `weight` and `weights`; they are proportions of tokens, as everywhere here.
`sources` says where a domain's data is, and may be completed by hand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from mixopt.domains import Domain, Manifest, Shard
from mixopt.errors import DataError, did_you_mean
from mixopt.files import write_atomically
from mixopt.mixture import Mixture, Schedule, mean
from mixopt.space import MixtureSpace

SCHEMA = "mixopt.mixture/v1"
AGREEMENT = 1e-9


@dataclass(frozen=True)
class Sources:
    """Where a domain's data is.

    `text` are the files that were prepared and `shards` what came of it, ids of type `dtype`; `megatron_prefix` is an
    indexed dataset without .bin or .idx, `npy` are paths or globs of token files without a header, `mds` is the remote
    folder of a streaming dataset whose samples all have the model's sequence length.
    """

    text: tuple[str, ...] = ()
    shards: tuple[Shard, ...] = ()
    dtype: str = ""
    megatron_prefix: str = ""
    npy: tuple[str, ...] = ()
    mds: str = ""


@dataclass(frozen=True)
class PlannedDomain:
    """What a backend must know of a domain. `mean_tokens_per_doc` is None where nobody counted."""

    name: str
    available_tokens: int
    mean_tokens_per_doc: float | None = None
    fingerprint: str = ""
    sources: Sources = Sources()


@dataclass(frozen=True)
class Plan:
    """What the real run shall read: `phases` are (start token, mixture) pairs, the first at 0.

    `schedule` is what an online policy went through on its way to this mixture, phases alike: for a run that can follow it.
    """

    target_tokens: int
    domains: tuple[PlannedDomain, ...]
    phases: tuple[tuple[int, Mixture], ...]
    schedule: tuple[tuple[int, Mixture], ...] = ()
    tokenizer: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None

    def __getitem__(self, name: str) -> PlannedDomain:
        """The domain of this name."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise DataError(f"unknown domain {name!r}; {did_you_mean(name, self.names)}")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Domain names, sorted."""
        return tuple(domain.name for domain in self.domains)

    @cached_property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each phase."""
        starts = [start for start, _ in self.phases] + [self.target_tokens]
        return tuple(end - start for start, end in pairwise(starts))

    @cached_property
    def mixture(self) -> Mixture:
        """The mixture of the whole run: of one phase, to the last bit; of several, the mean by tokens."""
        return mean([(tokens, mixture) for tokens, (_, mixture) in zip(self.tokens, self.phases, strict=True)])

    @cached_property
    def epochs(self) -> dict[str, float]:
        """How often the run reads each domain."""
        return {d.name: self.target_tokens * self.mixture[d.name] / d.available_tokens for d in self.domains}

    @cached_property
    def id(self) -> str:
        """Hash of what decides the tokens that are read: not of paths, prediction or provenance."""
        content = {
            "schema": SCHEMA,
            "target_tokens": self.target_tokens,
            "tokenizer": self.tokenizer,
            "domains": [[d.name, d.available_tokens, d.fingerprint] for d in self.domains],
            "phases": [[start, dict(mixture)] for start, mixture in self.phases],
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def document(
    space: MixtureSpace,
    answer: Mixture | Schedule,
    manifest: Manifest | None,
    prediction: Mapping[str, Any] | None,
    provenance: Mapping[str, Any] | None,
    schedule: Schedule | None = None,
) -> dict[str, Any]:
    """The content of `mixture.json`. Floats are kept to the last bit.

    `schedule` has the answer as its mean; `prediction` holds "objective" and its "interval"; `provenance` whatever finds the job again.
    Raises DataError if the answer and the manifest do not have the space's domains.
    """
    target = space.target_tokens

    def planned(phases: Sequence[tuple[float, Mixture]]) -> tuple[tuple[int, Mixture], ...]:
        return tuple((round(s * target), Mixture.from_array(space.names, m.array(space.names))) for s, m in phases)

    plan = Plan(
        target_tokens=target,
        domains=tuple(_planned(manifest[d.name] if manifest else d, d.tokens, manifest) for d in space.domains),
        phases=planned(answer.phases if isinstance(answer, Schedule) else ((0.0, answer),)),
        schedule=planned(schedule.phases) if schedule else (),
        tokenizer=_tokenizer(manifest) if manifest else None,
    )
    body = {
        "schema": SCHEMA,
        "mixture_id": plan.id,
        "unit": "tokens",
        "target_tokens": target,
        "tokenizer": plan.tokenizer,
        "domains": [
            {"name": d.name, "weight": plan.mixture[d.name], **_entry(d), "epochs": plan.epochs[d.name]}
            for d in plan.domains
        ],
        "phases": _said(plan.phases),
        "prediction": prediction,
        "provenance": provenance,
    }
    body |= {"schedule": _said(plan.schedule)} if plan.schedule else {}
    parse(body)
    return body


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write the document under a temporary name, then rename it: a file that is there is complete."""
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise DataError(f"mixture document: holds something that JSON cannot ({e}).") from e
    write_atomically(path, text + "\n")


def complete(path: Path, sources: Mapping[str, Mapping[str, Any]]) -> None:
    """Say in `mixture.json` where domains' data is: what is given of a domain replaces what is there.

    Raises DataError for a file that is wrong, and for kinds of sources that there are not.
    """
    body = dict(_read(path))
    domains = [
        {**item, "sources": {**item.get("sources", {}), **sources.get(item["name"], {})}} for item in body["domains"]
    ]
    body["domains"] = domains
    parse(body)
    save(body, path)


def load(path: Path) -> Plan:
    """Read `mixture.json`. Raises DataError with what is wrong in it."""
    try:
        return parse(_read(path))
    except DataError as e:
        raise DataError(f"{path}: {e}") from e


def load_mixture(path: Path) -> Mixture:
    """Read a mixture from `mixture.json`, from what `propose` printed, or from a plain `{"web": 0.5, ...}` file.

    Raises DataError with what is wrong in it.
    """
    try:
        body = _read(path)
        if isinstance(body.get("schema"), str):
            return parse(body).mixture
        return _mixture(body["mixture"] if isinstance(body.get("mixture"), dict) else body, "mixture file")
    except DataError as e:
        raise DataError(f"{path}: {e}") from e


def parse(body: Mapping[str, Any]) -> Plan:
    """The plan that a document describes. Raises DataError with what is wrong in it."""
    where = "mixture document"
    if body.get("schema") != SCHEMA:
        raise DataError(f"{where}: unknown schema {body.get('schema')!r} (known: {SCHEMA!r}).")
    optional = ("mixture_id", "tokenizer", "prediction", "provenance", "schedule")
    _check_keys(body, ("schema", "unit", "target_tokens", "domains", "phases"), optional, where)
    if body["unit"] != "tokens":
        raise DataError(f"{where}: unit must be 'tokens' (got {body['unit']!r}). Convert document shares first.")
    for key in optional[1:4]:
        if not isinstance(body.get(key), (Mapping, type(None))):
            raise DataError(f"{where}: {key} must be an object or null (got {body[key]!r}).")
    domains, weights = _domains(_items(body["domains"], "domains"))
    names = [domain.name for domain in domains]
    plan = Plan(
        target_tokens=_count(body["target_tokens"], "target_tokens"),
        domains=domains,
        phases=_phases(body["phases"], names, "phases"),
        schedule=_phases(body["schedule"], names, "schedule") if body.get("schedule") else (),
        tokenizer=body.get("tokenizer"),
        prediction=body.get("prediction"),
        provenance=body.get("provenance"),
    )
    for key, phases in (("phases", plan.phases), ("schedule", plan.schedule)):
        if phases and phases[-1][0] >= plan.target_tokens:
            raise DataError(f"{key}: the last starts at {phases[-1][0]:,}, after target_tokens.")
    for name, weight in weights.items():
        if abs(weight - plan.mixture[name]) > AGREEMENT:
            raise DataError(
                f"domains: weight of {name!r} is {weight!r}, but the phases give it {plan.mixture[name]!r}. Make them agree."
            )
    if body.get("mixture_id") not in (None, plan.id):
        raise DataError(
            f"{where}: mixture_id does not belong to this content. If it was edited on purpose, remove mixture_id."
        )
    return plan


def _planned(domain: Domain, tokens: int, manifest: Manifest | None) -> PlannedDomain:
    sources = Sources(text=domain.sources)
    if manifest and domain.train.shards and manifest.tokenizer.kind == "file":  # else they are the proxies' own ids
        shards = tuple(Shard(str((manifest.root / s.path).absolute()), s.tokens) for s in domain.train.shards)
        sources = replace(sources, shards=shards, dtype=f"uint{8 * manifest.token_bytes}")
    if domain.files:
        sources = _of_others(sources, domain, tokens)
    per_doc = domain.train.tokens / domain.train.documents if domain.train.documents else None
    return PlannedDomain(domain.name, tokens, per_doc, domain.fingerprint, sources)


def _of_others(sources: Sources, domain: Domain, tokens: int) -> Sources:
    """The token files that a domain was prepared from, under the names that their frameworks know.

    A prefix and a folder are named where the domain is one and its files are all that the real run has. Ids of any
    integer type of 2 or 4 bytes are the same bits as those without a sign.
    """
    (first, *more), whole = domain.files, domain.train.tokens >= tokens
    if first.kind == "mds":
        return replace(sources, mds=first.path if whole and first.row and not more else "")
    suffix = ".bin" if first.kind == "megatron" else ""
    shards = tuple(Shard(f.path + suffix, f.tokens) for f in domain.files)
    dtype = {"uint16": "uint16", "int16": "uint16", "uint32": "uint32", "int32": "uint32"}.get(first.dtype, "")
    if not dtype or not all(f.plain for f in domain.files):
        shards, dtype = (), ""
    prefix = first.path if first.kind == "megatron" and whole and not more else ""
    return replace(sources, shards=shards, dtype=dtype, megatron_prefix=prefix)


def _entry(domain: PlannedDomain) -> dict[str, Any]:
    body = asdict(domain)
    body["sources"]["shards"] = tuple({"path": s.path, "tokens": s.tokens} for s in domain.sources.shards)
    return {**body, "sources": {kind: value for kind, value in body["sources"].items() if value}}


def _tokenizer(manifest: Manifest) -> dict[str, Any]:
    t = manifest.tokenizer
    return {"id": t.kind, "revision": t.fingerprint, "vocab_size": t.vocabulary}


def _domains(items: Sequence[Mapping[str, Any]]) -> tuple[tuple[PlannedDomain, ...], dict[str, float]]:
    domains: dict[str, PlannedDomain] = {}
    weights: dict[str, float] = {}
    optional = ("mean_tokens_per_doc", "epochs", "fingerprint", "sources")
    for k, item in enumerate(items):
        where = f"domains[{k}]"
        _check_keys(item, ("name", "weight", "available_tokens"), optional, where)
        name, per_doc = item["name"], item.get("mean_tokens_per_doc")
        if not isinstance(name, str) or not name or name in domains:
            raise DataError(f"{where}: name must be a text that no other domain has (got {name!r}).")
        if per_doc is not None and not _number(per_doc, f"{where}.mean_tokens_per_doc") > 0:
            raise DataError(f"{where}: mean_tokens_per_doc must be positive or null (got {per_doc!r}).")
        tokens = _count(item["available_tokens"], f"{where}.available_tokens")
        sources = _sources(item.get("sources") or {}, f"{where}.sources")
        domains[name] = PlannedDomain(name, tokens, per_doc, item.get("fingerprint", ""), sources)
        weights[name] = _number(item["weight"], f"{where}.weight")
    return tuple(domains[name] for name in sorted(domains)), weights


def _sources(body: Mapping[str, Any], where: str) -> Sources:
    _check_keys(body, (), [f.name for f in fields(Sources)], where)
    shards, dtype = body.get("shards", ()), body.get("dtype", "")
    for k, item in enumerate(shards):
        _check_keys(item, ("path", "tokens"), (), f"{where}.shards[{k}]")
        _count(item["tokens"], f"{where}.shards[{k}].tokens", least=0)
    if shards and dtype not in ("uint16", "uint32"):
        raise DataError(f"{where}.dtype: shards need 'uint16' or 'uint32' (got {dtype!r}).")
    for kind in ("text", "npy"):
        if not isinstance(body.get(kind, ()), (list, tuple)) or not all(isinstance(p, str) for p in body.get(kind, ())):
            raise DataError(f"{where}.{kind}: must be a list of paths (got {body[kind]!r}).")
    for kind in ("megatron_prefix", "mds"):
        if not isinstance(body.get(kind, ""), str):
            raise DataError(f"{where}.{kind}: must be one path (got {body[kind]!r}).")
    return Sources(
        text=tuple(body.get("text", ())),
        shards=tuple(Shard(**item) for item in shards),
        dtype=dtype,
        megatron_prefix=body.get("megatron_prefix", ""),
        npy=tuple(body.get("npy", ())),
        mds=body.get("mds", ""),
    )


def _said(phases: Sequence[tuple[int, Mixture]]) -> list[dict[str, Any]]:
    return [{"start_token": start, "weights": dict(mixture)} for start, mixture in phases]


def _phases(body: Any, names: Sequence[str], key: str) -> tuple[tuple[int, Mixture], ...]:
    phases = []
    for k, item in enumerate(_items(body, key)):
        where = f"{key}[{k}]"
        _check_keys(item, ("start_token", "weights"), (), where)
        mixture = _mixture(item["weights"], where)
        mixture.array(names)
        phases.append((_count(item["start_token"], f"{where}.start_token", least=0), mixture))
    starts = [start for start, _ in phases]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise DataError(f"{key}: must start at token 0 and increase (got {starts}).")
    return tuple(phases)


def _mixture(body: Any, where: str) -> Mixture:
    if not isinstance(body, Mapping) or not body:
        raise DataError(f"{where}: needs a mapping of domains to proportions (got {body!r}).")
    proportions = {name: _number(value, f"{where}, {name!r}") for name, value in body.items()}
    try:
        return Mixture(proportions)
    except DataError as e:
        raise DataError(f"{where}: {e}") from e


def _read(path: Path) -> Mapping[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        body = dict(pairs)
        if len(body) < len(pairs):
            raise ValueError(f"a key twice among {[key for key, _ in pairs]}")
        return body

    try:
        body = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except (OSError, ValueError) as e:
        raise DataError(f"not readable as JSON ({e}).") from e
    if not isinstance(body, dict):
        raise DataError(f"must hold one JSON object (got {type(body).__name__}).")
    return body


def _check_keys(body: Any, required: Sequence[str], optional: Sequence[str], where: str) -> None:
    if not isinstance(body, Mapping):
        raise DataError(f"{where}: must be a JSON object (got {body!r}).")
    known = [*required, *optional]
    for key in body:
        if key not in known:
            raise DataError(f"{where}: unknown key {key!r}; {did_you_mean(key, known)}")
    missing = [key for key in required if key not in body]
    if missing:
        raise DataError(f"{where}: lacks {', '.join(missing)}.")


def _items(value: Any, where: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: must be a list with at least one entry (got {value!r}).")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"{where}: must be a number (got {value!r}).")
    return float(value)


def _count(value: Any, where: str, least: int = 1) -> int:
    number = _number(value, where)
    if not number >= least or not number.is_integer():
        raise DataError(f"{where}: must be a whole number >= {least} (got {value!r}).")
    return int(value)
