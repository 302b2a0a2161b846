"""Log-probabilities against a plain softmax, whoever shares the forward pass.

Dimensions as in `rlhf.learning.logprobs`: B rows, C completion tokens, V vocabulary.
"""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf.learning import logprobs
from rlhf.learning.logprobs import (
    completion_logprobs,
    pad,
    token_logprobs,
)
from rlhf.learning.reading import row_logprobs, sum_logprobs
from rlhf.records import Tokens

CPU = torch.device("cpu")
ROWS = [
    Tokens((3, 1, 4), (1, 5)),
    Tokens((9,), (2, 6, 5, 3, 5)),
    Tokens((8, 9, 7, 9, 3, 2), (3,)),
    Tokens((8, 4, 6), (2, 6, 4, 3)),
]
MODELS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    config, kind = MODELS[request.param]
    shape = config(
        vocab_size=17,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,  # far from uniform, so that every mistake shows
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(shape).eval()


def plainly(model, row: Tokens) -> list[float]:
    """One row, no padding, the whole softmax, in fp64."""
    model.double()
    with torch.no_grad():
        ids = torch.tensor([[*row.prompt, *row.completion]])
        logprobs_TV = model(input_ids=ids).logits[0].log_softmax(-1)
    model.float()
    start = len(row.prompt) - 1
    return [logprobs_TV[start + t, token].item() for t, token in enumerate(row.completion)]


# --- values -------------------------------------------------------------------------------------


def test_equal_to_a_plain_softmax_over_each_row_by_itself(model):
    found = row_logprobs(model, ROWS, 1000, CPU)
    for row, values in zip(ROWS, found, strict=True):
        assert values == pytest.approx(plainly(model, row), abs=1e-5)
    assert min(min(values) for values in found) < -3  # the model is not uniform


def test_a_row_s_sum_is_over_its_completion_alone(model):
    expected = [sum(plainly(model, row)) for row in ROWS]
    assert sum_logprobs(model, ROWS, 1000, CPU) == pytest.approx(expected, abs=1e-4)


rows = st.builds(
    Tokens,
    st.lists(st.integers(0, 16), min_size=1, max_size=6).map(tuple),
    st.lists(st.integers(0, 16), min_size=1, max_size=6).map(tuple),
    observed=st.just(()),
    emphasis=st.just(()),
)


@settings(max_examples=25)
@given(st.lists(rows, min_size=1, max_size=6), st.integers(1, 80))
def test_neither_neighbours_nor_padding_nor_packing_matter(model, drawn, budget_tokens):
    alone = [row_logprobs(model, [row], 1, CPU)[0] for row in drawn]
    together = row_logprobs(model, drawn, budget_tokens, CPU)
    assert [len(values) for values in together] == [len(row.completion) for row in drawn]
    assert [*chain(*together)] == pytest.approx([*chain(*alone)], abs=1e-5)


def test_padding_is_masked_and_positions_start_at_each_prompt(model):
    padded = pad([Tokens((5, 6, 7), (8,)), Tokens((9,), (1, 2))])
    assert padded.input_ids_BT.tolist() == [[5, 6, 7, 8, 0], [0, 0, 9, 1, 2]]
    assert padded.attention_mask_BT.tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert padded.completion_mask_BC.tolist() == [[True, False], [True, True]]
    for row, attended in zip(padded.position_ids_BT, padded.attention_mask_BT.bool(), strict=True):
        assert row[attended].tolist() == list(range(attended.sum()))
    assert completion_logprobs(model, padded)[0, 1] == 0.0


def test_padding_sends_no_gradient(model):
    """A row's gradient is the same alone and beside a longer one that has no part in the loss."""
    short, long = Tokens((5, 6), (7,)), Tokens((1, 2, 3, 4), (5, 6, 7))
    gradients = []
    for batch in ([short], [short, long]):
        model.zero_grad()
        completion_logprobs(model, pad(batch))[0].sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


# --- slices -------------------------------------------------------------------------------------


def some_logits(*shape_BCV: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits_BCV = (torch.randn(shape_BCV, generator=generator) * 5).to(dtype).requires_grad_()
    return logits_BCV, torch.randint(shape_BCV[2], shape_BCV[:2], generator=generator)


@pytest.mark.parametrize("numbers", [1, 33, 100, 3 * 11 * 6, 3 * 11 * 7 - 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_change_neither_values_nor_gradients(monkeypatch, numbers, dtype):
    logits_BCV, targets_BC = some_logits(3, 7, 11, dtype=dtype)
    direction_BC = torch.linspace(-1, 1, 21).view(3, 7)

    def values_and_gradient():
        logits_BCV.grad = None
        values_BC = token_logprobs(logits_BCV, targets_BC)
        values_BC.backward(direction_BC)
        return values_BC.detach(), logits_BCV.grad

    whole = values_and_gradient()
    plain_BCV = logits_BCV.detach().double().log_softmax(-1)
    expected_BC = plain_BCV.gather(-1, targets_BC[..., None]).squeeze(-1)
    torch.testing.assert_close(whole[0], expected_BC.float(), atol=1e-5, rtol=0)
    monkeypatch.setattr(logprobs, "_CHUNK_NUMBERS", numbers)
    torch.testing.assert_close(values_and_gradient(), whole, atol=0, rtol=0)


def test_values_are_fp32_even_of_bf16_logits():
    logits_BCV, targets_BC = some_logits(2, 3, 5, dtype=torch.bfloat16)
    assert token_logprobs(logits_BCV, targets_BC).dtype == torch.float32


def test_the_fp32_logits_of_a_large_batch_are_never_kept(monkeypatch):
    logits_BCV, targets_BC = some_logits(2, 64, 500, dtype=torch.bfloat16)
    kept_bytes = []

    def keep(tensor):
        if tensor.dtype == torch.float32:
            kept_bytes.append(tensor.nbytes)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        token_logprobs(logits_BCV, targets_BC)
        assert sum(kept_bytes) >= 4 * logits_BCV.numel()  # small enough to be kept, so it is
        kept_bytes.clear()
        monkeypatch.setattr(logprobs, "_CHUNK_NUMBERS", 2 * 8 * 500)
        token_logprobs(logits_BCV, targets_BC)
    assert sum(kept_bytes) <= 4 * targets_BC.numel()


class Made(TorchDispatchMode):
    """Counts the numbers that operations produce, all together and at most by one."""

    def __init__(self) -> None:
        super().__init__()
        self.total = self.most_fp32 = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and not tensor._is_view():
                self.total += tensor.numel()
                if tensor.dtype == torch.float32:
                    self.most_fp32 = max(self.most_fp32, tensor.numel())
        return result


def test_many_slices_are_no_more_work_than_few(monkeypatch):
    logits_BCV, targets_BC = some_logits(2, 64, 500, dtype=torch.bfloat16)
    totals = []
    for num_slices in (2, 64):
        monkeypatch.setattr(logprobs, "_CHUNK_NUMBERS", logits_BCV.numel() // num_slices)
        with Made() as made:
            token_logprobs(logits_BCV, targets_BC).sum().backward()
        assert made.most_fp32 <= logits_BCV.numel() / num_slices
        totals.append(made.total)
    assert totals[1] < 1.5 * totals[0]


def test_what_is_emphasised_counts_so_many_times(model):
    row = Tokens((5, 6), (7, 8, 9), observed=((0, 1),), emphasis=((0, 2, 0.5), (2, 3, 2.0)))
    plain = plainly(model, Tokens((5, 6), (7, 8, 9)))
    (values,) = row_logprobs(model, [row], 100, CPU)
    assert values == pytest.approx([0.0, plain[1] / 2, plain[2] * 2], abs=1e-5)
