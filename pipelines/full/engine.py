"""The engine of a full run: OLMo-core's trainer around our rows and our policy. The only home of olmo_core.

The engine's: the model, FSDP2, precision, compilation, activation checkpointing, gradient accumulation, AdamW, the
learning rate, and distributed checkpoints, which are written while training goes on. Ours: which rows, and what is
measured of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from olmo_core.config import DType
from olmo_core.data import DataLoaderBase
from olmo_core.distributed.checkpoint import load_keys
from olmo_core.distributed.parallel import DataParallelType
from olmo_core.distributed.utils import init_distributed
from olmo_core.nn.feed_forward import FeedForwardConfig
from olmo_core.nn.lm_head import LMOutputWithLoss
from olmo_core.nn.transformer import TransformerActivationCheckpointingMode, TransformerConfig
from olmo_core.optim import WSD, AdamWConfig, CosWithWarmup, OptimGroupOverride
from olmo_core.optim.scheduler import Scheduler
from olmo_core.train import Duration, Trainer
from olmo_core.train.callbacks import Callback, CheckpointerCallback, ConsoleLoggerCallback
from olmo_core.train.callbacks.checkpointer import CheckpointRemovalStrategy
from olmo_core.train.checkpoint import Checkpointer
from olmo_core.train.train_module import TransformerTrainModule
from olmo_core.train.train_module.transformer import (
    TransformerActivationCheckpointingConfig,
    TransformerDataParallelConfig,
)
from olmo_core.utils import cuda_sync_debug_mode
from torch import Tensor

from mixopt.files import write_atomically
from pipelines.full.course import EVENTS, RECORD, Course
from pipelines.full.derived import peak_flops
from pipelines.full.evaluate import HeldOut
from pipelines.full.events import Events
from pipelines.full.pilot import Pilot
from pipelines.full.ranks import Ranks
from pipelines.full.saved import complete, refuse_full_disk, set_damaged_aside
from pipelines.full.stream import Batch, Stream
from proxies.tokens import Rows

UNREAD = 10  # steps whose losses stay on a GPU at most
CANCEL = 5  # steps between looks at whether the launcher wants the workers to end
COLLECT = 100  # steps between lines of the engine's own log
COSINE_END = 0.1  # of the peak learning rate, as in Llama 2 (arXiv:2307.09288)


class Engine(Trainer):  # type: ignore[misc]
    """The engine's trainer, in which nothing that workers must do together depends on when a thread of theirs runs.

    The engine records how long an asynchronous checkpoint took when it is complete, which workers see at different
    steps; then they reduce different sets of metrics and wait for each other for ever. So it has no metrics of its own:
    the pilot's are all that is wanted. And it asks in the background whether to stop, so that workers might stop at
    different steps.
    """

    def record_metric(self, *given: Any, **named: Any) -> None:
        """Nothing."""

    def check_if_canceled(self) -> None:
        """Ask now: all workers hear the answer before their next step."""
        self._check_if_canceled()


class Loader(DataLoaderBase):  # type: ignore[misc]
    """Our stream as the engine's loader: the run is one epoch."""

    def __init__(self, course: Course, stream: Stream) -> None:
        super().__init__(
            work_dir=str(course.checkpoints),
            global_batch_size=course.step_tokens,
            dp_world_size=stream.world,
            dp_rank=stream.rank,
        )
        self.stream, self.steps = stream, course.steps
        self.batch: Batch

    @property
    def total_batches(self) -> int:
        """Steps of the run."""
        return self.steps

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is."""
        return self.stream.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go there."""
        self.stream.load(state_dict)
        self.batches_processed = self.stream.step

    def reshuffle(self, epoch: int | None = None, **kwargs: Any) -> None:
        """Nothing: the sampler's permutations are all the order there is."""

    def _iter_batches(self) -> Iterator[dict[str, Any]]:
        while self.stream.step < self.steps:
            self.batch = self.stream.next()
            rows = torch.from_numpy(self.batch.rows)
            yield {"input_ids": rows[:, :-1].contiguous(), "labels": rows[:, 1:].contiguous()}

    def get_mock_batch(self) -> dict[str, Any]:
        """None: the first step is as large as any."""
        raise NotImplementedError

    def global_num_tokens_in_batch(self, batch: dict[str, Any]) -> int:
        """Tokens of a step."""
        return int(self.global_batch_size)


