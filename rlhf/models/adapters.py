"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685): a model gets one, and it is merged or saved.

An adapter adds `scale * B A` to a linear layer's weight, of rank r = rows of A = columns of B.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rlhf.config.models import Lora
from rlhf.models.loading import read_config

_NAME = "default"
"""peft's, of the only adapter that a model has."""


def with_adapter(model: Any, lora: Lora) -> Any:
    """peft's wrapping of the model, with an adapter at every linear layer but the head; it changes
    nothing before it is trained."""
    from peft import LoraConfig, get_peft_model  # half a second that few need

    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def adapted_layers(path: str, lora: Lora) -> list[str]:
    """The last part of the names of those linear layers; reads no weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(read_config(path), trust_remote_code=False)
        names = with_adapter(model, lora).peft_config[_NAME].target_modules
    return sorted({name.rpartition(".")[2] for name in names})  # of small models peft names each


def adapter_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Those of a model `with_adapter`, by their names in an adapter's file."""
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            yield name.replace(f".{_NAME}.", "."), parameter


def change(layer: Any) -> Tensor:
    """What the adapter adds to the layer's weight, in fp32."""
    a, b = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
    value = (b.detach().float() @ a.detach().float()) * layer.scaling[_NAME]
    return value.T if layer.fan_in_fan_out else value


def write_adapter(
    directory: Path, weights: Mapping[str, Tensor], lora: Lora, layers: Sequence[str], base: str
) -> None:
    """As peft saves one, so that peft and vLLM read it; `base`: the model that it belongs to."""
    directory.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(dict(weights), directory / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": list(layers),
        "bias": "none",
        "inference_mode": True,
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
