"""What can be wrong with a configuration by itself; everything is reported at once."""

import dataclasses
import operator
from collections.abc import Iterator
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

from rlhf.config import (
    Config,
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    VllmRolloutConfig,
)

_LIMITS = {
    "above": ("above", operator.gt),
    "at_least": ("at least", operator.ge),
    "below": ("below", operator.lt),
    "at_most": ("at most", operator.le),
}


def config_problems(config: Config) -> list[str]:
    """One line for each thing that cannot be: key, value, what is allowed, how to fix it."""
    return [*_unknown(config, ""), *_out_of_range(config, ""), *_contradictions(config)]


def _unknown(section: Any, prefix: str) -> Iterator[str]:
    """Keys that `+key=value` put where nothing reads them."""
    known = {field.name for field in dataclasses.fields(section)}
    for name in sorted(vars(section).keys() - known):
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {prefix}{near[0]}?" if near else ""
        yield f"{prefix}{name}={getattr(section, name)}: there is no such key{hint}"
    for name in sorted(known):
        if dataclasses.is_dataclass(value := getattr(section, name)):
            yield from _unknown(value, f"{prefix}{name}.")


def _out_of_range(section: Any, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            yield from _out_of_range(value, f"{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            for name, (words, holds) in _LIMITS.items():
                limit = field.metadata.get(name)
                if limit is not None and not holds(value, limit):
                    yield f"{key}={value}: must be {words} {limit}"


def _contradictions(config: Config) -> Iterator[str]:
    policy, rollout = config.policy, config.rollout
    ranks = max(1, policy.num_ranks)  # fewer than one is out of range already
    if policy.batch_size % ranks:
        nearest = max(1, (policy.batch_size + (ranks - 1) // 2) // ranks) * ranks
        yield (
            f"policy.batch_size={policy.batch_size}: must be divisible by "
            f"policy.num_ranks={ranks}; the nearest is {nearest}"
        )
    on_gpus = config.placement.gpus and isinstance(rollout, VllmRolloutConfig)
    where = {Transport.nccl: "disaggregated", Transport.ipc: "colocated"}
    if (needed := where.get(config.weights.transport)) is not None and not (
        on_gpus and config.placement.colocated == (needed == "colocated")
    ):
        yield (
            f"weights.transport={config.weights.transport.value}: needs rollout=vllm and "
            f"placement={needed}; weights.transport=object_store works everywhere"
        )
    if config.placement.colocated and (
        rollout.num_workers != policy.num_ranks or getattr(rollout, "tensor_parallel", 1) != 1
    ):
        yield (
            f"placement=colocated: needs one rollout worker of one GPU per policy rank; "
            f"set rollout.num_workers={policy.num_ranks} rollout.tensor_parallel=1"
        )
    if isinstance(rollout, TransformersRolloutConfig):
        longest = rollout.max_prompt_tokens + rollout.max_completion_tokens
        rows = config.algorithm.num_completions
        if longest * rows > rollout.max_batch_tokens:
            yield (
                f"rollout.max_batch_tokens={rollout.max_batch_tokens}: one prompt's "
                f"{rows} completions may come to {longest * rows} tokens; raise it to that"
            )
    demonstrated = getattr(config.data, "demonstration_column", "") is not None
    if config.warmup.steps and not demonstrated:
        yield (
            f"warmup.steps={config.warmup.steps}: needs demonstrations; name their column in "
            "data.demonstration_column, or set warmup.steps=0"
        )
    if not isinstance(config.model, TinyModelConfig):
        yield from _model_problems(config.model.path)


def _model_problems(path: str) -> Iterator[str]:
    directory = Path(path)
    if not directory.is_dir():
        looks_local = directory.is_absolute() or path.startswith(("./", "../", "~"))
        if looks_local:
            yield f"model.path={path}: no such directory"
        return
    if not (directory / "config.json").exists():
        yield f"model.path={path}: has no config.json, so it is not a Hugging Face model"
    if not list(directory.glob("*.safetensors")):
        yield f"model.path={path}: has no *.safetensors; pickled weights are not loaded"


def plain(section: Any) -> Any:
    """A configuration as plain values, for JSON and YAML."""
    if dataclasses.is_dataclass(section) and not isinstance(section, type):
        return {f.name: plain(getattr(section, f.name)) for f in dataclasses.fields(section)}
    return section.value if isinstance(section, Enum) else section
