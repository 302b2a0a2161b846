"""Every architecture in the table of docs/models_and_data.md, from its folder and back.

    python -m pytest tests/models

A tiny model of each is checked, rendered for, sampled from, published to and exported; what is not
supported is refused in one line.
"""

from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, engines, table
from transformers import AutoModel, AutoModelForCausalLM

from actors import branches
from actors.buckets import pack
from actors.engine import GenerationRequest
from actors.transformers_engine import TransformersEngine
from rlhf.config.models import (
    DType,
    Rendering,
    TinyModelConfig,
    TransformersRolloutConfig,
    Vocabulary,
)
from rlhf.data.rendering import Renderer
from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.learning.reading import row_logprobs
from rlhf.models.checks import is_recurrent, require_causal, sampling_faults
from rlhf.models.loading import (
    load_causal,
    quietly,
    read_config,
    read_generation_config,
    read_tokenizer,
)
from rlhf.models.saving import save_causal
from rlhf.models.turns import end_token_ids
from rlhf.problems import InputError
from rlhf.records import Message, Sampling, Tokens
from rlhf.toys.tiny import build_tiny_model

CPU = torch.device("cpu")
SAMPLED = [name for name in ARCHITECTURES if "transformers" in engines(name)]
RECURRENT = [name for name, one in ARCHITECTURES.items() if not (engines(name) or one.refused)]
REFUSED = [name for name, one in ARCHITECTURES.items() if one.refused]


def build(name: str, directory: Path) -> Path:
    """Seeded random weights, large enough for every layer to count, and byte tokens."""
    tiny = TinyModelConfig(num_layers=1, width=16, num_heads=2, vocabulary=Vocabulary.bytes)
    build_tiny_model(tiny, directory, seed=1)
    config = ARCHITECTURES[name].make(len(read_tokenizer(directory)))
    torch.manual_seed(0)
    made = AutoModel if ARCHITECTURES[name].refused else AutoModelForCausalLM
    model = made.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(directory)
    return directory


def named(model) -> dict[str, torch.Tensor]:
    lasting = model.state_dict().keys()
    found = dict(model.named_parameters(remove_duplicate=False))
    found |= {name: value for name, value in model.named_buffers() if name in lasting}
    return {name: value.detach() for name, value in found.items()}


def gap(a: list[list[float]], b: list[list[float]]) -> float:
    return max(abs(x - y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True))


@pytest.mark.parametrize("name", SAMPLED)
async def test_from_its_folder_and_back(name: str, tmp_path: Path, monkeypatch):
    """Sampled from with a prompt's completions each by itself, and then with keys that they share,
    if the model can."""
    with quietly():
        folder = require_causal("model.path", str(build(name, tmp_path / "model")))
        policy = load_causal(folder, torch.float32)
        tokenizer = read_tokenizer(folder)
        engine = TransformersEngine(
            str(folder),
            DType.float32,
            TransformersRolloutConfig(max_prompt_tokens=32, max_completion_tokens=8),
            end_token_ids(tokenizer, read_generation_config(folder)),
            tokenizer,
        )
    renderer = Renderer(tokenizer, Rendering.auto)
    prompts = [renderer.render((Message("user", text),)) for text in ("1+1=", "What is 20+22?")]
    asked = [
        GenerationRequest(str(i), prompt, Sampling(3, 8), 100 * i)
        for i, prompt in enumerate(prompts)
    ]

    async def sampled() -> tuple[list[Tokens], list[list[float]]]:
        drafts = {}
        async for chunk in engine.generate(asked):
            drafts |= dict(chunk)
        groups = [(prompts[i], drafts[i]) for i in range(len(prompts))]
        rows = [Tokens(prompt, draft.token_ids) for prompt, group in groups for draft in group]
        return rows, [list(draft.logprobs) for _, group in groups for draft in group]

    rows, logprobs = await sampled()
    policy.eval()
    assert gap(logprobs, row_logprobs(policy, rows, 1000, CPU)) < 1e-4
    assert gap([row_logprobs(policy, [row], 1000, CPU)[0] for row in rows], logprobs) < 1e-4

    policy.train()
    completion_logprobs(policy, pad(rows)).sum().backward()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.grad is not None:
                parameter.add_(0.03 * torch.randn_like(parameter))
    policy.eval()
    await engine.load_weights([pack(named(policy))], 1)
    assert gap(logprobs, row_logprobs(policy, rows, 1000, CPU)) > 1e-2
    monkeypatch.setattr(branches, "LARGEST_PART", 1.0)
    again, published = await sampled()
    assert gap(published, row_logprobs(policy, again, 1000, CPU)) < 1e-4

    exported_is(policy, folder, again, tmp_path / "out")


def exported_is(policy, folder: Path, rows: list[Tokens], out: Path) -> None:
    with quietly():
        save_causal(str(folder), named(policy), torch.float32, out)
        require_causal("model.path", str(out))
        loaded = load_causal(out, torch.float32).eval()
    assert row_logprobs(loaded, rows, 1000, CPU) == row_logprobs(policy, rows, 1000, CPU)


@pytest.mark.parametrize("name", RECURRENT)
def test_a_recurrent_model_is_trained_on_padded_rows_and_exported(name: str, tmp_path: Path):
    with quietly():
        folder = require_causal("model.path", str(build(name, tmp_path / "model")))
        policy = load_causal(folder, torch.float32).eval()
    assert is_recurrent(read_config(folder))
    rows = [Tokens((5, 6, 7), (8, 9, 10)), Tokens((5, 6, 7, 8, 9, 11), (8, 9, 10, 20))]
    alone = [row_logprobs(policy, [row], 1000, CPU)[0] for row in rows]
    assert gap(alone, row_logprobs(policy, rows, 1000, CPU)) < 1e-4
    exported_is(policy, folder, rows, tmp_path / "out")


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_in_one_line(name: str, tmp_path: Path):
    with quietly(), pytest.raises(InputError) as refused:
        require_causal("model.path", str(build(name, tmp_path / "model")))
    (line,) = refused.value.problems
    assert line.startswith(f"model.path={tmp_path / 'model'}: ")
    assert ARCHITECTURES[name].refused in line


@pytest.mark.parametrize(
    ("name", "on_vllm", "on_gpus", "words"),
    [
        ("mamba", False, True, "mamba keeps a recurrent state, which rollout=transformers cannot"),
        ("jamba", True, False, "with on GPUs alone; set placement.gpus=true"),
        ("deepseek_v3", True, False, "latent attention, whose weights rollout=vllm takes over on"),
        ("bloom", True, True, "bloom's head has no name that rollout=vllm can load; set rollout="),
        ("mamba", True, True, None),
        ("deepseek_v3", True, True, None),
        ("deepseek_v3", False, False, None),
        ("bloom", False, False, None),
    ],
)
def test_what_cannot_be_sampled_from_is_refused_where_it_cannot(name, on_vllm, on_gpus, words):
    faults = list(sampling_faults(ARCHITECTURES[name].make(100), on_vllm, on_gpus))
    assert [words in fault for fault in faults] == ([] if words is None else [True])


def test_a_head_without_a_layer_does_not_come_by_nccl():
    config = ARCHITECTURES["gemma2"].make(100)
    (fault,) = sampling_faults(config, on_vllm=True, on_gpus=True, by_nccl=True)
    assert "weights.transport=object_store" in fault
    assert list(sampling_faults(config, on_vllm=True, on_gpus=True)) == []


def test_the_page_has_the_table_that_these_tests_show():
    page = (Path(__file__).parents[2] / "docs" / "models_and_data.md").read_text()
    assert table() in page
