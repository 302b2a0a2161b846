"""Which rows share a forward pass, and which pairs an optimizer step."""

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.models.batching import (
    Shape,
    consecutive,
    halved,
    micro_batches,
    optimizer_steps,
    rank_micro_batches,
    surely_first,
    unique,
)

shapes = st.lists(st.builds(Shape, *(st.integers(1, 40),) * 2, st.integers(1, 4)), max_size=60)
budgets = st.integers(1, 400)


def padded_tokens(shapes: list[Shape]) -> int:
    """What a batch costs: every row is as wide as the widest prompt and the widest completion."""
    widest = max(shape.prompt for shape in shapes) + max(shape.completion for shape in shapes)
    return sum(shape.num_rows for shape in shapes) * widest


def single(*widths: tuple[int, int]) -> list[Shape]:
    """One row each."""
    return [Shape(*both) for both in widths]


# --- micro-batches ------------------------------------------------------------------------------


def test_rows_are_packed_longest_first():
    rows = single((2, 3), (4, 6), (3, 2), (2, 2), (7, 1))
    # By length: row 1 (10), 4 (8), 0 (5), 2 (5), 3 (4).
    # 1 and 4 come to 2 x (7 + 6) = 26; 4 and 0 to 2 x (7 + 3) = 20, and with 2 to 30.
    assert micro_batches(rows, 25) == [[1], [4, 0], [2, 3]]
    assert micro_batches(rows, 26) == [[1, 4], [0, 2, 3]]
    # All five come to 5 x (7 + 6) = 65.
    assert micro_batches(rows, 64) == [[1, 4, 0, 2], [3]]
    assert micro_batches(rows, 65) == [[1, 4, 0, 2, 3]]


def test_a_row_beyond_the_budget_travels_alone():
    assert micro_batches(single((1, 1), (50, 50), (1, 2)), 10) == [[1], [2, 0]]


def test_rows_that_stay_together_count_each():
    # 2 rows of 5 and 3 of 4 come to 5 x (3 + 3) = 30.
    both = [Shape(2, 3, 2), Shape(3, 1, 3)]
    assert micro_batches(both, 29) == [[0], [1]]
    assert micro_batches(both, 30) == [[0, 1]]


def test_what_is_too_large_is_cut_in_the_middle():
    assert halved([5, 6, 7, 8, 9], lambda part: len(part) > 2) == [[5, 6], [7], [8, 9]]
    assert halved([5, 6], lambda part: len(part) > 2) == [[5, 6]]


def test_nothing_needs_no_batch():
    assert micro_batches([], 10) == []


@given(shapes, budgets)
def test_every_row_is_in_one_batch(rows, budget):
    assert sorted(chain(*micro_batches(rows, budget))) == list(range(len(rows)))


@given(shapes, budgets)
def test_a_batch_keeps_within_the_budget_unless_it_is_one_row(rows, budget):
    for batch in micro_batches(rows, budget):
        assert len(batch) == 1 or padded_tokens([rows[i] for i in batch]) <= budget


@given(shapes, budgets)
def test_no_batch_could_have_taken_the_next_row(rows, budget):
    batches = micro_batches(rows, budget)
    for batch, following in pairwise(batches):
        assert padded_tokens([rows[i] for i in [*batch, following[0]]]) > budget


# --- rows that occur often ----------------------------------------------------------------------


def test_a_row_is_computed_once_and_found_from_everywhere():
    assert unique(["a", "b", "a", "c", "b"]) == (["a", "b", "c"], [0, 1, 0, 2, 1])
    assert unique([]) == ([], [])


@given(st.lists(st.integers(0, 5)))
def test_unique_rows_stand_for_all(rows):
    distinct, places = unique(rows)
    assert len(set(distinct)) == len(distinct)
    assert [distinct[place] for place in places] == rows


@given(shapes, budgets)
def test_batches_of_neighbours_keep_the_order_and_the_budget(rows, budget):
    batches = consecutive(rows, budget)
    assert list(chain(*batches)) == list(range(len(rows)))
    for batch in batches:
        assert len(batch) == 1 or padded_tokens([rows[i] for i in batch]) <= budget
    for batch, following in pairwise(batches):
        assert padded_tokens([rows[i] for i in (*batch, following[0])]) > budget


