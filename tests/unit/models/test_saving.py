"""A trained model leaves as it came: files, names, turns."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    LlamaConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from rlhf.config.models import Rendering, TinyModelConfig
from rlhf.data.rendering import Renderer
from rlhf.models.loading import load_causal, quietly, read_generation_config, read_tokenizer
from rlhf.models.saving import as_saved, save_causal
from rlhf.models.turns import end_token_ids, turn_end
from rlhf.records import Message
from rlhf.toys.tiny import build_tiny_model

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
CONFIGS = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, head_dim=8),
    "deepseek_v3": DeepseekV3Config(
        **SIZES, **EXPERTS, n_routed_experts=4, n_group=1, topk_group=1, q_lora_rank=8,
        kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        first_k_dense_replace=1,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), directory, seed=1)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param])
    for buffer in model.buffers():
        if buffer.dtype.is_floating_point and buffer.dim() == 1:
            buffer.add_(torch.rand_like(buffer))
    model.save_pretrained(directory)
    return directory


def named(model) -> dict[str, torch.Tensor]:
    """Parameters, tied ones under each name, and the buffers that files hold."""
    lasting = model.state_dict().keys()
    found = dict(model.named_parameters(remove_duplicate=False))
    return found | {name: value for name, value in model.named_buffers() if name in lasting}


def test_weights_have_the_names_shapes_and_numbers_of_the_files(saved):
    with quietly():
        model = load_causal(saved, torch.float32)
    with torch.no_grad():
        found = dict(as_saved(model, named(model).items()))
    files = load_file(saved / "model.safetensors")
    assert files.keys() <= found.keys()
    assert all(torch.equal(value, found[name]) for name, value in files.items())
    extra = found.keys() - files.keys()
    assert extra <= {"lm_head.weight"}  # tied: under both of its names
    meta = {name: value.to("meta") for name, value in named(model).items()}
    shapes = {name: value.shape for name, value in as_saved(model, meta.items())}
    assert shapes == {name: value.shape for name, value in found.items()}


def test_a_model_that_is_saved_again_is_the_same(saved, tmp_path):
    with quietly():
        model = load_causal(saved, torch.float32)
        save_causal(str(saved), named(model), torch.float32, tmp_path)
        again = load_causal(tmp_path, torch.float32)
    ids = torch.arange(3, 19)[None]
    assert torch.equal(model.eval()(input_ids=ids).logits, again.eval()(input_ids=ids).logits)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(
        saved / "model.safetensors"
    ).keys()  # fmt: skip


def test_what_the_model_came_with_leaves_with_it(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), source, seed=1)
    own = {
        "generation_config.json": json.dumps({"eos_token_id": [0, 2], "temperature": 0.6}),
        "chat_template.jinja": "{{ messages[0].content }}",
        "special_tokens_map.json": '{"pad_token": "<pad>"}',
        "preprocessor_config.json": "{}",
        "merges.txt": "a b",
        "additional_chat_templates/tool_use.jinja": "{{ messages }}",
    }
    for name, text in own.items():
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text(text)
    (source / "optimizer.pt").write_bytes(b"x")
    with quietly():
        model = load_causal(source, torch.bfloat16)
        save_causal(str(source), named(model), torch.bfloat16, out)
    assert all((out / name).read_text() == text for name, text in own.items())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    assert not (out / "optimizer.pt").exists()
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    ends = end_token_ids(read_tokenizer(out), read_generation_config(out))
    assert set(ends) >= {0, 2}


GEMMA = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = CHATML.replace("{{ m.content }}", "{{ '<t>\n\n</t>\n\n' + m.content }}")
OPEN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
RAISES = "{{ raise_exception('no') }}"


@pytest.mark.parametrize(
    "template, closing",
    [
        (GEMMA, "<end_of_turn>"),
        (CHATML, "<|im_end|>"),
        (THINKS, "<|im_end|>"),
        (OPEN, "<eos>"),
        (RAISES, "<eos>"),
        (None, "<eos>"),
    ],
    ids=["gemma", "chatml", "thinks", "open", "raises", "none"],
)
def test_a_turn_ends_as_the_template_ends_it(tmp_path, template, closing):
    build_tiny_model(TinyModelConfig(num_layers=1, width=16, num_heads=2), tmp_path, seed=1)
    tokenizer = read_tokenizer(tmp_path)
    tokenizer.split_special_tokens = False
    control = ["<start_of_turn>", "<end_of_turn>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_tokens(control, special_tokens=True)
    tokenizer.chat_template = template
    (end,) = turn_end(tokenizer)
    assert tokenizer.convert_ids_to_tokens(end) == closing
    assert set(end_token_ids(tokenizer, None)) == {tokenizer.eos_token_id, end}
    renderer = Renderer(tokenizer, Rendering.auto)
    assert renderer.completion_ids("12")[2:] == (end,)
    if template == CHATML:
        asked = (Message("user", "1+1="),)
        turns = [*(message._asdict() for message in asked), {"role": "assistant", "content": "12"}]
        whole = tuple(tokenizer.apply_chat_template(turns, return_dict=False))
        both = (*renderer.render(asked), *renderer.completion_ids("12"))
        assert whole[: len(both)] == both
        more = (Message("assistant", "12"), Message("user", "3"))
        ids, shown = renderer.observation("3")
        assert (*renderer.render(asked), *renderer.completion_ids("12"), *ids) == renderer.render(
            asked + more
        )
        assert shown == "\n\nuser:\n3\n\nassistant:\n"
    plain = Renderer(tokenizer, Rendering.plain)
    assert plain.completion_ids("12")[2:] == (tokenizer.eos_token_id,)
    assert plain.observation("3") == (plain.text_ids("3"), "3")
