"""How true are the laws that online methods follow, on the text of a finished search or comparison?

Every run that a policy adapted is trained again with its policy watched: the same way, and at a few points probes of
every domain, whose drops give A*. Its likeness to the policy's own A stands beside what the method gained over uniform,
and beside the fit of the static law (to the swarm) and of the linear dynamic law (A* against what came next). Watched
runs are kept like all others: a second audit trains nothing.

Shapes: D domains, N stretches of training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from mixopt.designs import mixtures
from mixopt.domains import Manifest
from mixopt.errors import DataError, JobError, SwarmError, did_you_mean
from mixopt.fidelity import forecast, similarity, static_fit, transition
from mixopt.files import write_atomically
from mixopt.job import Job, load
from mixopt.mixture import FloatArray
from mixopt.policies.audited import Audited, Sweep
from mixopt.policy import Drops, probe_steps
from mixopt.progress import Progress
from mixopt.quality import r2
from mixopt.runs import Proxy, RunRecord
from mixopt.search import Workshop
from mixopt.store import Store
from mixopt.study import Study
from mixopt.validate import UNIFORM
from mixopt.yaml_text import parse_yaml
from pipelines import tuned
from pipelines.compute import make_executor
from pipelines.plan import make_study
from pipelines.prepare import with_available_tokens
from pipelines.search import LOCK

SCHEMA = "mixopt.audit/v1"
PART = 0.02  # of a run, that a probe trains unless told
WEIGHT = 0.75  # of a probe's own domain: the sharper of the two smoothed one-hots of Aioli's scripts
NO_LAW = "no linear dynamic law"


@dataclass(frozen=True)
class Asked:
    """What to audit: `points` sweeps, evenly over the run, of probes that train `part` of it; all methods, or these.

    Unless it is given, `part` is PART, less in runs whose segments are shorter.
    """

    methods: tuple[str, ...] = ()
    points: int = 3
    part: float | None = None

    def __post_init__(self) -> None:
        """Refuse what leaves no room for the probes."""
        if self.points < 1:
            raise JobError(f"--points: must be at least 1 (got {self.points}).")
        if not 0 < self.most < 1 / (self.points + 1):
            raise JobError(
                f"--part: {self.most:g} of the run is no probe that fits between {self.points} points "
                f"(above 0, below {1 / (self.points + 1):.3g}). Ask for a smaller --part or fewer --points."
            )

    @property
    def most(self) -> float:
        """The part of a run that a probe trains, at most."""
        return PART if self.part is None else self.part

    @property
    def at(self) -> tuple[float, ...]:
        """The points, as parts of the run."""
        return tuple((k + 1) / (self.points + 1) for k in range(self.points))


@dataclass(frozen=True)
class Finished:
    """A run directory: what its search or comparison wrote down, its job and its question, and where its runs are."""

    document: Mapping[str, Any]
    job: Job
    manifest: Manifest
    study: Study
    store: Store


@dataclass(frozen=True)
class Watched:
    """A run, and the same run watched."""

    method: str
    run: RunRecord
    again: RunRecord

    @property
    def sweeps(self) -> tuple[Sweep, ...]:
        """What was measured on its way."""
        return () if self.again.error else self.again.spec.feed.load(self.again.state).sweeps


def run(folder: Path, asked: Asked, progress: Progress) -> dict[str, Any]:
    """Train what is missing, compare, and write `audit.json`. Killed and run again it goes on where it was.

    Raises JobError for a directory without policies and for methods that are not in it, DataError where the store has
    lost runs.
    """
    began, directory = time.perf_counter(), opened(folder)
    listed = chosen(directory.document, asked, folder)
    runs = [(row["method"], record) for row, record in found(directory, listed, folder)]
    able = [(method, record) for method, record in runs if hasattr(record.spec.feed, "matrix") and not record.error]
    probed, refused = probes(able, asked)
    again, trained = watch([(record, part) for _, record, part in probed], directory, asked, progress)
    watched = [Watched(method, run, record) for (method, run, _), record in zip(probed, again, strict=True)]
    names = directory.manifest.names
    document = {
        "schema": SCHEMA,
        "run_dir": str(folder),
        "domains": list(names),
        "points": list(asked.at),
        "part": asked.most,
        "weight": WEIGHT,
        "methods": [
            row(method, runs, watched, refused.get(method), directory, asked)
            for method in methods(directory.document, asked)
        ],
        "static": static(directory),
        "dynamic": dynamic(watched, names),
        "notes": [*shortened(probed, asked), *notes(watched)],
        "probe_tokens": sum(one.again.cost.tokens - one.run.cost.tokens for one in watched),
        "proxies_trained": trained,
        "proxies_reused": len({record.spec.id for record in again}) - trained,
        "seconds": time.perf_counter() - began,
    }
    write_atomically(folder / "audit.json", json.dumps(document, indent=1, allow_nan=False))
    return document


def opened(folder: Path) -> Finished:
    """What a search or a comparison left. Raises JobError for a folder that neither wrote, DataError for lost tokens."""
    written = [path for name in ("compare.json", "results.json") if (path := folder / name).exists()]
    if not written:
        raise JobError(f"{folder}: has neither results.json nor compare.json. Name the directory of a finished search.")
    try:
        document = json.loads(written[0].read_text(encoding="utf-8"))
        lock = parse_yaml((folder / LOCK).read_text(encoding="utf-8"), str(folder / LOCK))
        prepared, store, _ = Path(lock["provenance"]["prepared"]), Path(document["store"]), document["policies"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise JobError(
            f"{folder}: {written[0].name} and {LOCK} are not what this version of a search writes ({type(e).__name__}: "
            f"{e}). Run the same search again: it trains nothing that the store has."
        ) from e
    job = load(folder / LOCK)
    manifest = with_available_tokens(Manifest.load(prepared), job.data_config(folder))
    rate = tuned.find(job, store, manifest.names, manifest.tokenizer.vocabulary)
    study = make_study(job, manifest, rate)
    if derived := lock.get("derived"):  # as it was: a sweep of the learning rate may have come since
        known = {f.name: derived[f.name] for f in fields(Proxy) if f.name in derived}
        study = replace(study, proxy=Proxy(**known | {"horizons": tuple(derived["horizons"])}), count=derived["count"])
    return Finished(document, job, manifest, study, Store(store))


def methods(document: Mapping[str, Any], asked: Asked) -> list[str]:
    """The methods to report: those asked for, or all of the directory in its order."""
    compared = [each["method"] for each in document.get("rows", ())]
    return list(asked.methods or dict.fromkeys([*compared, *(each["method"] for each in document["policies"])]))


def chosen(document: Mapping[str, Any], asked: Asked, folder: Path) -> list[Mapping[str, Any]]:
    """The policies' runs of the methods asked for. Raises JobError where there are none, or for an unknown method."""
    if not document["policies"]:
        raise JobError(
            f"{folder}: no run of it followed a policy, so there is no law of training to audit. `mixopt methods` "
            "lists the methods; those that adapt during training follow one."
        )
    known = methods(document, replace(asked, methods=()))
    for name in asked.methods:
        if name not in known:
            raise JobError(f"--methods: {name!r} is not in {folder}; {did_you_mean(name, known)}")
    return [each for each in document["policies"] if each["method"] in methods(document, asked)]


