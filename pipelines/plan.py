"""From a job to a study: what is not given is derived, and every derived number comes with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mixopt import rehearsal
from mixopt.domains import Domain, Manifest
from mixopt.errors import JobError
from mixopt.job import Job, unknown_domains
from mixopt.laws import make
from mixopt.limits import Group, Trust
from mixopt.mixture import Mixture
from mixopt.policy import Fixed, OnlinePolicy
from mixopt.runs import Objective, Proxy, RunSpec
from mixopt.sections import ObjectiveSection
from mixopt.space import MixtureSpace
from mixopt.study import Adapting, Method, Study
from mixopt.validate import BEST, PRIOR, RECOMMENDED, UNIFORM
from proxies.sizes import Derived, Shape, batch_rows, eval_tokens, learning_rate, shape
from proxies.tokens import TokenStore, check_lengths, supply_tokens, supply_wanted

LEAST_COUNT = 32


@dataclass(frozen=True)
class Setting:
    """The numbers of a proxy run that do not depend on the text, and the sentences that explain them."""

    shape: Shape
    tokens: int
    count: int
    batch: int
    learning_rate: float
    eval_tokens: int
    precision: str
    reasons: tuple[str, ...]


def setting(job: Job, domains: int, tuned: Derived | None = None) -> Setting:
    """Derive what the job does not say, for this many domains; `tuned` is a learning rate that was swept.

    Raises JobError for less than one step, and for horizons of less than two steps.
    """
    section, form = job.proxies, shape(job.proxies.size)
    reasons = [f"{section.size}: {form.parameters:,} non-embedding parameters, rows of {form.sequence} tokens"]
    tokens, count = section.tokens, section.count
    if tokens is None:
        tokens = 20 * form.parameters
        reasons.append(f"{tokens:,} tokens per proxy: 20 per parameter (Hoffmann et al. 2022, arXiv:2203.15556)")
    if count is None:
        count = max(LEAST_COUNT, 3 * (domains + 1))
        reasons.append(f"{count} proxies: 3 (domains + 1), at least {LEAST_COUNT} (Olmix, arXiv:2602.12237)")
    batch, rate, held_out = section.batch, section.learning_rate, section.eval_tokens
    if batch is None:
        derived = batch_rows(tokens, form.sequence)
        batch = int(derived.value)
        reasons.append(derived.reason)
    if rate is None:
        derived = tuned or learning_rate(form.parameters, tokens)
        rate = derived.value
        reasons.append(derived.reason)
    if held_out is None:
        derived = eval_tokens(tokens, domains, section.checkpoints, form.sequence)
        held_out = int(derived.value)
        reasons.append(derived.reason)
    precision = section.precision
    if precision is None:
        precision = "float32" if job.compute.device == "cpu" else "bfloat16"
        reasons.append(f"matrix products in {precision}: compute.device is {job.compute.device}")
    if tokens < batch * form.sequence:
        raise JobError(f"proxies.tokens: {tokens:,} are less than one step ({batch} rows of {form.sequence} tokens).")
    steps = tokens // (batch * form.sequence)
    for part in section.horizons:
        if round(part * steps) < 2:
            raise JobError(f"proxies.horizons: {part:g} of a run of {steps} steps is less than two. Leave it out.")
    return Setting(form, tokens, count, batch, rate, held_out, precision, (*reasons, *_whole(job, count, tokens)))


def _whole(job: Job, count: int, tokens: int) -> list[str]:
    """What becomes of the proxies' tokens where a method trains no swarm."""
    if not isinstance(job.make_method(), Adapting):
        return []
    budget = f"{count * tokens:,} tokens, those of {count} proxies"
    return [f"search budget: {budget}; {job.method['name']} trains fewer runs that last longer"]


def make_study(job: Job, manifest: Manifest, tuned: Derived | None = None) -> Study:
    """The question that a job asks about a prepared corpus.

    Raises JobError, DataError or InfeasibleSpace for what only shows once the text is there.
    """
    problems = list(unknown_domains(job, manifest.names))
    if problems:
        raise JobError("\n".join(problems))
    chosen = setting(job, len(manifest.domains), tuned)
    proxy, space = make_proxy(job, manifest, chosen), make_space(job, manifest.domains)
    asked = objective(job.objective, manifest.names)
    return Study(space, asked, proxy, chosen.count, job.seed, design=job.proxies.design)


def make_proxy(job: Job, manifest: Manifest, chosen: Setting) -> Proxy:
    """All that decides a run beside mixture and seed. Raises DataError for too little text."""
    check_lengths(manifest, chosen.shape.sequence, chosen.batch)
    return _proxy(job, chosen, supply(job, manifest, chosen), manifest.fingerprint)


def sketch(job: Job, names: Sequence[str], chosen: Setting) -> Study:
    """The study as far as it is known before any text is read: with plenty of it, and no bounds."""
    proxy = _proxy(job, chosen, dict.fromkeys(names, chosen.tokens), "")
    space = MixtureSpace(tuple(Domain(name, job.target.tokens) for name in names), job.target.tokens)
    return Study(space, objective(job.objective, names), proxy, chosen.count, job.seed, design=job.proxies.design)


def _proxy(job: Job, chosen: Setting, supply: Mapping[str, int], data: str) -> Proxy:
    return Proxy(
        size=job.proxies.size,
        tokens=chosen.tokens,
        sequence=chosen.shape.sequence,
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        checkpoints=job.proxies.checkpoints,
        eval_tokens=chosen.eval_tokens,
        supply=supply,
        data=data,
        optimizer=job.proxies.optimizer,
        precision=chosen.precision,
        horizons=tuple(job.proxies.horizons),
    )


