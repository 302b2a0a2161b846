"""What a matrix of programs and tests makes of its rows: numbers worked out by hand, and orders."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.programs.ranking import (
    Choice,
    Score,
    b4,
    codedpo,
    dstc,
    dstc_pair,
    plum,
    scores,
    share,
)

MATRICES = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: st.lists(
        st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]),
        min_size=shape[0],
        max_size=shape[0],
    )
)


def test_plum_and_shares():
    passed = [[True, True], [True, False], [False, False]]
    assert plum(passed) == [1, 0, 0]
    assert share(passed) == [1, 0.5, 0]


def test_codedpo_after_one_round_and_two():
    passed = [[True, True], [True, False]]
    assert codedpo(passed, rounds=1) == pytest.approx([1.85, 1.0])
    # Divided by 1.85, tests are (1, 1/1.85) as codes are: .15 + .85 (1 + .540541), .15 * .540541 +
    # .85.
    assert codedpo(passed, rounds=2) == pytest.approx([1.459459, 0.931081], abs=1e-6)


def test_a_test_that_nobody_passes_never_counts():
    assert codedpo([[True, False], [False, False]])[1] < 1e-6
    assert codedpo([[True], [False]]) == pytest.approx(codedpo([[True, False], [False, False]]))


def test_b4():
    passed = [[True, True, False], [True, True, False], [True, False, False]]
    assert b4(passed) == pytest.approx([-38.643208, -38.643208, -68.109609], abs=1e-5)


def test_dstc():
    passed = [[True, True], [True, False], [False, False]]
    assert dstc_pair(passed) == (Choice(0, 0), Choice(2, 0))
    assert dstc(passed) == [1, 0.5, 0]
    assert dstc_pair([[True, False], [False, True]]) is None
    assert dstc([[True, True], [True, True]]) == [0.5, 0.5]


@given(MATRICES, st.sampled_from([Score.all, Score.share, Score.codedpo, Score.b4]))
def test_neither_order_matters(passed, score):
    expected = scores(passed, score)
    for order in list(permutations(range(len(passed))))[:6]:
        found = scores([passed[i] for i in order], score)
        assert found == pytest.approx([expected[i] for i in order])
    turned = [row[::-1] for row in passed]
    assert scores(turned, score) == pytest.approx(expected)


@given(MATRICES)
def test_of_two_programs_the_one_that_passes_more_of_the_same_is_never_worse(passed):
    found = codedpo(passed)
    for i, row in enumerate(passed):
        for j, other in enumerate(passed):
            if all(b or not a for a, b in zip(row, other, strict=True)):
                assert found[i] <= found[j] + 1e-9


def test_nobody_has_no_score():
    assert all(scores([], score) == [] for score in Score)
