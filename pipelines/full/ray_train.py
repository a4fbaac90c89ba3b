"""Workers of a full run by Ray Train: on the cluster at `launch.address`, or on a Ray of this machine.

Ray starts all workers again when one is lost, with the process group that torchrun would have made.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mixopt.errors import RunFailed
from pipelines.full.course import Course
from pipelines.full.worker import work
from pipelines.local_executor import ONE_THREAD
from pipelines.ray_executor import session


def train(course: Course) -> None:
    """Train until the run is finished. Raises RunFailed if workers were lost more often than they may be."""
    asked = course.full.launch
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    own = {**ONE_THREAD, "RAY_TRAIN_V2_ENABLED": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    with session(asked.address, course.workers + 1, "launch", own):  # the controller takes a part of a CPU
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        cuda = asked.device == "cuda"
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"run_dir": str(course.searched.directory.absolute()), "cpu": not cuda},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if cuda else "cpu:gloo"),
            scaling_config=ScalingConfig(num_workers=course.workers, use_gpu=cuda),
            run_config=RunConfig(
                name="train",
                storage_path=str(course.folder.absolute() / "ray"),
                failure_config=FailureConfig(max_failures=asked.restarts),
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as e:
            raise RunFailed(
                f"a worker was lost, and starting all again {asked.restarts} times did not help: {e}. The last complete "
                "checkpoint is kept."
            ) from e


def _worker(config: dict[str, Any]) -> None:
    from ray.train import get_context

    context = get_context()
    own = {
        "RANK": context.get_world_rank(),
        "LOCAL_RANK": context.get_local_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NUM_NODES": context.get_world_size() // context.get_local_world_size(),
    }
    os.environ.update({key: str(value) for key, value in own.items()})
    work(Path(config["run_dir"]))