def make_space(job: Job, domains: tuple[Domain, ...]) -> MixtureSpace:
    """The mixtures that the real run may follow. Raises InfeasibleSpace if there is none."""
    target = job.target
    prior = Mixture(target.prior) if target.prior is not None else None
    groups = {name: Group(tuple(group.domains), group.lower, group.upper) for name, group in target.groups.items()}
    trust = Trust(target.trust.kl, target.trust.l1)
    return MixtureSpace(domains, target.tokens, target.max_epochs, prior, target.lower, target.upper, groups, trust)


def objective(section: ObjectiveSection, names: Sequence[str]) -> Objective:
    """Weights on "bpb/<domain>": 1 for every domain, or for those listed, unless given; floors on any domain."""
    listed = names if section.domains is None else section.domains
    weights = {f"bpb/{name}": section.weights.get(name, 1.0) for name in listed}
    return Objective(weights, {f"bpb/{name}": fraction for name, fraction in section.floors.items()})


def supply(job: Job, manifest: Manifest, chosen: Setting) -> dict[str, int]:
    """Unique tokens that a proxy may draw of each domain: scaled like the run's length, or all that was prepared."""
    sequence, store = chosen.shape.sequence, TokenStore(manifest, chosen.shape.sequence)
    found = {}
    for domain in manifest.domains:
        matched = supply_wanted(domain, chosen.tokens, job.target.tokens)
        wanted = matched if job.proxies.match_repetition else domain.train.tokens
        found[domain.name] = supply_tokens(wanted, store.blocks(domain.name), sequence)
    return found


def repetition_notes(job: Job, study: Study, manifest: Manifest) -> list[str]:
    """What the proxies' repetition is, in sentences for the report."""
    if not job.proxies.match_repetition:
        return ["Proxies draw from all prepared text (match_repetition is off): they repeat less than the real run."]
    proxy, target = study.longest, job.target.tokens
    said = f"a proxy may draw {min(1, proxy.tokens / target):.3g} of a domain's tokens, so as to repeat it like the real run."
    notes = [f"Repetition is matched: {said}"]
    for why, off in (("more", 1.1), ("less", 0.9)):
        names = []
        for domain in manifest.domains:
            there = min(proxy.supply[domain.name], domain.train.tokens)
            ratio = supply_wanted(domain, proxy.tokens, target) / there
            if (ratio > off) if off > 1 else (ratio < off):
                names.append(f"{domain.name} ({1 / ratio:.2g} times the supply wanted)")
        if names:
            cause = "too little text was prepared" if off > 1 else "a supply is at least one row"
            notes.append(f"Proxies repeat {why} than the real run, because {cause}: {', '.join(names)}.")
    return notes


def cost(job: Job, names: Sequence[str], vocabulary: int, tuned: Derived | None = None) -> Mapping[str, Any]:
    """What a search will train, before any text is read: runs, tokens and FLOPs.

    Raises JobError for a policy that cannot feed a run of this budget.
    """
    chosen, section = setting(job, len(names), tuned), job.proxies
    method, study = job.make_method(), sketch(job, names, chosen)
    count, heard, statics = 0, 0.0, False
    if least_runs(method, len(names)):  # a swarm for a law
        count, statics = chosen.count, True
    elif not job.is_baseline:
        specs = method.ask(study, np.random.default_rng(0))
        statics = any(isinstance(spec.feed, Fixed) and spec.proxy == study.proxy for spec in specs)
        heard = sum(_readings(spec, names) for spec in specs)
        spent = sum(spec.proxy.tokens for spec in specs)
        count = len(specs) + (study.budget - spent > study.proxy.tokens / 2)  # a run that waits for what these teach
    arms = [RECOMMENDED, PRIOR, UNIFORM, *([BEST] if statics else [])]
    validated = len(arms) * job.validation.seeds
    evaluated = chosen.eval_tokens * len(names) * (heard + (count + validated) * section.checkpoints)
    tokens = (study.budget if count else 0) + validated * chosen.tokens
    return {
        "proxies": count,
        "validation_runs": validated,
        "tokens": tokens,
        "flops": chosen.shape.flops(vocabulary) * (tokens + evaluated / 3),
        "reasons": list(chosen.reasons),
    }


def rehearse(method: Method, study: Study) -> None:
    """Raise JobError where a policy of the method's first runs cannot feed its run; nothing is trained."""
    if not least_runs(method, len(study.space.names)):  # else it trains static mixtures
        for spec in method.ask(study, np.random.default_rng(0)):
            _readings(spec, study.space.names)


def begin(policy: OnlinePolicy[Any], names: Sequence[str], proxy: Proxy) -> Any:
    """A policy's first state in a run, nothing trained. Raises JobError where it cannot feed that run."""
    return rehearsal.begin(policy, names, proxy.tokens, proxy.batch * proxy.sequence)


def _readings(spec: RunSpec, names: Sequence[str]) -> float:
    """How often the held-out text is read for the policy of a run, probes included; gradients are not counted."""
    if not spec.feed.needs:
        return 0.0
    return rehearsal.readings(spec.feed, names, spec.proxy.tokens, spec.proxy.batch * spec.proxy.sequence)


def refuse_too_few(method: Method, count: int, domains: int) -> None:
    """Raise JobError, before anything is trained, if the method's law could not be fitted to that many runs."""
    needed = least_runs(method, domains)
    if count < needed:
        raise JobError(
            f"proxies.count: {count} runs cannot determine the law over {domains} domains (needs at least {needed})."
        )


def least_runs(method: Method, domains: int) -> int:
    """Good runs that the method's law needs; 0 for methods without one."""
    law = getattr(method, "law", None)
    return make(law).min_runs(domains) if law is not None else 0
