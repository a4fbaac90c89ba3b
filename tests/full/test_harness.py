"""The harness itself on weights of a generated model and a task of our own; without it, what is refused and how."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mixopt.domains import Tokenizer
from mixopt.ladder import LADDER
from pipelines.full import harness, llama

Run = Callable[..., tuple[int, dict, str]]
SHAPE, VOCABULARY = LADDER["1m"], 8
WORDS = ("red", "blue", "green", "one", "two", "three", "<end>", "what")
TASK = """
task: colours
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/colours.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: [" red", " two"]
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run directory with weights that know no word better than another, and a tokenizer of eight words."""
    folder = tmp_path / "run" / "full" / "hf"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps(llama.config(SHAPE, Tokenizer("file", VOCABULARY, 6, "x"), 64, "float32"))
    )
    d, kv, sizes = SHAPE.d_model, SHAPE.d_model, {"embed_tokens": VOCABULARY, "lm_head": VOCABULARY}
    tensors = {}
    for name in llama.names(SHAPE.layers):
        part = name.split(".")[-2]
        rows = sizes.get(part, SHAPE.ffn if part in ("gate_proj", "up_proj") else kv)
        columns = SHAPE.ffn if part == "down_proj" else d
        tensors[name] = torch.zeros(d) if "norm" in part else torch.zeros(rows, columns)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    body = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "what"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(body))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<end>"})
    )
    return tmp_path / "run"


def test_a_task_of_ones_own(mixopt: Run, trained: Path, tmp_path: Path) -> None:
    """A model that finds all answers alike likely takes the first: right as often as the first is."""
    pytest.importorskip("lm_eval")
    answers = np.random.default_rng(0).integers(0, 2, 40).tolist()
    lines = [json.dumps({"question": "what one", "answer": answer}) for answer in answers]
    (tmp_path / "colours.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "colours.yaml").write_text(TASK.format(folder=tmp_path))
    code, found, seen = mixopt("evaluate", trained, "--tasks", "colours", "--include", tmp_path)
    assert code == 0
    assert found["tasks"]["colours"]["acc"]["value"] == pytest.approx(1 - np.mean(answers))
    assert found["tasks"]["colours"]["acc"]["stderr"] == pytest.approx(np.std(answers) / 39**0.5, rel=1e-6)
    assert "colours" in seen
    assert json.loads((trained / "full" / "eval.json").read_text()) == found
    code, found, _ = mixopt("evaluate", trained, "--tasks", "colour")
    assert code == 2
    assert "the harness has no colour" in found["error"]


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_it_says_how_to_install_it(mixopt: Run, trained: Path) -> None:
    code, found, _ = mixopt("evaluate", trained, "--tasks", "colours")
    assert code == 2
    assert "pip install 'mixopt[eval]'" in found["error"]


def test_what_is_missing_is_said(mixopt: Run, trained: Path) -> None:
    code, found, _ = mixopt("evaluate", trained, "--tasks", ",")
    assert (code, found["error"]) == (2, "--tasks: name at least one task, such as arc_easy.")
    (trained / "full" / "hf" / "tokenizer.json").unlink()
    code, found, _ = mixopt("evaluate", trained, "--tasks", "colours")
    assert code == 2
    assert "was trained on plain bytes" in found["error"]
    (trained / "full" / "hf" / "config.json").unlink()
    code, found, _ = mixopt("evaluate", trained, "--tasks", "colours")
    assert code == 2
    assert f"Run mixopt weights {trained} first" in found["error"]


def test_rows_for_people() -> None:
    body = {"tasks": {"a": {"acc": {"value": 0.5, "stderr": 0.1}, "f1": {"value": 0.25, "stderr": None}}}}
    assert harness.rows(body) == [["a", "acc", "0.5000", "0.1000"], ["a", "f1", "0.2500", ""]]
