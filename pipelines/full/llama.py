"""A trained model as Hugging Face transformers reads it: a Llama in safetensors, its configuration, its tokenizer.

The engine's model is a Llama but for names: RMSNorm before each part, RoPE on halves, SwiGLU, an untied head, no biases.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mixopt.domains import Tokenizer
from mixopt.errors import JobError
from mixopt.ladder import Shape
from pipelines.full.course import Course
from pipelines.full.saved import complete

SHARD = 5_000_000_000  # bytes of a file, as transformers cuts them
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BLOCK = {  # of Llama: of the engine
    "self_attn.q_proj": "attention.w_q",
    "self_attn.k_proj": "attention.w_k",
    "self_attn.v_proj": "attention.w_v",
    "self_attn.o_proj": "attention.w_out",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "feed_forward_norm",
}
ENDS = {"model.norm": "lm_head.norm", "lm_head": "lm_head.w_out"}
Read = Callable[[Path, Sequence[str]], Iterator[Tensor]]
"""Tensors of a checkpoint by the engine's names, in their order."""


def write(
    course: Course, read: Read, out: Path, step: int | None = None, dtype: str = "float32", most: int = SHARD
) -> list[Path]:
    """Write the weights of the last complete checkpoint, or that of `step`, to a folder that was not there or was ours.

    No file is larger than `most` bytes, unless one tensor is.

    Raises JobError where there is no such checkpoint, for an unknown type, and for a folder of something else.
    """
    if dtype not in TYPES:
        raise JobError(f"--dtype: {dtype!r} is unknown; known: {', '.join(TYPES)}.")
    if out.exists() and not (out / "config.json").exists():
        raise JobError(f"{out}: is there and was not written by mixopt. Choose another --out.")
    checkpoint = chosen(course, step)
    body = config(course.shape, course.manifest.tokenizer, course.sequence, dtype)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        staged = Path(temporary) / "hf"
        staged.mkdir()
        _weights(course, lambda names: read(checkpoint, names), staged, dtype, most)
        (staged / "config.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
        (staged / "generation_config.json").write_text(
            json.dumps({"eos_token_id": body["eos_token_id"]}) + "\n", encoding="utf-8"
        )
        _tokenizer(course.manifest.root, course.manifest.tokenizer, staged)
        if out.exists():
            shutil.move(out, Path(temporary) / "old")
        staged.rename(out)
    return sorted(out.iterdir())


def chosen(course: Course, step: int | None) -> Path:
    """The folder of a complete checkpoint. Raises JobError where there is none."""
    found = {int(path.name.removeprefix("step")): path for path in complete(course.checkpoints)}
    if not found:
        raise JobError(f"{course.checkpoints}: there is no complete checkpoint. Run mixopt train first.")
    if step is not None and step not in found:
        raise JobError(f"--step {step}: there are checkpoints of steps {', '.join(map(str, sorted(found)))}.")
    return found[max(found) if step is None else step]


def config(shape: Shape, tokenizer: Tokenizer, sequence: int, dtype: str) -> dict[str, Any]:
    """`config.json` of a model of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tokenizer.vocabulary,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.ffn,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.d_model // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": sequence,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": float(shape.rope_theta),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": tokenizer.end_of_text,
        "torch_dtype": dtype,
    }


def names(layers: int) -> dict[str, str]:
    """The engine's name of each of Llama's weights, in Llama's order."""
    found = {"model.embed_tokens.weight": "embeddings.weight"}
    for i in range(layers):
        found |= {f"model.layers.{i}.{ours}.weight": f"blocks.{i}.{its}.weight" for ours, its in BLOCK.items()}
    return found | {f"{ours}.weight": f"{its}.weight" for ours, its in ENDS.items()}


def _weights(
    course: Course, read: Callable[[Sequence[str]], Iterator[Tensor]], folder: Path, dtype: str, most: int
) -> None:
    """Files of at most `most` bytes, each read and written by itself, and an index where they are more than one."""
    known, width = names(course.shape.layers), TYPES[dtype].itemsize
    shards = _shards(course.shape, course.manifest.tokenizer.vocabulary, width, most)
    files = (
        [FILE]
        if len(shards) == 1
        else [f"model-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    )
    total = 0
    for shard, file in zip(shards, files, strict=True):
        tensors = zip(shard, read([known[name] for name in shard]), strict=True)
        found = {name: tensor.to(TYPES[dtype]).contiguous() for name, tensor in tensors}
        total += sum(tensor.nbytes for tensor in found.values())
        save_file(found, folder / file, {"format": "pt"})
    if len(shards) > 1:
        places = {name: file for shard, file in zip(shards, files, strict=True) for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _shards(shape: Shape, vocabulary: int, width: int, most: int) -> list[list[str]]:
    """Llama's names, so many together as fit into a file."""
    shards: list[list[str]] = [[]]
    room = most
    for name in names(shape.layers):
        size = width * count(name, shape, vocabulary)
        if shards[-1] and size > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= size
    return shards


def count(name: str, shape: Shape, vocabulary: int) -> int:
    """Numbers in a weight."""
    d, kv = shape.d_model, shape.d_model // shape.heads * shape.kv_heads
    sizes: Mapping[str, int] = {
        "embed_tokens": d * vocabulary,
        "lm_head": d * vocabulary,
        **dict.fromkeys(("q_proj", "o_proj"), d * d),
        **dict.fromkeys(("k_proj", "v_proj"), d * kv),
        **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), d * shape.ffn),
    }
    return sizes.get(name.split(".")[-2], d)


def _tokenizer(root: Path, tokenizer: Tokenizer, folder: Path) -> None:
    """The tokenizer's own file; bytes have none."""
    if not tokenizer.file:
        return
    shutil.copyfile(root / tokenizer.file, folder / "tokenizer.json")
    body = json.loads((root / tokenizer.file).read_text(encoding="utf-8"))
    ids = {entry["id"]: entry["content"] for entry in body.get("added_tokens", ())}
    ids |= {
        number: token for token, number in body["model"].get("vocab", {}).items() if number == tokenizer.end_of_text
    }
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": ids.get(tokenizer.end_of_text)}
    (folder / "tokenizer_config.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