class Module(TransformerTrainModule):  # type: ignore[misc]
    """The engine's train module, which keeps the mean loss of every row of a step.

    The loss that is trained on is the same sum over tokens, taken here instead of inside the model's head.
    """

    def train_batch(self, batch: dict[str, Any], dry_run: bool = False) -> None:
        """One step's losses and gradients."""
        self.heard: list[Tensor] = []
        super().train_batch(batch, dry_run)

    def model_forward(self, input_ids: Tensor, labels: Tensor | None = None, **kwargs: Any) -> Any:
        """As the engine's, but where it asks for a sum of losses, keep each row's mean."""
        if kwargs.get("loss_reduction") != "sum":
            return super().model_forward(input_ids, labels=labels, **kwargs)
        divisor = kwargs.pop("loss_div_factor")
        out: LMOutputWithLoss = super().model_forward(input_ids, labels=labels, **kwargs | {"loss_reduction": "none"})
        self.heard.append(out.ce_loss.detach().mean(1))
        loss = out.loss.sum() / divisor
        return out._replace(loss=loss, ce_loss=loss.detach())

    def row_losses(self, rows: Rows) -> Tensor:
        """Mean losses [N] of rows [N, S + 1], without gradients."""
        self._set_model_mode("eval")
        tokens = torch.from_numpy(rows)
        with self._eval_batch_context():
            out = super().model_forward(
                tokens[:, :-1].contiguous(),
                labels=tokens[:, 1:].contiguous(),
                loss_reduction="none",
                return_logits=False,
            )
        return out.ce_loss.mean(1)