def found(
    directory: Finished, listed: Sequence[Mapping[str, Any]], folder: Path
) -> list[tuple[Mapping[str, Any], RunRecord]]:
    """Their records. Raises DataError where the store has lost some."""
    lost = [each["run"] for each in listed if not directory.store.holds(each["run"])]
    if lost:
        raise DataError(
            f"run store {directory.store.root}: {len(lost)} of {len(listed)} runs of {folder} are gone, first {lost[0]}. "
            "Run the same search again to train them."
        )
    return [(each, directory.store.find(each["run"])) for each in listed]


def probes(
    able: Sequence[tuple[str, RunRecord]], asked: Asked
) -> tuple[list[tuple[str, RunRecord, float]], dict[str, str]]:
    """The runs that can be probed, with the part of each that a probe trains; and by method, why others cannot.

    Raises JobError where none can.
    """
    probed, refused = [], dict[str, str]()
    for method, record in able:
        try:
            probed.append((method, record, probe_part(asked, method, record)))
        except JobError as e:
            refused[method] = str(e)
    if refused and not probed:
        raise JobError(next(iter(refused.values())))
    return probed, refused


def probe_part(asked: Asked, method: str, record: RunRecord) -> float:
    """The part of a run that a probe trains: as asked, or its longest segment. A policy's own probes are as they are.

    Raises JobError for less than a step, and for a part that was given and is longer than all segments.
    """
    if any(isinstance(signal, Drops) for signal in record.spec.feed.needs):
        return asked.most
    step, total = record.spec.proxy.batch * record.spec.proxy.sequence, sum(segment.tokens for segment in record.trace)
    longest = max(segment.tokens for segment in record.trace)
    if asked.most * total < step:
        raise JobError(
            f"--part: {asked.most:g} of a run of {total:,} tokens is less than one step ({step:,} tokens). "
            f"Give at least {step / total:.3g}."
        )
    fits = max(1, longest // step)
    if probe_steps(Drops(asked.most), total // step) <= fits:
        return asked.most
    if asked.part is not None:
        raise JobError(
            f"--part: {asked.part:g} of a run of {total:,} tokens is longer than {method}'s longest segment "
            f"({longest:,} tokens). Give at most {longest / total:.3g}."
        )
    return fits * step / total


def watch(
    probed: Sequence[tuple[RunRecord, float]], directory: Finished, asked: Asked, progress: Progress
) -> tuple[list[RunRecord], int]:
    """The same runs watched with these probes, compiled where they were, and how many of them had to be trained."""
    specs = [
        replace(record.spec, feed=Audited(record.spec.feed, asked.at, part, WEIGHT), keep=False)
        for record, part in probed
    ]
    how = [record.machine.get("compiled") for record, _ in probed]
    found: dict[str, RunRecord] = {}
    trained = 0
    for compiled in dict.fromkeys(how):
        compute = directory.job.compute.model_copy(update={"compile": compiled == "true"} if compiled else {})
        executor = make_executor(directory.job.model_copy(update={"compute": compute}), directory.manifest)
        shop = Workshop(executor, directory.store, progress)
        made = shop.make([spec for spec, own in zip(specs, how, strict=True) if own == compiled], "audit")
        found |= {record.spec.id: record for record in made.records}
        trained += len(shop.trained)
    return [found[spec.id] for spec in specs], trained


def row(
    method: str,
    runs: Sequence[tuple[str, RunRecord]],
    watched: Sequence[Watched],
    refused: str | None,
    directory: Finished,
    asked: Asked,
) -> dict[str, Any]:
    """What is reported of one method; `refused` is why some of its runs could not be watched."""
    own = [one for one in watched if one.method == method]
    told = [run_row(one) for one in own]
    known = [point for one in told for point in one["points"] if point["fidelity"] is not None]
    return {
        "method": method,
        "fidelity": _mean(known),
        "fidelity_at": [_mean([point for point in known if point["at"] == at]) for at in asked.at],
        "dynamic_r2": dynamic(own, directory.manifest.names)["r2"],
        "gain_over_uniform": gain(directory.document, method),
        "why": None if known else refused or reason([record for name, record in runs if name == method], own),
        "runs": told,
    }


def run_row(one: Watched) -> dict[str, Any]:
    """One run: A and A* at each point that was measured, in nats per probe."""
    points = []
    for sweep in one.sweeps:
        A_DD, star_DD = None if sweep.matrix is None else np.array(sweep.matrix), star(sweep)
        points.append(
            {
                "at": sweep.at,
                "seen": sweep.seen,
                "probe": sweep.probe,
                "weight": sweep.weight,
                "fidelity": None if A_DD is None else similarity(A_DD, star_DD),
                "A": None if A_DD is None else A_DD.tolist(),
                "A_star": star_DD.tolist(),
            }
        )
    return {"run": one.run.spec.id, "seed": one.run.spec.seed, "audited": one.again.spec.id, "points": points}


def reason(records: Sequence[RunRecord], own: Sequence[Watched]) -> str:
    """Why a method has no fidelity."""
    if not records:
        return f"{NO_LAW}: its runs stay on the mixtures that they were given"
    failed = [record for record in (*records, *(one.again for one in own)) if record.error]
    if len(failed) >= len(records):
        return f"its runs failed: {failed[0].why}"
    if not own:
        body = records[0].spec.feed.to_json()
        while "inner" in body:  # what it is wrapped in has the matrix of what is within
            body = body["inner"]
        return f"{NO_LAW}: the policy {body['policy']} has no matrix A"
    if not any(one.sweeps for one in own):
        return "no segment that is as long as a probe reaches a point and leaves room for one"
    return "its A prefers no domain, or there was none yet, at every point"


def star(sweep: Sweep) -> FloatArray:
    """A* [D, D] of a sweep."""
    return transition(np.array(sweep.drops), sweep.weight)


def dynamic(watched: Sequence[Watched], names: Sequence[str]) -> dict[str, Any]:
    """R^2 of A* against the drops of the segments that followed, over all domains, points and runs together."""
    observed, expected = [np.zeros((0, len(names)))], [np.zeros((0, len(names)))]
    for sweep in (sweep for one in watched for sweep in one.sweeps if sweep.after):
        lengths_N = np.array([stretch.tokens / sweep.probe for stretch in sweep.after])
        expected.append(forecast(star(sweep), np.array([stretch.mixture for stretch in sweep.after]), lengths_N))
        observed.append(np.array([stretch.drops for stretch in sweep.after]))
    drops_ND = np.vstack(observed)
    return {"r2": r2(drops_ND.ravel(), np.vstack(expected).ravel()), "segments": len(drops_ND)}


def static(directory: Finished) -> dict[str, Any]:
    """R^2 of the log-linear law on the runs of the job's own swarm that the store has."""
    study = directory.study
    law = directory.job.method.get("law", "loglinear")
    specs = study.specs(mixtures(study, np.random.default_rng([study.seed, 0]), law))
    swarm = directory.store.swarm(specs).good
    metrics = [metric for metric in study.objective.metrics if all(metric in r.metrics for r in swarm.records)]
    try:
        fit = static_fit(swarm.mixtures_RD(study.space.names), swarm.metrics_RM(metrics))
    except SwarmError as e:
        return {"r2": None, "r2_in_sample": None, "runs": len(swarm.records), "why": str(e)}
    return {"r2": fit.out_of_fold, "r2_in_sample": fit.in_sample, "runs": len(swarm.records), "why": None}


def gain(document: Mapping[str, Any], method: str) -> float | None:
    """What the method gained over uniform, where the directory knows it."""
    for each in document.get("rows", ()):
        if each["method"] == method:
            final = each["same_final"]
            return final["gain"]["mean"] if final else None
    differences = (document.get("validation") or {}).get("differences", {})
    return differences[UNIFORM]["objective"]["mean"] if UNIFORM in differences else None


def shortened(probed: Sequence[tuple[str, RunRecord, float]], asked: Asked) -> list[str]:
    """Sentences about methods whose probes train less than others'."""
    parts = {method: part for method, _, part in probed if part < asked.most}
    return [
        f"{method}: its probes train {part:.3g} of a run, not {asked.most:g}: no segment is longer."
        for method, part in parts.items()
    ]


def notes(watched: Sequence[Watched]) -> list[str]:
    """Sentences where a watched run did not take the first one's way, or was not watched at all."""
    said = []
    for one in watched:
        if one.again.error:
            said.append(f"run {one.run.spec.id} failed when watched: {one.again.why}")
        elif one.again.trace != one.run.trace or one.again.metrics != one.run.metrics:
            said.append(
                f"run {one.run.spec.id} took another way when watched: it was trained on another machine or in another "
                "stack. What is said is about the watched run."
            )
    return said


def _mean(points: Sequence[Mapping[str, Any]]) -> float | None:
    return fmean(point["fidelity"] for point in points) if points else None
