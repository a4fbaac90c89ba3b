"""The composition root of a full run: a run directory and a configuration in, a trained model and its record out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixopt.files import write_atomically
from mixopt.full import Full
from mixopt.progress import Progress
from mixopt.yaml_text import dump_yaml
from pipelines.full import checks, launch, mirror
from pipelines.full.course import LOCK, RECORD, Course, Searched, inherited, refuse_other_answer, resolve
from pipelines.full.worker import FAILURE


def prepare(run_dir: Path, given: Full) -> Course:
    """The run resolved and checked. Raises JobError or DataError for whatever is wrong, before anything is trained."""
    searched, folder = Searched.load(run_dir), run_dir / "full"
    course = resolve(searched, inherited(given, folder))
    refuse_other_answer(course)
    if not (folder / RECORD).exists():
        checks.refuse(course)
    return course


def plan(course: Course) -> dict[str, Any]:
    """What a dry run says."""
    return {
        "configuration": course.full.to_json(),
        "reasons": list(course.reasons),
        "parameters": course.parameters,
        "steps": course.steps,
        "tokens": course.tokens,
        "flops": course.flops_per_token * course.tokens,
        "command": command(course),
    }


def command(course: Course) -> str:
    """What starts the workers."""
    if course.full.launch.by == "torchrun":
        return " ".join([*launch.command(course), *launch.entry(course)])
    return launch.elsewhere(course) if course.full.launch.by == "external" else "ray.train.torch.TorchTrainer"


def said(found: Mapping[str, Any]) -> list[str]:
    """A plan for people."""
    return [
        dump_yaml(found["configuration"]).rstrip(),
        *(f"# {reason}" for reason in found["reasons"]),
        f"{found['parameters']:,} parameters, {found['steps']:,} steps, {found['tokens']:,} tokens, {found['flops']:.3g} FLOPs.",
    ]


def lock(course: Course) -> None:
    """Write down what workers are to train."""
    course.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(course.folder / LOCK, course.lock())
    (course.folder / FAILURE).unlink(missing_ok=True)


def run(course: Course, progress: Progress, say: Callable[[Sequence[str]], None]) -> dict[str, Any]:
    """Train, from the last complete checkpoint if there is one, and return the record. A finished run stays as it is."""
    path = course.folder / RECORD
    if not path.exists():
        tracking = course.full.tracking
        with launch.driving(course.folder) as word:
            lock(course)
            with mirror.following(shown(course), tracking.mlflow if tracking else None, progress, say):
                launch.launch(course, word)
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def shown(course: Course) -> mirror.FullRun:
    """What the mirror must know beside the events."""
    full = course.full
    params = {
        "mixture": course.mixture_id,
        "feed": full.feed["policy"],
        "learning_rate": f"{full.learning_rate:g}",
        "sequence": str(course.sequence),
        "batch_tokens": str(course.step_tokens),
        "precision": str(full.precision),
        "seed": str(full.seed),
    }
    available = {name: course.store.blocks(name) * course.sequence for name in course.names}
    return mirror.FullRun(
        folder=course.folder,
        name=course.searched.name,
        experiment=mirror.experiment(course.searched.directory),
        params=params,
        available=available,
    )


def ended(course: Course, record: Mapping[str, Any]) -> list[str]:
    """A finished run for people."""
    bpb = {key.removeprefix("bpb/"): value for key, value in record["metrics"].items() if key.startswith("bpb/")}
    rows = ", ".join(f"{name} {value:.4f}" for name, value in bpb.items())
    return [
        f"{record['model']}: {record['tokens']:,} tokens in {record['seconds']:,.0f} s. Held-out bits per byte: {rows}.",
        f"Record: {course.folder / RECORD}; checkpoints: {course.checkpoints}",
        f"For Hugging Face transformers: mixopt weights {course.searched.directory}",
    ]
