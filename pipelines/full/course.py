"""What a full run is, resolved: the search's answer, the text, the model, and every number that was not given.

Driver and workers resolve it alike: the driver from the configuration, workers from `full.lock.yaml`, where every key
has its value.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from mixopt import full as configuration
from mixopt import handoff, job
from mixopt.domains import Domain, Manifest
from mixopt.errors import DataError, JobError
from mixopt.full import Full
from mixopt.handoff import Plan
from mixopt.ladder import Shape, shape
from mixopt.mixture import Mixture
from mixopt.policy import OnlinePolicy
from mixopt.sections import TrackingSection
from mixopt.space import MixtureSpace
from mixopt.yaml_text import dump_yaml, parse_yaml
from pipelines.full.derived import learning_rate
from pipelines.full.saved import complete
from proxies.sizes import batch_rows, rows_at_once
from proxies.tokens import Sampler, TokenStore

LOCK, EVENTS, RECORD = "full.lock.yaml", "events.jsonl", "record.json"
POINTS = 20  # evaluations in a run
VALID_SHARE = 0.02  # of the training compute that goes into them
SAVES = 50  # checkpoints in a run
LINES = 10_000  # of step events in a run


@dataclass(frozen=True)
class Searched:
    """What a run directory says of its search. `prior` and `job` are None where only a mixture is there."""

    directory: Path
    plan: Plan
    job: job.Job | None
    prior: Mixture | None

    @classmethod
    def load(cls, directory: Path) -> Searched:
        """Read a run directory. Raises JobError where there is no recommendation, DataError where it cannot be read."""
        path, lock, results = (directory / name for name in ("mixture.json", "job.lock.yaml", "results.json"))
        if not path.exists():
            raise JobError(f"{directory}: holds no mixture.json. Give the run directory of a finished search.")
        rows = json.loads(results.read_text(encoding="utf-8"))["domains"] if results.exists() else []
        prior = Mixture({row["name"]: row["prior"] for row in rows}) if rows else None
        return cls(directory, handoff.load(path), job.load(lock) if lock.exists() else None, prior)

    @property
    def name(self) -> str:
        """The job's name, or the directory's."""
        return self.job.name if self.job else self.directory.resolve().name

    def manifest(self, given: str | None) -> Manifest:
        """The prepared text: that of the search, unless another folder is given. Raises DataError where it is not there."""
        prepared = given or (self.plan.provenance or {}).get("prepared")
        if prepared is None:
            raise DataError(
                f"{self.directory / 'mixture.json'}: does not say where the prepared text is. Give data.manifest."
            )
        try:
            return Manifest.load(Path(prepared).expanduser())
        except DataError as e:
            raise DataError(f"{e} The search's text is gone? Run the search again, or give data.manifest.") from e


@dataclass(frozen=True)
class Course:
    """A full run. `full` has a value for every key, `reasons` say where those come from that were not given.

    `plan` has the domains of the store only, `mixture_id` is that of the whole answer.
    """

    searched: Searched
    full: Full
    plan: Plan
    manifest: Manifest
    shape: Shape
    reasons: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return self.searched.directory / "full"

    @property
    def checkpoints(self) -> Path:
        """Where its checkpoints are."""
        return saved_in(self.full, self.folder)

    @property
    def mixture_id(self) -> str:
        """The identity of the answer that is trained."""
        return self.searched.plan.id

    @property
    def names(self) -> tuple[str, ...]:
        """The domains, sorted."""
        return self.plan.names

    @property
    def workers(self) -> int:
        """Processes that train together."""
        return _given(self.full.launch.workers)

    @property
    def sequence(self) -> int:
        """Tokens of a row."""
        return _given(self.full.sequence)

    @property
    def rows(self) -> int:
        """Rows of a step, over all workers."""
        return _given(self.full.batch_tokens) // self.sequence

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, over all workers."""
        return self.rows * self.sequence

    @property
    def steps(self) -> int:
        """Steps of the run: the last one is whole."""
        return -(-_given(self.full.tokens) // self.step_tokens)

    @property
    def tokens(self) -> int:
        """Tokens of the run, whole steps."""
        return self.steps * self.step_tokens

    @property
    def parameters(self) -> int:
        """All parameters of the model."""
        return self.shape.parameters(self.manifest.tokenizer.vocabulary)

    @property
    def flops_per_token(self) -> float:
        """FLOPs to train on one token."""
        return self.shape.flops(self.manifest.tokenizer.vocabulary, self.sequence)

    @cached_property
    def store(self) -> TokenStore:
        """The text."""
        return TokenStore(self.manifest, self.sequence)

    @cached_property
    def sampler(self) -> Sampler:
        """Which rows the run reads: of every domain all there are, epoch after epoch."""
        supply = [self.store.blocks(name) for name in self.names]
        return Sampler(self.store, self.names, supply, self.rows, self.full.seed)

    @cached_property
    def space(self) -> MixtureSpace:
        """The mixtures that the text allows. Raises InfeasibleSpace where all of it is not enough for the run."""
        domains = tuple(Domain(name, self.store.blocks(name) * self.sequence) for name in self.names)
        prior = self.searched.prior
        prior = prior if prior is not None and set(prior) == set(self.names) else None
        return MixtureSpace(domains, self.tokens, _given(self.full.max_epochs), prior)

    @cached_property
    def feed(self) -> OnlinePolicy[Any]:
        """What says which domains come next."""
        return configuration.planned(self.full, self.plan) or configuration.adaptive(self.full, self.space)

    def every(self, tokens: int | None) -> int:
        """Steps of so many tokens, at least one."""
        return max(1, round(_given(tokens) / self.step_tokens))

    def lock(self) -> str:
        """The configuration with every value, and what it was resolved with."""
        derived = {"mixture_id": self.mixture_id, "data": self.manifest.fingerprint, "reasons": list(self.reasons)}
        return dump_yaml(self.full.to_json() | {"derived": derived})


def resolve(searched: Searched, given: Full) -> Course:
    """A run with every number derived that was not given.

    Raises DataError for text that does not have the plan's domains or tokenizer.
    """
    manifest = searched.manifest(given.data.manifest)
    refuse_other_tokenizer(searched.plan, manifest, given.data.tokenizer)
    plan = held(searched.plan, manifest, given)
    course = Course(searched, given, plan, manifest, shape(given.model))
    for derive in (_lengths, _machine, _batch, _rates, _intervals):
        full, reasons = derive(course)
        course = replace(course, full=full, reasons=(*course.reasons, *reasons))
    return course


def inherited(given: Full, folder: Path) -> Full:
    """The configuration to go on with: of a run that has a checkpoint, what `given` does not say is as it was.

    Raises JobError where `given` says otherwise and the checkpoint would be of another run.
    """
    path = folder / LOCK
    if not path.exists():
        return given
    body: dict[str, Any] = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    kept = configuration.parse({key: value for key, value in body.items() if key != "derived"}, str(path))
    if not (folder / RECORD).exists() and not complete(saved_in(kept, folder)):
        return given
    said = {key: value for key, value in given.to_json().items() if key in given.model_fields_set}
    before = {key: value for key, value in kept.to_json().items() if key not in configuration.FREE}
    merged = configuration.parse(before | said, "configuration")
    if differences := configuration.changed(before, merged.to_json()):
        raise JobError(
            f"{folder}: holds a run of another configuration ({'; '.join(differences)}). Leave these as they were to go "
            f"on with it, or move {folder} away to begin anew."
        )
    return merged


def refuse_other_answer(course: Course) -> None:
    """Raise JobError if mixture or text changed since this run made its first checkpoint."""
    path = course.folder / LOCK
    if not path.exists() or not ((course.folder / RECORD).exists() or complete(course.checkpoints)):
        return
    before = parse_yaml(path.read_text(encoding="utf-8"), str(path))["derived"]
    for key, now, what in (
        ("mixture_id", course.mixture_id, "mixture.json"),
        ("data", course.manifest.fingerprint, "the prepared text"),
    ):
        if before[key] != now:
            raise JobError(
                f"{course.folder}: {what} changed since this run began (was {before[key]}, is {now}). Move the folder away "
                "to begin anew."
            )


def saved_in(full: Full, folder: Path) -> Path:
    """Where the checkpoints of a run in this folder are."""
    given = full.checkpoint.folder
    return Path(given).expanduser().absolute() if given else folder.absolute() / "checkpoints"


def load(run_dir: Path) -> Course:
    """The run that a driver has locked, for its workers."""
    return resolve(Searched.load(run_dir), configuration.load(run_dir / "full" / LOCK))


def refuse_other_tokenizer(plan: Plan, manifest: Manifest, meant: str | None) -> None:
    """Raise DataError for text of another tokenizer than the plan's, unless just that one is meant."""
    known = {str((plan.tokenizer or {}).get("revision")), str(meant)}
    tokenizer = manifest.tokenizer
    if plan.tokenizer is not None and tokenizer.fingerprint not in known:
        raise DataError(
            f"data: {manifest.root} was tokenized by {tokenizer.kind}, vocabulary {tokenizer.vocabulary}, fingerprint "
            f"{tokenizer.fingerprint}; the mixture counts tokens of fingerprint {plan.tokenizer.get('revision')}, "
            f"vocabulary {plan.tokenizer.get('vocab_size')}. Proportions of tokens change with the tokenizer. Prepare the "
            f"text with the plan's, or give data.tokenizer: {tokenizer.fingerprint} if this is what you mean."
        )


def held(plan: Plan, manifest: Manifest, given: Full) -> Plan:
    """The plan over the domains of the store: one that gets nothing may be missing, unless a policy may want it.

    Raises DataError for others that are missing, with their proportions.
    """
    most = {name: max(m[name] for _, m in (*plan.phases, *plan.schedule)) for name in plan.names}
    fixed = given.feed["policy"] in (configuration.STATIC, configuration.SCHEDULE)
    missing = [name for name in plan.names if name not in manifest.names]
    if wanted := [f"{name} ({100 * most[name]:.3g} %)" for name in missing if most[name] > 0 or not fixed]:
        raise DataError(
            f"data: the mixture draws {', '.join(wanted)}, which {manifest.root} does not hold. It has "
            f"{', '.join(manifest.names)}. Prepare the missing text, or give data.manifest."
        )
    if not missing:
        return plan

    def without(phases: tuple[tuple[int, Mixture], ...]) -> tuple[tuple[int, Mixture], ...]:
        return tuple((at, Mixture({n: p for n, p in m.items() if n not in missing})) for at, m in phases)

    domains = tuple(domain for domain in plan.domains if domain.name not in missing)
    return replace(plan, domains=domains, phases=without(plan.phases), schedule=without(plan.schedule))


def _lengths(course: Course) -> tuple[Full, list[str]]:
    full, job_, reasons = course.full, course.searched.job, []
    update: dict[str, Any] = {}
    if full.sequence is None:
        update["sequence"] = job_.target.sequence if job_ else 4096
        reasons.append(f"rows of {update['sequence']} tokens: target.sequence of the search")
    if full.tokens is None:
        update["tokens"] = course.plan.target_tokens
        reasons.append(f"{course.plan.target_tokens:,} tokens: the mixture was found for so many")
    if full.max_epochs is None:
        update["max_epochs"] = job_.target.max_epochs if job_ else 4.0
        reasons.append(f"at most {update['max_epochs']:g} epochs of a domain: target.max_epochs of the search")
    if full.tracking is None:
        update["tracking"] = job_.tracking if job_ else TrackingSection(mlflow=None)
    return full.model_copy(update=update), reasons


def _machine(course: Course) -> tuple[Full, list[str]]:
    full, launch, reasons = course.full, course.full.launch, []
    update: dict[str, Any] = {}
    if launch.device == "auto":
        update["device"] = "cuda" if gpus() else "cpu"
        reasons.append(f"device {update['device']}: what torch sees on this machine")
    device = update.get("device", launch.device)
    if launch.by == "auto":
        cluster = launch.address or (course.searched.job.compute.address if course.searched.job else None)
        update |= {"by": "ray", "address": cluster} if cluster else {"by": "torchrun"}
        reasons.append(f"launched by {update['by']}: {'an address is given' if cluster else 'no Ray address is given'}")
    if launch.workers is None:
        update["workers"] = max(1, gpus()) if device == "cuda" else 1
        reasons.append(f"{update['workers']} workers: one for each GPU of this machine, one on a CPU")
    launch = launch.model_copy(update=update)
    rest: dict[str, Any] = {"launch": launch}
    if full.precision is None:
        rest["precision"] = "bfloat16" if device == "cuda" else "float32"
        reasons.append(f"matrix products in {rest['precision']}: launch.device is {device}")
    if full.compile is None:
        rest["compile"] = device == "cuda"
    return full.model_copy(update=rest), reasons


def gpus() -> int:
    """GPUs that torch sees on this machine. Asked only where it matters: loading torch takes seconds."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _batch(course: Course) -> tuple[Full, list[str]]:
    full, workers, sequence, reasons = course.full, course.workers, course.sequence, []
    update: dict[str, Any] = {}
    if full.batch_tokens is None:
        derived = batch_rows(_given(full.tokens), sequence)
        rows = -(-int(derived.value) // workers) * workers
        update["batch_tokens"] = rows * sequence
        reasons.append(f"{derived.reason}; {rows} so that {workers} workers share them evenly")
    if full.micro_batch_tokens is None:
        own = _given(update.get("batch_tokens", full.batch_tokens)) // sequence // workers
        most = rows_at_once(max(1, own), sequence)
        rows = max((n for n in range(1, most + 1) if own % n == 0), default=1)
        update["micro_batch_tokens"] = rows * sequence
        reasons.append(f"{rows} rows at once on each worker: about 16,384 tokens")
    return full.model_copy(update=update), reasons


def _rates(course: Course) -> tuple[Full, list[str]]:
    if course.full.learning_rate is not None:
        return course.full, []
    derived = learning_rate(course.shape, course.tokens)
    return course.full.model_copy(update={"learning_rate": derived.value}), [derived.reason]


def _intervals(course: Course) -> tuple[Full, list[str]]:
    full, each, reasons = course.full, course.step_tokens, []
    update: dict[str, Any] = {}
    if full.valid_every is None:
        update["valid_every"] = max(1, course.steps // POINTS) * each
        reasons.append(f"held-out losses every {update['valid_every']:,} tokens: {POINTS} times")
    if full.valid_tokens is None:
        times = max(1, course.tokens // _given(update.get("valid_every", full.valid_every)))
        affordable = VALID_SHARE * 3 * course.tokens / times / len(course.names)  # a forward pass is a third of a step
        rows = max(4, min(round(affordable / course.sequence), (1 << 20) // course.sequence))
        update["valid_tokens"] = rows * course.sequence
        reasons.append(
            f"{rows * course.sequence:,} held-out tokens a domain: {VALID_SHARE:.0%} of the training compute"
        )
    if full.log_every is None:
        update["log_every"] = max(1, course.steps // LINES)
    if full.checkpoint.every is None:
        tokens = max(1, course.steps // SAVES) * each
        update["checkpoint"] = full.checkpoint.model_copy(update={"every": tokens})
        reasons.append(f"a checkpoint every {tokens:,} tokens: {SAVES} times")
    return full.model_copy(update=update), reasons


def _given(value: Any) -> Any:
    """A key of a resolved configuration."""
    if value is None:
        raise TypeError("the configuration is not resolved.")
    return value
