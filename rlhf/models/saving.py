"""A trained model as its files name and hold it, with everything else that the model came with."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from rlhf.models.files import find_directory

_COMPANIONS = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_FOLDERS = ("additional_chat_templates",)
_REPLACED = ("config.json", "model.safetensors.index.json", "pytorch_model.bin.index.json")


def as_saved(model: Any, named: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """A model's weights by the names and in the shapes of its files, a layer at a time.

    transformers joins some when it loads them, such as the experts of a mixture, and other engines
    read files alone. Works on meta tensors too.
    """
    if not getattr(model, "_weight_conversions", None):
        yield from named
        return
    for _, layer in groupby(named, key=lambda one: layer_name(one[0])):
        kept = {name: value.clone() for name, value in layer}  # gathered values do not last
        yield from revert_weight_conversion(model, kept).items()


def layer_name(name: str) -> str:
    """Up to the first number, with it: experts have numbers too, and belong together."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    return name if first is None else ".".join(parts[: first + 1])


def save_causal(source: str, state: Mapping[str, Tensor], dtype: torch.dtype, out: Path) -> None:
    """Writes the weights of a causal language model whose other files are those of `source`:
    tokenizer, chat template, generation config, processors. Its config.json names `dtype`."""
    directory = find_directory("model.path", source)
    config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    config.dtype = dtype
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    model.load_state_dict(dict(state), assign=True)
    model.tie_weights()
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    copy_companions(directory, out)


def copy_companions(source: Path, out: Path) -> None:
    """Everything but weights, as it stands there; what was written for the weights stays."""
    for file in source.iterdir():
        if file.is_file() and file.suffix in _COMPANIONS and file.name not in _REPLACED:
            shutil.copyfile(file, out / file.name)
        elif file.is_dir() and file.name in _FOLDERS:
            shutil.copytree(file, out / file.name, dirs_exist_ok=True)