# --- optimizer steps ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "num_rows, batch_size, sizes",
    [
        (64, 64, [64]),
        (65, 64, [32, 33]),
        (10, 4, [3, 3, 4]),
        (12, 4, [4, 4, 4]),
        (3, 100, [3]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_steps_of_nearly_equal_size(num_rows, batch_size, sizes):
    steps = optimizer_steps(range(num_rows), batch_size, 1, seed=0)
    assert [len(step) for step in steps] == sizes


@given(st.integers(1, 200), st.integers(1, 64), st.integers(1, 4), st.integers(0, 2**62))
def test_every_epoch_is_a_permutation_in_as_few_steps_as_can_be(num_rows, batch_size, epochs, seed):
    steps = optimizer_steps(range(num_rows), batch_size, epochs, seed)
    sizes = [len(step) for step in steps]
    per_epoch = -(-num_rows // batch_size)
    assert len(steps) == per_epoch * epochs
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    for first in range(0, len(steps), per_epoch):
        assert sorted(chain(*steps[first : first + per_epoch])) == list(range(num_rows))


def test_nothing_needs_no_step():
    assert optimizer_steps([], 64, 3, seed=1) == []


def test_a_prompt_s_pairs_stay_together():
    prompts = [i % 10 for i in range(60)]
    for step in optimizer_steps(prompts, 18, 2, seed=4):
        found = [prompts[row] for row in step]
        # A cut may fall inside a prompt at either end, nowhere else.
        assert all(found.count(prompt) == 6 for prompt in set(found) - {found[0], found[-1]})
        assert found == sorted(found, key=found.index)


def test_the_order_is_the_seed_s_and_another_in_each_epoch():
    once, again, other = (optimizer_steps(range(50), 8, 2, seed) for seed in (1, 1, 2))
    assert once == again != other
    assert once[:7] != once[7:]
    assert list(chain(*once[:7])) != list(range(50))


def test_the_first_epoch_may_have_the_order_of_the_rows():
    prompts = [row // 3 for row in range(30)]
    steps = optimizer_steps(prompts, 8, 2, seed=4, in_order=True)
    assert list(chain(*steps[:4])) == list(range(30)) != list(chain(*steps[4:]))
    assert steps[4:] == optimizer_steps(prompts, 8, 2, seed=4)[4:]
    whole = optimizer_steps(prompts, 8, 1, seed=4, whole=True, in_order=True)
    assert list(chain(*whole)) == list(range(30)) and all(len(step) % 3 == 0 for step in whole)


@given(st.integers(0, 60), st.integers(1, 25), st.integers(1, 4))
def test_what_is_surely_in_the_first_step_is_the_most_that_can_be_known(there, batch_size, group):
    """However many rows come; beyond so many times the batch, steps differ less and less."""
    come = range(max(1, there), there + 3 * batch_size + 2)
    first = [len(optimizer_steps(range(num), batch_size, 1, 0, in_order=True)[0]) for num in come]
    assert surely_first(there, batch_size) == (min(first) if there else 0)
    # Groups that stay whole: those that end by then are in it too.
    known = surely_first(there, batch_size)
    for num in come:
        groups = [row // group for row in range(num)]
        step = optimizer_steps(groups, batch_size, 1, 0, whole=True, in_order=True)[0]
        assert len(step) >= known // group * group


# --- ranks --------------------------------------------------------------------------------------


def test_ranks_take_turns_at_the_longest():
    rows = single((1, 1), (9, 9), (5, 5), (8, 8))
    assert rank_micro_batches(rows, 1, 2) == [[[1], [2]], [[3], [0]]]


def test_a_rank_with_less_to_do_gets_empty_batches():
    assert rank_micro_batches(single((5, 5)) * 3, 10, 2) == [[[0], [2]], [[1], []]]
    assert rank_micro_batches(single((5, 5)), 10, 3) == [[[0]], [[]], [[]]]
    assert rank_micro_batches([], 10, 2) == [[], []]


@given(shapes, budgets, st.integers(1, 5))
def test_ranks_share_the_rows_out_and_meet_equally_often(rows, budget, num_ranks):
    ranks = rank_micro_batches(rows, budget, num_ranks)
    assert len(ranks) == num_ranks
    assert len({len(batches) for batches in ranks}) == 1
    shares = [list(chain(*batches)) for batches in ranks]
    assert sorted(chain(*shares)) == list(range(len(rows)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for batch in chain(*ranks):
        assert len(batch) <= 1 or padded_tokens([rows[i] for i in batch]) <= budget


def test_groups_that_stay_whole_are_in_one_step_each():
    groups = [row // 3 for row in range(30)]
    cut = optimizer_steps(groups, 4, 1, seed=4)
    assert any(len({groups[row] for row in step}) * 3 > len(step) for step in cut)
    whole = optimizer_steps(groups, 4, 1, seed=4, whole=True)
    assert all(len({groups[row] for row in step}) * 3 == len(step) for step in whole)
    assert sorted(chain(*whole)) == list(range(30))
    assert max(map(len, whole)) <= 6


def test_a_group_beyond_the_batch_is_one_step():
    assert optimizer_steps(["a"] * 10, 4, 2, seed=1, whole=True) == [list(range(10))] * 2
