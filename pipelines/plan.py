"""From a job to a study: what is not given is derived, and every derived number comes with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mixopt.domains import Domain, Manifest
from mixopt.errors import JobError
from mixopt.job import Job, ObjectiveSection, ProxiesSection, unknown_domains
from mixopt.mixture import Mixture
from mixopt.runs import Objective, Proxy
from mixopt.space import MixtureSpace
from mixopt.study import Study
from proxies.sizes import Shape, batch_rows, eval_tokens, learning_rate, shape
from proxies.tokens import check_lengths, supply_tokens

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
    reasons: tuple[str, ...]


def setting(section: ProxiesSection, domains: int) -> Setting:
    """Derive what the job does not say, for this many domains."""
    form = shape(section.size)
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
        derived = batch_rows(form.parameters, tokens, form.sequence)
        batch = int(derived.value)
        reasons.append(derived.reason)
    if rate is None:
        derived = learning_rate(form.parameters, tokens)
        rate = derived.value
        reasons.append(derived.reason)
    if held_out is None:
        derived = eval_tokens(tokens, domains, section.checkpoints, form.sequence)
        held_out = int(derived.value)
        reasons.append(derived.reason)
    return Setting(form, tokens, count, batch, rate, held_out, tuple(reasons))


def make_study(job: Job, manifest: Manifest) -> Study:
    """The question that a job asks about a prepared corpus.

    Raises JobError, DataError or InfeasibleSpace for what only shows once the text is there.
    """
    problems = list(unknown_domains(job, manifest.names))
    if problems:
        raise JobError("\n".join(problems))
    chosen = setting(job.proxies, len(manifest.domains))
    check_lengths(manifest, chosen.shape.sequence)
    target = job.target
    space = MixtureSpace(
        domains=manifest.domains,
        target_tokens=target.tokens,
        max_epochs=target.max_epochs,
        prior=Mixture(target.prior) if target.prior is not None else None,
        lower=target.lower,
        upper=target.upper,
    )
    match = job.proxies.match_repetition
    proxy = Proxy(
        size=job.proxies.size,
        tokens=chosen.tokens,
        sequence=chosen.shape.sequence,
        batch=chosen.batch,
        learning_rate=chosen.learning_rate,
        checkpoints=job.proxies.checkpoints,
        eval_tokens=chosen.eval_tokens,
        supply={d.name: _supply(d, chosen.tokens, target.tokens, match=match) for d in manifest.domains},
        data=manifest.fingerprint,
    )
    return Study(space, objective(job.objective, manifest.names), proxy, chosen.count, job.seed)


def objective(section: ObjectiveSection, names: Sequence[str]) -> Objective:
    """Weights on "bpb/<domain>": 1 for every domain, or for those listed, unless given."""
    listed = names if section.domains is None else section.domains
    return Objective({f"bpb/{name}": section.weights.get(name, 1.0) for name in listed})


def repetition_notes(job: Job, manifest: Manifest, tokens: int) -> list[str]:
    """What the proxies' repetition is, in sentences for the report."""
    if not job.proxies.match_repetition:
        return ["Proxies draw from all prepared text (match_repetition is off): they repeat less than the real run."]
    short = [d for d in manifest.domains if d.tokens * tokens > 1.01 * d.train.tokens * job.target.tokens]
    share = tokens / job.target.tokens
    notes = [
        f"Repetition is matched: a proxy may draw {share:.3g} of a domain's tokens, so as to repeat it like the real run."
    ]
    if short:
        said = ", ".join(f"{d.name} ({d.train.tokens:,} prepared)" for d in short)
        notes.append(f"Too little text was prepared to match it everywhere; proxies repeat more in: {said}.")
    return notes


def _supply(domain: Domain, tokens: int, target_tokens: int, *, match: bool) -> int:
    return supply_tokens(domain, tokens, target_tokens) if match else domain.train.tokens


def cost(job: Job, domains: int, vocabulary: int, arms: int) -> Mapping[str, Any]:
    """What a search will train, before any text is read: runs, tokens and FLOPs."""
    chosen = setting(job.proxies, domains)
    count = 0 if job.is_baseline else chosen.count
    runs = count + arms * job.validation.seeds
    per_token = chosen.shape.flops(vocabulary)
    evaluated = chosen.eval_tokens * domains * job.proxies.checkpoints
    return {
        "proxies": count,
        "validation_runs": runs - count,
        "tokens": runs * chosen.tokens,
        "flops": runs * per_token * (chosen.tokens + evaluated / 3),
        "reasons": list(chosen.reasons),
    }
