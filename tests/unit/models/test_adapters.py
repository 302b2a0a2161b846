"""Adapters: which layers get one, what one adds to a weight, and the files that peft reads."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from rlhf.config.models import Lora, TinyModelConfig
from rlhf.models.adapters import (
    adapted_layers,
    adapter_parameters,
    change,
    with_adapter,
    write_adapter,
)
from rlhf.models.loading import load_causal
from rlhf.toys.tiny import build_tiny_model

LORA = Lora(2, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), tmp_path, seed=1)
    return tmp_path


def test_every_linear_layer_but_the_head_has_one(folder):
    assert adapted_layers(str(folder), LORA) == [
        "down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj",
    ]  # fmt: skip


def test_a_change_is_scaled_by_alpha_over_rank(folder):
    model = with_adapter(load_causal(folder, torch.bfloat16), LORA)
    layer = model.base_model.model.model.layers[0].self_attn.o_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    with torch.no_grad():
        a.zero_()[0, 3] = 0.5
        b.zero_()[4, 0] = 2.0**-20
    expected = torch.zeros(16, 16)
    expected[4, 3] = 3 * 0.5 * 2.0**-20
    assert torch.equal(change(layer), expected) and change(layer).dtype is torch.float32


def test_what_is_written_is_what_peft_reads(folder, tmp_path):
    model = with_adapter(load_causal(folder, torch.float32), LORA)
    torch.manual_seed(0)
    with torch.no_grad():
        for _, parameter in adapter_parameters(model):
            parameter.normal_()
    weights = {name: value.detach() for name, value in adapter_parameters(model)}
    layers = adapted_layers(str(folder), LORA)
    write_adapter(tmp_path / "adapter", weights, LORA, layers, str(folder))
    read = PeftModel.from_pretrained(load_causal(folder, torch.float32), tmp_path / "adapter")
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert torch.equal(read(ids).logits, model.eval()(ids).logits)
        with model.disable_adapter():
            assert not torch.allclose(read(ids).logits, model(ids).logits)
