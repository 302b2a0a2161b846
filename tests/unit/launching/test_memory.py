"""What workers need at the least, worked out by hand."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, MambaConfig, MambaForCausalLM

from rlhf.config.models import DType, Optimizer, PolicyConfig
from rlhf.launching.memory import (
    ModelShape,
    cache_bytes,
    causal_shape,
    dtype_bytes,
    frozen_memory,
    num_weights,
    policy_memory,
)
from rlhf.problems import InputError

SHAPE = ModelShape(num_weights=1000, linear_sides=100, cache_numbers=16)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    config = LlamaConfig(
        vocab_size=10, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_shape_is_read_from_the_files(small):
    # Embeddings 80; q and o 64 each, k and v 32 each; three projections of 128; three norms of 8.
    shape = causal_shape("model.path", str(small))
    assert shape.num_weights == 80 + 2 * 64 + 2 * 32 + 3 * 128 + 3 * 8 == num_weights(small)
    assert shape.linear_sides == 2 * 16 + 2 * 12 + 3 * 24
    assert shape.cache_numbers == 2 * 1 * 1 * 4  # keys and values, layers, heads, width of a head


def test_of_weights_that_are_there_twice_those_of_the_index_count(small):
    weights = {"w": torch.zeros(3, 5)}
    save_file(weights, small / "part.safetensors")
    index = {"weight_map": {"w": "part.safetensors"}}
    (small / "model.safetensors.index.json").write_text(json.dumps(index))
    assert num_weights(small) == 15


def test_a_model_that_is_nowhere_is_told_by_its_key():
    with pytest.raises(InputError, match=r"judge\.path=/no/where: no such folder"):
        causal_shape("judge.path", "/no/where")


@pytest.mark.parametrize(
    "dtype, config, weights, gradients, optimizer",
    [
        # bf16: 2 bytes a weight and a gradient; 4 of master and 8 of moments.
        (DType.bfloat16, PolicyConfig(4, zero_stage=0), 2000, 2000, 12000),
        (DType.bfloat16, PolicyConfig(4, zero_stage=1), 2000, 2000, 3000),
        (DType.bfloat16, PolicyConfig(4, zero_stage=2), 2000, 500, 3000),
        (DType.bfloat16, PolicyConfig(4, zero_stage=3), 500, 500, 3000),
        (DType.bfloat16, PolicyConfig(3, zero_stage=3), 667, 667, 4000),
        # fp32 without ZeRO has no masters besides the weights.
        (DType.float32, PolicyConfig(1, zero_stage=0), 4000, 4000, 8000),
        (DType.float32, PolicyConfig(2, zero_stage=2), 4000, 2000, 6000),
        (DType.bfloat16, PolicyConfig(1, optimizer=Optimizer.rmsprop), 2000, 2000, 8000),
        (DType.bfloat16, PolicyConfig(1, optimizer=Optimizer.sgd), 2000, 2000, 4000),
        # Rank 4 adds 400 weights, and only they have gradients and an optimizer.
        (DType.bfloat16, PolicyConfig(1, lora_rank=4), 2800, 800, 4800),
    ],
)
def test_a_policy_rank_s_memory(dtype, config, weights, gradients, optimizer):
    memory = policy_memory(SHAPE, dtype, config)
    assert memory.parts == {"weights": weights, "gradients": gradients, "optimizer": optimizer}
    assert memory.total == weights + gradients + optimizer


def test_a_frozen_model_is_split_over_its_gpus():
    assert frozen_memory(1000, 2).total == 2000
    assert frozen_memory(1000, 2, num_gpus=4).total == 500


def test_the_cache_of_some_tokens():
    assert cache_bytes(SHAPE, DType.bfloat16, 10) == 10 * 16 * 2


def test_a_judge_s_dtype_is_its_own_unless_told(small):
    assert dtype_bytes(small, "auto") == 4
    assert dtype_bytes(small, "bfloat16") == 2


def test_a_recurrent_state_does_not_grow_with_tokens(tmp_path):
    config = MambaConfig(vocab_size=32, hidden_size=16, state_size=4, num_hidden_layers=1)
    MambaForCausalLM(config).save_pretrained(tmp_path)
    assert cache_bytes(causal_shape("model.path", str(tmp_path)), DType.float32, 1000) == 0
