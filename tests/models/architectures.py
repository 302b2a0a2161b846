"""Tiny models of many architectures, from their own configurations.

`python tests/models/architectures.py` prints the table of docs/models_and_data.md.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import transformers as hf

from rlhf.models.checks import sampling_faults


class Architecture(NamedTuple):
    """One kind of model, small."""

    title: str
    make: Callable[[int], Any]
    """Its configuration, by the size of the vocabulary."""
    refused: str = ""
    """Words of the refusal, for what is not supported."""


SIZES = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
KV = {"num_key_value_heads": 2}
GROUPED = {"num_key_value_heads": 1}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
UNTIED = {"tie_word_embeddings": False}
TIED = {"tie_word_embeddings": True}
LATENT = {
    "q_lora_rank": 32, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128,
    "v_head_dim": 128, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip


def _of(name: str, *parts: dict[str, Any], **more: Any) -> Callable[[int], Any]:
    def make(vocab_size: int) -> Any:
        values: dict[str, Any] = {"vocab_size": vocab_size}
        for part in (*parts, more):
            values |= part
        return getattr(hf, name)(**values)

    return make


OLD = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 128, "bos_token_id": 1,
       "eos_token_id": 1}  # fmt: skip

ARCHITECTURES = {
    "llama": Architecture("Llama", _of("LlamaConfig", SIZES, GROUPED, UNTIED)),
    "llama_tied": Architecture("Llama, tied embeddings", _of("LlamaConfig", SIZES, KV, TIED)),
    "qwen2": Architecture("Qwen2 and Qwen2.5", _of("Qwen2Config", SIZES, GROUPED, TIED)),
    "qwen3": Architecture("Qwen3", _of("Qwen3Config", SIZES, GROUPED, TIED, head_dim=32)),
    "qwen3_moe": Architecture(
        "Qwen3-MoE", _of("Qwen3MoeConfig", SIZES, GROUPED, EXPERTS, UNTIED, head_dim=32,
                         num_experts=4)),
    "qwen2_moe": Architecture(
        "Qwen2-MoE", _of("Qwen2MoeConfig", SIZES, KV, EXPERTS, UNTIED, num_experts=4,
                         shared_expert_intermediate_size=64)),
    "mistral": Architecture("Mistral", _of("MistralConfig", SIZES, GROUPED, UNTIED, head_dim=32)),
    "mixtral": Architecture(
        "Mixtral", _of("MixtralConfig", SIZES, GROUPED, UNTIED, num_local_experts=4)),
    "gemma": Architecture("Gemma", _of("GemmaConfig", SIZES, GROUPED, TIED, head_dim=32)),
    "gemma2": Architecture(
        "Gemma 2", _of("Gemma2Config", SIZES, GROUPED, TIED, head_dim=32, sliding_window=64)),
    "gemma3": Architecture(
        "Gemma 3, text", _of("Gemma3TextConfig", SIZES, GROUPED, TIED, head_dim=32,
                             sliding_window=64)),
    "phi": Architecture("Phi-2", _of("PhiConfig", SIZES, KV, UNTIED, intermediate_size=256)),
    "phi3": Architecture("Phi-3 and Phi-4", _of("Phi3Config", SIZES, GROUPED, UNTIED)),
    "glm": Architecture("GLM", _of("GlmConfig", SIZES, GROUPED, UNTIED, head_dim=32)),
    "glm4": Architecture("GLM-4", _of("Glm4Config", SIZES, GROUPED, UNTIED, head_dim=32)),
    "glm4_moe": Architecture(
        "GLM-4.5 (MoE)", _of("Glm4MoeConfig", SIZES, GROUPED, EXPERTS, UNTIED, head_dim=32,
                             n_routed_experts=4, first_k_dense_replace=1, n_group=1,
                             topk_group=1)),
    "deepseek_v3": Architecture(
        "DeepSeek-V3", _of("DeepseekV3Config", SIZES, KV, EXPERTS, UNTIED, LATENT,
                           n_routed_experts=4, topk_method="noaux_tc")),
    "deepseek_v2": Architecture(
        "DeepSeek-V2", _of("DeepseekV2Config", SIZES, KV, EXPERTS, UNTIED, LATENT,
                           n_routed_experts=4, topk_method="greedy")),
    "olmo2": Architecture("OLMo-2", _of("Olmo2Config", SIZES, GROUPED, UNTIED)),
    "olmoe": Architecture(
        "OLMoE", _of("OlmoeConfig", SIZES, KV, UNTIED, num_experts=4, num_experts_per_tok=2)),
    "gpt2": Architecture("GPT-2", _of("GPT2Config", OLD)),
    "gpt_neox": Architecture("GPT-NeoX and Pythia", _of("GPTNeoXConfig", SIZES, UNTIED)),
    "gpt_bigcode": Architecture("StarCoder", _of("GPTBigCodeConfig", OLD)),
    "opt": Architecture(
        "OPT", _of("OPTConfig", SIZES, ffn_dim=128, word_embed_proj_dim=64)),
    "falcon": Architecture(
        "Falcon", _of("FalconConfig", SIZES, new_decoder_architecture=False, multi_query=True)),
    "bloom": Architecture(
        "BLOOM", _of("BloomConfig", hidden_size=64, n_layer=2, n_head=2, bos_token_id=1,
                     eos_token_id=1, pad_token_id=0)),
    "starcoder2": Architecture("StarCoder2", _of("Starcoder2Config", SIZES, GROUPED, TIED)),
    "stablelm": Architecture("StableLM", _of("StableLmConfig", SIZES, KV, UNTIED)),
    "granite": Architecture("Granite", _of("GraniteConfig", SIZES, GROUPED, TIED)),
    "granite_moe": Architecture(
        "Granite-MoE", _of("GraniteMoeConfig", SIZES, GROUPED, TIED, num_local_experts=4,
                           num_experts_per_tok=2)),
    "smollm3": Architecture("SmolLM3", _of("SmolLM3Config", SIZES, GROUPED, TIED)),
    "cohere": Architecture("Command R", _of("CohereConfig", SIZES, GROUPED, TIED)),
    "mamba": Architecture(
        "Mamba", _of("MambaConfig", hidden_size=64, state_size=8, num_hidden_layers=2,
                     pad_token_id=0, bos_token_id=1, eos_token_id=1)),
    "jamba": Architecture(
        "Jamba", _of("JambaConfig", SIZES, KV, num_experts=2, attn_layer_period=2,
                     attn_layer_offset=1, mamba_d_state=8, use_mamba_kernels=False)),
    "t5": Architecture(
        "T5", _of("T5Config", d_model=64, d_ff=64, num_layers=1, num_heads=2, d_kv=32),
        refused="is an encoder with a decoder"),
    "bert": Architecture(
        "BERT", _of("BertConfig", SIZES), refused="reads both ways"),
}  # fmt: skip


def engines(name: str, on_gpus: bool = False) -> list[str]:
    """Those of `rollout=` that sample from it."""
    config = ARCHITECTURES[name].make(100)
    fit = {
        "transformers": not list(sampling_faults(config, on_vllm=False, on_gpus=on_gpus)),
        "vllm": not list(sampling_faults(config, on_vllm=True, on_gpus=on_gpus)),
    }
    return [engine for engine, fits in fit.items() if fits and not ARCHITECTURES[name].refused]


def table() -> str:
    """In Markdown, by what the tests beside this file show."""
    lines = [
        "| architecture | trained and exported | sampled from on CPUs | on a GPU |",
        "| --- | --- | --- | --- |",
    ]
    for name, one in ARCHITECTURES.items():
        if one.refused:
            lines.append(f"| {one.title} | refused: {one.refused} | | |")
            continue
        fit = ", ".join(f"`rollout={engine}`" for engine in engines(name))
        gpu = "`rollout=vllm`" if "vllm" in engines(name, on_gpus=True) else "not by vLLM"
        lines.append(f"| {one.title} | yes | {fit or 'no'} | {gpu} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
