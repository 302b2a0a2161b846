"""Every loss has the gradient of padded rows where rows are packed, on one rank and split on two.

Through real ranks, at every ZeRO stage: tests/integration/test_every_objective.py, which is
thorough.
"""

import pytest
import torch
from every_objective import batch_of, distance, every_objective, gradient, norm
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.learning.packing import UNLIMITED, Packing
from rlhf.records import Columns

PACKING = Packing(width=1 << 20, longest=UNLIMITED)


@pytest.fixture(scope="module")
def model():
    config = LlamaConfig(
        vocab_size=17, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", every_objective())
async def test_packed_or_padded_on_one_rank_or_two_the_gradient_is_the_same(model, name):
    objective = every_objective()[name]
    batch = await batch_of(objective)
    rows = Columns.of(batch).rows
    assert len(PACKING.trees(rows)) < len(rows)
    padded = gradient(model, objective, batch)
    assert 1e-3 < norm(padded) < 1e6
    for packing, ranks in [(PACKING, 1), (PACKING, 2)]:
        found = gradient(model, objective, batch, packing, ranks)
        assert distance(found, padded) < 1e-5, (packing, ranks)
