"""What is wrong with a folder that is to be the policy, found without reading its weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
)

from rlhf.models.files import find_directory, tokenizer_faults, weight_faults
from rlhf.models.loading import (
    UNREADABLE,
    first_line,
    name_faults,
    quietly,
    read_generation_config,
)
from rlhf.problems import InputError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def require_causal(key: str, path: str) -> Path:
    """The folder of a whole causal language model, fetched if `path` is a hub id.

    `key` is the configuration's. Raises InputError with one line for each thing that is wrong.
    """
    directory = find_directory(key, path)
    with quietly():
        faults = causal_faults(directory)
    if faults:
        raise InputError([f"{key}={path}: {fault}" for fault in faults])
    return directory


def causal_faults(directory: Path) -> list[str]:
    """Why the folder cannot be a policy; what a later check stands on is checked first."""
    steps: tuple[Callable[[Path], Iterator[str]], ...] = (
        _file_faults,
        _kind_faults,
        _shard_faults,
        _weight_faults,
        _reading_faults,
    )
    for step in steps:
        if found := list(step(directory)):
            return found
    return []


def _file_faults(directory: Path) -> Iterator[str]:
    yield from weight_faults(directory)
    if (directory / "adapter_config.json").exists():
        yield (
            "its adapter_config.json makes it an adapter, not a model; merge it "
            "(peft's merge_and_unload), save that, and give its folder"
        )
    if not any((directory / name).is_file() for name in (SINGLE, INDEX)):
        yield f"it has neither {SINGLE} nor {INDEX}; download or convert its weights"


def _kind_faults(directory: Path) -> Iterator[str]:
    try:
        config: Any = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except UNREADABLE as error:
        yield f"its config.json cannot be used: {first_line(error)}"
        return
    if quantised := getattr(config, "quantization_config", None):
        how = quantised.get("quant_method", "") if isinstance(quantised, dict) else quantised
        yield f"its weights are quantised ({how}), which cannot be trained; give the original"
    if getattr(config, "is_encoder_decoder", False):
        yield f"{config.model_type} is an encoder with a decoder; give a causal language model"
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", True):
        yield f"{config.model_type} reads both ways; give a causal language model"
    elif type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        yield (
            f"transformers has no causal language model of the type {config.model_type}; give one "
            "of those in docs/models_and_data.md"
        )


def _shard_faults(directory: Path) -> Iterator[str]:
    names = [SINGLE]
    if not (directory / SINGLE).is_file():
        try:
            index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
            names = sorted(set(index["weight_map"].values()))
        except (*UNREADABLE, RecursionError) as error:
            yield f"its {INDEX} cannot be used ({first_line(error)}); download it again"
            return
    for name in names:
        file = directory / str(name)
        if not file.is_file():
            yield f"its {name} is missing, which {INDEX} names; download it"
            continue
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError, ValueError) as error:
            yield _broken(file, error)


def _broken(file: Path, error: Exception) -> str:
    if file.open("rb").read(8) == b"version ":
        return f"its {file.name} is a Git LFS pointer, not the weights; fetch them (git lfs pull)"
    return f"its {file.name} is broken ({first_line(error)}); download it again"


def _weight_faults(directory: Path) -> Iterator[str]:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            device_map="meta",  # names and shapes alone
        )
    except UNREADABLE as error:
        yield f"its config.json and weights cannot be loaded together: {first_line(error)}"
        return
    yield from name_faults(loaded[1])


def _reading_faults(directory: Path) -> Iterator[str]:
    yield from tokenizer_faults(directory)
    try:
        read_generation_config(directory)
    except UNREADABLE as error:
        yield f"its generation_config.json cannot be used: {first_line(error)}"


def is_recurrent(config: Any) -> bool:
    """Whether the model keeps a state of fixed size, in some layers at least, as Mamba does."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return bool(getattr(model, "_is_stateful", False))


def sampling_faults(
    config: Any, on_vllm: bool, on_gpus: bool, by_nccl: bool = False
) -> Iterator[str]:
    """Why rollout workers cannot sample from the model, or not take over what was published."""
    kind = config.model_type
    if is_recurrent(config) and not on_vllm:
        yield (
            f"{kind} keeps a recurrent state, which rollout=transformers cannot share among a "
            "prompt's completions; set rollout=vllm, on GPUs"
        )
    elif is_recurrent(config) and not on_gpus:
        yield (
            f"{kind} keeps a recurrent state, which rollout=vllm can sample with on GPUs alone; "
            "set placement.gpus=true"
        )
    elif on_vllm and not on_gpus and getattr(config, "kv_lora_rank", None):
        yield (
            f"{kind} has latent attention, whose weights rollout=vllm takes over on GPUs alone; "
            "set placement.gpus=true or rollout=transformers"
        )
    elif on_vllm and kind == "bloom":
        yield "bloom's head has no name that rollout=vllm can load; set rollout=transformers"
    elif by_nccl and kind == "gemma2":
        yield (
            "gemma2's head is its embedding, which vLLM does not know when weights come by NCCL; "
            "set weights.transport=object_store"
        )


def vocabulary_faults(tokenizer: Any, config: Any) -> Iterator[str]:
    """Tokens that a text or the chat template can become and the model does not know.

    A control token that neither writes, such as an image's in a text model, may be beyond.
    """
    size = config.vocab_size
    added = tokenizer.added_tokens_decoder
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    beyond = sorted(
        (id, token)
        for token, id in tokenizer.get_vocab().items()
        if id >= size and (id not in added or not added[id].special or token in template)
    )
    if beyond:
        id, token = beyond[0]
        yield (
            f"its tokenizer has {len(beyond)} tokens that its model does not know, which knows "
            f"{size} (the first: {token!r}, {id}): they do not belong together"
        )
