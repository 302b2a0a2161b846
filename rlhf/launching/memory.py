"""How much memory each kind of worker needs at the least, from the model's shape alone.

Activations and what libraries take are not in it: they depend on lengths, kernels and versions.
"""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from cluster.placement import format_bytes
from rlhf.config.models import DType, Offload, Optimizer, PolicyConfig
from rlhf.models.files import find_directory
from rlhf.models.loading import read_config

NUM_MOMENTS = {Optimizer.adamw: 2, Optimizer.rmsprop: 1, Optimizer.sgd: 0}
"""fp32 numbers that an optimizer keeps for each weight."""

DTYPE_BYTES = {DType.float32: 4, DType.bfloat16: 2}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What a model's files say of its size."""

    num_weights: int
    linear_sides: int
    """Rows plus columns of the linear layers in its blocks: what one unit of LoRA rank adds."""
    cache_numbers: int
    """Keys and values that one token leaves in the cache."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one worker, by what they are for."""

    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def causal_shape(key: str, path: str) -> ModelShape:
    """The shape of a language model: a directory or hub id; reads no weights.

    `key` is the configuration's, for the InputError that is raised if there is no such model.
    """
    directory = find_directory(key, path)
    shapes = _weight_shapes(directory)
    outside = ("embed", "lm_head")
    sides = sum(
        sum(shape)
        for name, shape in shapes.items()
        if len(shape) == 2 and not any(word in name for word in outside)
    )
    config = read_config(directory)
    return ModelShape(sum(map(prod, shapes.values())), sides, _cache_numbers(config))


def num_weights(directory: Path) -> int:
    """Of any model in Hugging Face format; reads no weights."""
    return sum(map(prod, _weight_shapes(directory).values()))


def _weight_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    index = directory / "model.safetensors.index.json"
    if index.exists():  # there may be other files, with the same weights once more
        names = set(json.loads(index.read_text())["weight_map"].values())
    elif (directory / "model.safetensors").exists():
        names = {"model.safetensors"}
    else:
        names = {path.name for path in directory.glob("*.safetensors")}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in sorted(names):
        with safe_open(directory / name, framework="pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


def _cache_numbers(config: Any) -> int:
    if not hasattr(config, "num_attention_heads"):  # a recurrent state does not grow with tokens
        return 0
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * width


def policy_memory(shape: ModelShape, dtype: DType, config: PolicyConfig) -> Memory:
    """One rank's: weights, their gradients, fp32 masters and moments, as ZeRO splits them.

    Stage 1 splits masters and moments over the ranks, stage 2 gradients too, stage 3 weights too.
    """
    size, ranks, stage = DTYPE_BYTES[dtype], config.num_ranks, config.zero_stage
    frozen = shape.num_weights if config.lora_rank else 0
    trained = config.lora_rank * shape.linear_sides if config.lora_rank else shape.num_weights
    # Without ZeRO in fp32 the weights are their own masters.
    num_masters = 0 if stage == 0 and dtype is DType.float32 else 1
    optimizer = trained * 4 * (num_masters + NUM_MOMENTS[config.optimizer])
    parts = {
        "weights": _split((frozen + trained) * size, ranks if stage == 3 else 1),
        "gradients": _split(trained * size, ranks if stage >= 2 else 1),
        "optimizer": _split(optimizer, ranks if stage >= 1 else 1),
    }
    away = {
        Offload.none: (),
        Offload.optimizer: ("optimizer",),
        Offload.parameters: ("weights", "optimizer"),
    }[config.offload]
    return Memory(
        {f"{name} (offloaded)" if name in away else name: size for name, size in parts.items()}
    )


def frozen_memory(num_weights: int, dtype_bytes: int, num_gpus: int = 1) -> Memory:
    """Of a model that only answers, split over a worker's GPUs by tensor parallelism."""
    return Memory({"weights": _split(num_weights * dtype_bytes, num_gpus)})


def cache_bytes(shape: ModelShape, dtype: DType, num_tokens: int) -> int:
    """Keys and values of so many tokens."""
    return shape.cache_numbers * DTYPE_BYTES[dtype] * num_tokens


def told(memory: Memory) -> tuple[int, str]:
    """All of it, and what it is for in words."""
    words = ", ".join(f"{name} {format_bytes(size)}" for name, size in memory.parts.items())
    return memory.total, words


def _split(num_bytes: int, parts: int) -> int:
    return -(-num_bytes // parts)


def dtype_bytes(directory: Path, dtype: str) -> int:
    """Bytes of a weight; `auto` is what the model's configuration names, or float32."""
    named: Any = dtype
    if dtype == "auto":
        named = getattr(read_config(directory), "dtype", None) or "float32"
    return getattr(torch, str(named).removeprefix("torch.")).itemsize
