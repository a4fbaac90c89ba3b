"""Weights for transformers, without the engine: files, names, what is refused. Equal losses are tested with the engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mixopt.errors import JobError
from mixopt.ladder import LADDER
from pipelines.full import llama
from pipelines.full.course import Course

from .conftest import FULL


@pytest.fixture
def trained(course: Callable[..., Course]) -> Course:
    """A run with two checkpoints, empty but for the file that says that they are complete."""
    found = course()
    for step in (12, 16):
        (found.checkpoints / f"step{step}").mkdir(parents=True)
        (found.checkpoints / f"step{step}" / ".metadata.json").write_text("{}")
    return found


def read(checkpoint: Path, names: Sequence[str]) -> Iterator[Tensor]:
    """Small tensors that say which they are."""
    for name in names:
        yield torch.full((2,), float(checkpoint.name[4:]) + len(name) / 1000)


def test_one_file_of_the_last_checkpoint(trained: Course, tmp_path: Path) -> None:
    files = llama.write(trained, read, tmp_path / "hf")
    assert {path.name for path in files} == {"config.json", "generation_config.json", "model.safetensors"}
    found = load_file(tmp_path / "hf" / "model.safetensors")
    assert list(found) == sorted(llama.names(5))
    assert float(found["model.layers.4.mlp.down_proj.weight"][0]) == pytest.approx(16.031)
    again = llama.write(trained, read, tmp_path / "hf", step=12, dtype="bfloat16")
    assert load_file(again[-1])["lm_head.weight"].dtype == torch.bfloat16
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == "bfloat16"


@pytest.mark.parametrize("name", LADDER)
def test_every_weight_of_the_ladder_is_counted(name: str) -> None:
    """The sizes by which files are cut add up to the model."""
    shape = LADDER[name]
    counted = sum(llama.count(weight, shape, 1000) for weight in llama.names(shape.layers))
    assert counted == shape.parameters(1000)


def test_files_are_cut(trained: Course, tmp_path: Path) -> None:
    llama.write(trained, read, tmp_path / "hf", most=1_000_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(llama.names(5))
    assert {p.name for p in (tmp_path / "hf").glob("*.safetensors")} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == len(llama.names(5)) * 8


def test_what_is_not_there_is_refused(trained: Course, course: Callable[..., Course], tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"--step 4: there are checkpoints of steps 12, 16\."):
        llama.write(trained, read, tmp_path / "hf", step=4)
    with pytest.raises(JobError, match="--dtype: 'float8' is unknown"):
        llama.write(trained, read, tmp_path / "hf", dtype="float8")
    with pytest.raises(JobError, match=r"was not written by mixopt"):
        llama.write(trained, read, tmp_path)
    elsewhere = course(checkpoint={"every": FULL["checkpoint"]["every"], "keep": 2, "folder": str(tmp_path / "none")})
    with pytest.raises(JobError, match=r"there is no complete checkpoint\. Run mixopt train first"):
        llama.write(elsewhere, read, tmp_path / "hf")
