"""Rows that begin alike as trees: the same numbers and gradients as each row by itself."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlhf.learning import packing
from rlhf.learning.packing import UNLIMITED, Packing, lines_of, pack
from rlhf.learning.reading import CannotPack, RowReader, find_packing, row_logprobs
from rlhf.models.batching import Shape
from rlhf.records import Tokens

CPU = torch.device("cpu")
WIDE = Packing(width=1 << 20, longest=UNLIMITED)
"""Attention costs nothing."""
SMALL = {"vocab_size": 17, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def made(kind, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval()


@pytest.fixture(scope="module")
def model():
    shape = {**SMALL, "intermediate_size": 32, "num_key_value_heads": 2, "initializer_range": 0.5}
    return made(LlamaForCausalLM, LlamaConfig(**shape))


# --- trees --------------------------------------------------------------------------------------


def test_rows_that_begin_alike_are_one_tree():
    rows = [
        Tokens((1, 2, 3), (4, 5, 6)),
        Tokens((9, 8), (7, 7)),
        Tokens((1, 2, 3), (4, 6)),
        Tokens((1, 2, 3), (8,)),
    ]
    trees = WIDE.trees(rows)
    # The last token of a row is not read: 1 2 3 4 5 and 1 2 3 4 and 1 2 3 are five tokens in all.
    assert [(tree.rows, tree.num_tokens) for tree in trees] == [((0, 2, 3), 5), ((1,), 3)]


def test_a_tree_s_tokens_see_themselves_and_what_is_above_them():
    rows = [Tokens((1, 2), (3, 4)), Tokens((1, 2), (5, 6))]
    packed = pack(rows, WIDE.trees(rows))
    assert packed.input_ids_BT.tolist() == [[1, 2, 3, 5]]
    assert packed.position_ids_BT.tolist() == [[0, 1, 2, 2]]
    assert packed.visible_BTT[0].int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [1, 1, 1, 0],
        [1, 1, 0, 1],
    ]
    assert packed.num_kept == 3
    # After 2 come 3 and 5, after 3 comes 4, after 5 comes 6.
    assert packed.node_E.tolist() == [0, 0, 1, 2]
    assert packed.target_E.tolist() == [3, 5, 4, 6]
    assert packed.place_RC.tolist() == [[0, 2], [1, 3]]


def test_a_shorter_tree_is_padded_on_the_left_and_its_padding_sees_itself():
    rows = [Tokens((1, 2), (3, 4)), Tokens((1, 2), (5, 6)), Tokens((7,), (8, 9))]
    packed = pack(rows, WIDE.trees(rows))
    assert packed.input_ids_BT[1].tolist() == [0, 0, 7, 8]
    assert packed.visible_BTT[1].int().tolist() == [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [0, 0, 1, 1],
    ]


def test_a_row_joins_only_where_attention_does_not_cost_more_than_is_saved():
    rows = [Tokens((1,) * 12, (k, k, k, k, k)) for k in range(2, 12)]
    # Alone a row costs 16 + 16²/6w; the second adds 4 tokens to a tree of 16: 4 + (20² - 16²)/6w.
    assert [tree.num_tokens for tree in Packing(64, UNLIMITED).trees(rows)] == [16 + 9 * 4]
    # With w = 1 a tree of 20 costs 20 + 400/6 = 86.7, and two rows 2 x (16 + 256/6) = 117.3;
    # one of 24 costs 120, and 20 with 16 only 145.3; one of 28 158.7, 24 with 16 178.7; one of
    # 32 202.7, 28 with 16 217.3; one of 36 252, 32 with 16 261.3; one of 40 306.7, 36 with 16
    # 310.7; and one of 44 366.7, more than 40 with 16: 365.3.
    assert [tree.num_tokens for tree in Packing(1, UNLIMITED).trees(rows)] == [40, 16 + 2 * 4]


def test_little_in_common_is_not_worth_a_mask():
    rows = [Tokens((1, 2), (3,) * 9), Tokens((1, 2), (4,) * 9)]
    assert [tree.rows for tree in WIDE.trees(rows)] == [(0,), (1,)]


# --- lines --------------------------------------------------------------------------------------


def test_small_trees_stand_side_by_side_where_padding_would_be():
    rows = [Tokens((1, 2), (3, 4, 5, 6)), Tokens((7,), (8, 9, 7)), Tokens((9, 9), (1,))]
    packed = pack(rows, WIDE.trees(rows))
    # Their trees are 5, 3 and 2 tokens: two lines without padding.
    assert packed.input_ids_BT.tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 9, 9]]
    assert packed.position_ids_BT.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert packed.visible_BTT[1].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]
    assert packed.num_kept == 5
    assert packed.node_E.tolist() == [1, 2, 3, 4, 5, 6, 7, 9]
    assert packed.target_E.tolist() == [3, 4, 5, 6, 8, 9, 7, 1]


def test_trees_share_no_line_if_that_asks_for_more_logits():
    rows = [Tokens((1,) * 9, (2,)), Tokens((3,) * 4, (4,)), Tokens((5,) * 4, (6,))]
    trees = WIDE.trees(rows)
    # Each asks for one of its tokens' logits, three in all; side by side, for all nine of a line.
    assert lines_of(trees) == [[tree] for tree in trees]


# --- numbers ------------------------------------------------------------------------------------

tokens = st.lists(st.integers(0, 2), min_size=1, max_size=7).map(tuple)
rows_ = st.lists(
    st.builds(Tokens, tokens, tokens, st.just(()), st.just(())), min_size=1, max_size=9
)


@settings(max_examples=40)
@given(rows_, st.integers(1, 80), st.sampled_from([1, 16, 1 << 20]))
def test_packed_rows_have_the_numbers_that_each_has_alone(model, rows, budget_tokens, width):
    reader = RowReader(model, CPU, Packing(width, UNLIMITED))
    alone = [row_logprobs(model, [row], 1, CPU)[0] for row in rows]
    together = reader.each(rows, budget_tokens)
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=2e-5)


def test_observed_tokens_have_none_and_emphasised_ones_count_more(model):
    rows = [
        Tokens((1, 2, 3), (4, 5, 6), observed=((1, 2),)),
        Tokens((1, 2, 3), (4, 5, 7), emphasis=((1, 3, 2.5),)),
        Tokens((1, 2, 3), (4, 5, 6)),
    ]
    packed = RowReader(model, CPU, WIDE).logprobs_RC(rows)
    torch.testing.assert_close(packed, RowReader(model, CPU).logprobs_RC(rows))
    assert packed[0, 1] == 0.0
    assert packed[1, 1].item() == pytest.approx(2.5 * packed[2, 1].item(), rel=1e-5)


@pytest.mark.parametrize("numbers", [1 << 24, 17 * 2], ids=["at once", "in slices"])
def test_gradients_are_those_of_rows_side_by_side(model, numbers, monkeypatch):
    monkeypatch.setattr(packing, "_CHUNK_NUMBERS", numbers)
    rows = [Tokens((p, 2, 3, p), (a, 5, a + 1, a)) for p in (1, 7) for a in range(3, 9)]
    gradients = []
    for reader in (RowReader(model, CPU), RowReader(model, CPU, WIDE)):
        model.zero_grad()
        (reader.logprobs_RC(rows) ** 2).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model.zero_grad()
    padded, packed = gradients
    assert ((packed - padded).norm() / padded.norm()).item() < 1e-5


def test_a_step_s_shape_counts_shared_tokens_once(model):
    rows = [Tokens((1,) * 8, (k, k, k)) for k in range(2, 6)]
    assert RowReader(model, CPU).shape(rows) == Shape(8, 3, 4)
    assert RowReader(model, CPU, WIDE).shape(rows) == Shape(0, 8 + 4 * 2, 1)


# --- models that cannot -------------------------------------------------------------------------


def test_a_llama_can_and_is_found_to(model):
    assert find_packing(model, model.config, CPU) == Packing(16, UNLIMITED)


def test_learnt_positions_can():
    gpt2 = made(GPT2LMHeadModel, GPT2Config(vocab_size=17, n_embd=16, n_layer=2, n_head=4))
    rows = [Tokens((1, 2, 3, 4), (5, k, 6)) for k in range(7, 11)]
    reader = RowReader(gpt2, CPU, find_packing(gpt2, gpt2.config, CPU))
    torch.testing.assert_close(reader.logprobs_RC(rows), RowReader(gpt2, CPU).logprobs_RC(rows))


def test_a_recurrent_model_cannot():
    mamba = made(MambaForCausalLM, MambaConfig(vocab_size=17, hidden_size=16, num_hidden_layers=2))
    with pytest.raises(CannotPack):
        find_packing(mamba, mamba.config, CPU)


def test_distances_read_off_a_mask_cannot():
    bloom = made(BloomForCausalLM, BloomConfig(vocab_size=17, hidden_size=16, n_layer=2, n_head=4))
    with pytest.raises(CannotPack):
        find_packing(bloom, bloom.config, CPU)


def test_rows_longer_than_a_sliding_window_are_padded():
    config = MistralConfig(**SMALL, intermediate_size=32, num_key_value_heads=2, sliding_window=14)
    mistral = made(MistralForCausalLM, config)
    reader = RowReader(mistral, CPU, find_packing(mistral, config, CPU))
    assert reader.packing == Packing(16, 14) and reader.packing.has_window
    short = [Tokens((1, 2, 3) * 4, (k, 5)) for k in range(4)]
    long = [Tokens((1, 2, 3) * 5, (k, 5)) for k in range(4)]
    assert reader.fitting(short) == reader
    assert reader.fitting([*short, *long]) == RowReader(mistral, CPU)
    assert reader.each(long, 1000) == row_logprobs(mistral, long, 1000, CPU)
