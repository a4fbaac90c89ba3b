"""The trained model on tasks: EleutherAI's lm-evaluation-harness over the weights that `mixopt weights` wrote.

The only home of lm_eval, an extra. What a task says of a model as small as a proxy is mostly chance: look at the
standard errors beside the values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mixopt.errors import JobError
from mixopt.files import write_atomically

FILE = "eval.json"
SCHEMA = "mixopt.eval/v1"


@dataclass(frozen=True)
class Asked:
    """Tasks by the harness's names; `include` is a folder of task files of one's own, `limit` documents of each task."""

    tasks: Sequence[str]
    fewshot: int | None = None
    limit: int | None = None
    batch: int = 8
    device: str = "cpu"
    include: Path | None = None


def evaluate(folder: Path, asked: Asked) -> dict[str, Any]:
    """Measure the model of RUN_DIR/full/hf, write `eval.json` beside it and return that.

    Raises JobError where the harness is not installed, there are no weights or no tokenizer, and for unknown tasks.
    """
    weights = folder / "hf"
    if not (weights / "config.json").exists():
        raise JobError(f"{weights}: there are no weights. Run mixopt weights {folder.parent} first.")
    if not (weights / "tokenizer.json").exists():
        raise JobError(
            f"{weights}: has no tokenizer. The harness reads text, and this model was trained on plain bytes."
        )
    try:
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError as e:
        raise JobError(f"mixopt evaluate needs the harness ({e}): pip install 'mixopt[eval]'.") from e
    manager = TaskManager(include_path=str(asked.include) if asked.include else None)
    unknown = [task for task in asked.tasks if task not in manager.all_tasks]
    if unknown:
        raise JobError(f"--tasks: the harness has no {', '.join(unknown)}. `lm-eval ls tasks` lists those it has.")
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(weights), "device": asked.device},
        tasks=list(asked.tasks),
        num_fewshot=asked.fewshot,
        limit=asked.limit,
        batch_size=asked.batch,
        task_manager=manager,
        log_samples=False,
    )
    record = (
        json.loads((folder / "record.json").read_text(encoding="utf-8")) if (folder / "record.json").exists() else {}
    )
    body = {
        "schema": SCHEMA,
        "model": record.get("model"),
        "tokens": record.get("tokens"),
        "harness": version("lm-eval"),
        "fewshot": asked.fewshot,
        "limit": asked.limit,
        "tasks": {task: _metrics(values) for task, values in found["results"].items()},
    }
    write_atomically(folder / FILE, json.dumps(body, indent=1, allow_nan=False) + "\n")
    return body


def rows(body: Mapping[str, Any]) -> list[list[str]]:
    """One row a metric, for people."""
    return [
        [task, metric, f"{said['value']:.4f}", "" if said["stderr"] is None else f"{said['stderr']:.4f}"]
        for task, metrics in body["tasks"].items()
        for metric, said in metrics.items()
    ]


def _metrics(values: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The harness's "acc,none" and "acc_stderr,none" as one metric with its standard error."""
    numbers = {key.removesuffix(",none"): value for key, value in values.items() if isinstance(value, int | float)}
    return {
        name: {"value": float(value), "stderr": _stderr(name, numbers)}
        for name, value in numbers.items()
        if "_stderr" not in name and name != "sample_len"
    }


def _stderr(name: str, numbers: Mapping[str, float]) -> float | None:
    metric, comma, kind = name.partition(",")
    found = numbers.get(f"{metric}_stderr{comma}{kind}")
    return None if found is None else float(found)