class Hook(Callback):  # type: ignore[misc]
    """Lets the pilot hear what was trained, before a checkpoint is made of it, and keeps its state in there."""

    priority: ClassVar[int] = 2  # the checkpointer has 1

    def __init__(self, pilot: Pilot, module: Module, loader: Loader) -> None:
        self.pilot, self.module, self.loader = pilot, module, loader

    def pre_train(self) -> None:
        """Begin, or go on."""
        if self.trainer.checkpoint_loaded:
            self.pilot.resume()
        else:
            self.pilot.begin()

    def post_train_batch(self) -> None:
        """A step is over."""
        rate = float(self.module.optim.param_groups[0]["lr"])
        with cuda_sync_debug_mode(0):
            self.pilot.hear(torch.cat(self.module.heard), self.loader.batch, rate)

    def post_checkpoint_saved(self, path: Any) -> None:
        """In a thread of its own."""
        self.pilot.saved(_step(Path(path)))

    def state_dict(self) -> dict[str, Any]:
        """As JSON: what a policy makes of it is a policy's business."""
        self.pilot.settle()
        return {"pilot": json.dumps(self.pilot.state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What `state_dict` said."""
        self.pilot.load(json.loads(state_dict["pilot"]))


class Keeper(CheckpointerCallback):  # type: ignore[misc]
    """The engine's checkpointer, which also counts the checkpoints that were there before a restart.

    One is removed only when a newer one is complete, and none is begun for which there is no room.
    """

    def __init__(self, course: Course) -> None:
        asked = course.full.checkpoint
        super().__init__(
            save_interval=course.every(asked.every),
            pre_train_checkpoint=False,
            max_checkpoints=asked.keep,
            remove=CheckpointRemovalStrategy.never,
        )
        self.course = course

    def _save_checkpoint(self, save_async: bool | None = None, ephemeral: bool = False) -> str:
        refuse_full_disk(self.course.checkpoints, self.course.parameters)
        return str(super()._save_checkpoint(save_async, ephemeral))

    def pre_train(self) -> None:
        """Find the older ones."""
        super().pre_train()
        found = sorted((_step(path), str(path)) for path in complete(Path(self.save_folder)))
        self._checkpoints = [path for step, path in found if step <= self.step]
        self._latest_checkpoint_step = self.step if self.trainer.checkpoint_loaded else -1

    def post_train(self) -> None:
        """Save the end of the run, then remove what is too old."""
        super().post_train()
        self._remove_old_checkpoints()


def build(course: Course, ranks: Ranks, device: torch.device) -> tuple[Engine, Pilot]:
    """The engine and the pilot of a run, at its beginning; `fit` looks for a checkpoint."""
    full = course.full
    stream = Stream(course.sampler, ranks.rank, ranks.world)
    loader, module = Loader(course, stream), make_module(course, device)
    at_once = module.rank_microbatch_size // course.sequence
    events = Events(course.folder / EVENTS if ranks.rank == 0 else None)
    cuda = device.type == "cuda"
    peak = peak_flops(torch.cuda.get_device_name(device), full.precision or "") if cuda else None
    held_out = HeldOut(course, ranks, at_once)
    pilot = Pilot(course, stream, events, ranks, held_out, module.row_losses, UNREAD if cuda else 1, peak)
    folder = course.checkpoints
    callbacks = {
        "mixopt": Hook(pilot, module, loader),
        "checkpointer": Keeper(course),
        "console_logger": ConsoleLoggerCallback(log_interval=COLLECT),
    }
    trainer = Engine(
        work_dir=folder,
        train_module=module,
        data_loader=loader,
        device=device,
        save_folder=str(folder),
        save_overwrite=True,
        checkpointer=Checkpointer(work_dir=folder, save_overwrite=True),  # what a killed worker left half written
        callbacks=callbacks,
        max_duration=Duration.steps(course.steps),
        metrics_collect_interval=COLLECT,
        cancel_check_interval=CANCEL,
    )
    return trainer, pilot


def make_module(course: Course, device: torch.device) -> Module:
    """Model, optimizer and schedule, sharded over the workers."""
    full, steps, cuda = course.full, course.steps, device.type == "cuda"
    asked = full.optimizer
    dtype = DType.bfloat16 if full.precision == "bfloat16" else DType.float32
    optim = AdamWConfig(
        lr=full.learning_rate,
        betas=(asked.beta1, asked.beta2),
        eps=asked.epsilon,
        weight_decay=asked.weight_decay,
        fused=True if cuda else None,
        group_overrides=[OptimGroupOverride(params=["embeddings.weight"], opts={"weight_decay": 0.0})],
    )
    checkpointing = TransformerActivationCheckpointingConfig(mode=TransformerActivationCheckpointingMode.full)
    return Module(
        model=model_config(course).build(init_device="meta"),
        optim=optim,
        rank_microbatch_size=full.micro_batch_tokens,
        max_sequence_length=course.sequence,
        compile_model=bool(full.compile),
        dp_config=TransformerDataParallelConfig(
            name=DataParallelType.fsdp, param_dtype=dtype, reduce_dtype=DType.float32
        ),
        ac_config=checkpointing if full.activation_checkpointing == "full" else None,
        max_grad_norm=asked.clip,
        scheduler=make_schedule(full.schedule, round(full.warmup * steps), round(full.cooldown * steps)),
        device=device,
    )


def model_config(course: Course) -> TransformerConfig:
    """A decoder like Llama's in the engine's words."""
    shape = course.shape
    return TransformerConfig.llama_like(
        d_model=shape.d_model,
        vocab_size=course.manifest.tokenizer.vocabulary,
        n_layers=shape.layers,
        n_heads=shape.heads,
        n_kv_heads=shape.kv_heads,
        layer_norm_eps=shape.norm_eps,
        rope_theta=shape.rope_theta,
        feed_forward=FeedForwardConfig(hidden_size=shape.ffn, bias=False),
        init_seed=course.full.seed,
    )


def make_schedule(kind: str, warmup: int, cooldown: int) -> Scheduler:
    """The learning rate over the steps: up, and down at the end (wsd) or all the way (cosine)."""
    if kind == "cosine":
        return CosWithWarmup(warmup=warmup, alpha_f=COSINE_END)
    return WSD(warmup=warmup, decay=cooldown, decay_fraction=None)


def join(course: Course) -> None:
    """Join the process group that torchrun's environment describes; CPU tensors travel beside those of GPUs."""
    backend = "cpu:gloo,cuda:nccl" if course.full.launch.device == "cuda" else "cpu:gloo"
    init_distributed(backend=backend, shared_filesytem=True)


def tensors(checkpoint: Path, names: Sequence[str]) -> Iterator[Tensor]:
    """Weights of a checkpoint by the engine's names, whole, outside of any process group."""
    yield from load_keys(checkpoint / "model_and_optim", [f"model.{name}" for name in names])


def leave() -> None:
    """Leave it."""
    dist.destroy_process_group()


def run(course: Course) -> bool:
    """Train, in a process group that is there, from the last complete checkpoint; whether the run is finished."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    cuda = course.full.launch.device == "cuda"
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if ranks.rank == 0:
        set_damaged_aside(course.checkpoints)
    dist.barrier()
    trainer, pilot = build(course, ranks, device)
    try:
        with _without_signals():
            trainer.fit()
    except Exception:
        refuse_full_disk(course.checkpoints, course.parameters)  # whatever the engine made of that
        raise
    pilot.stream.close()
    finished = pilot.step >= course.steps
    if finished and ranks.rank == 0:
        name = torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine()
        machine = f"{ranks.world} x {name}, torch {torch.__version__}"
        write_atomically(course.folder / RECORD, json.dumps(pilot.record() | {"machine": machine}, indent=1) + "\n")
        pilot.events.append("end", pilot.step, pilot.tokens)
    dist.barrier()
    return finished


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step"))


@contextlib.contextmanager
def _without_signals() -> Iterator[None]:
    """In another thread than the first, as under Ray, Python lets nobody set signal handlers: the engine need not try."""
    if threading.current_thread() is threading.main_thread():
        yield
        return
    kept = signal.signal
    signal.signal = lambda number, handler: signal.getsignal(number)  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = kept
