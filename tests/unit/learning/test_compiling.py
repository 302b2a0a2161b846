"""Compiled passes are those of the model, or it is told why not."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.config.models import PolicyConfig
from rlhf.learning.compiling import NotCompiled, compile_checked
from rlhf.learning.reading import RowReader, find_packing, probe_rows

CPU = torch.device("cpu")
VOCABULARY = 17


@pytest.fixture
def reader():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, intermediate_size=32, **shape))
    return RowReader(model, CPU, find_packing(model.eval(), model.config, CPU))


def test_a_compiled_model_with_other_numbers_is_refused(reader):
    def spoil():
        reader.model.lm_head.weight.data[3] += 1.0

    with pytest.raises(NotCompiled, match="nats a token"):
        compile_checked(reader, spoil, VOCABULARY, noise=1e-4)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"zero_stage": 3}, "set policy.zero_stage=2"),
        ({"lora_rank": 8}, "set policy.lora_rank=0"),
    ],
)
def test_what_cannot_be_compiled_is_told_before_the_start(settings, told):
    (problem,) = PolicyConfig(compile=True, **settings).problems()
    assert problem.startswith("policy.compile=true: ") and told in problem
    assert not list(PolicyConfig(**settings).problems())


def gradients(reader, rows):
    reader.model.zero_grad()
    reader.logprobs_RC(rows).sum().backward()
    return torch.cat([one.grad.flatten() for one in reader.model.parameters()])


@pytest.mark.thorough
def test_compiled_passes_have_the_same_numbers_and_gradients_at_every_length(reader):
    batches = [probe_rows(VOCABULARY, step)[:count] for step, count in ((5, 6), (7, 2), (3, 1))]
    plain = [gradients(reader, rows) for rows in batches]
    compile_checked(reader, lambda: reader.model.compile(dynamic=True), VOCABULARY, noise=1e-4)
    for rows, expected in zip(batches, plain, strict=True):
        torch.testing.assert_close(gradients(reader, rows), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.thorough
def test_what_torch_cannot_compile_is_told(reader):
    class Breaking(torch.nn.Module):
        def forward(self, hidden):
            print(hidden.sum().item())  # takes a look at numbers, which no graph has
            return hidden

    reader.model.model.norm = Breaking()
    with pytest.raises(NotCompiled, match="torch cannot compile this model"):
        compile_checked(
            reader, lambda: reader.model.compile(fullgraph=True), VOCABULARY, noise=1e-4
        )
