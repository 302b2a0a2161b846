"""A tree's whole answers as a ranked list: worked numbers, and what holds for every tree."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_trees import random_tree

from rlhf.algorithms.tree import TreeConfig
from rlhf.records import Completion, DropReason, Prompt
from rlhf.tree.mcts import back_up
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.ranking import ranked_pairs, step_weight, worth
from rlhf.tree.settings import StepValue, TreePairs

PROMPT = Prompt("sum", (), (5, 6))


def config(**changes) -> TreeConfig:
    return TreeConfig(**{"pairs": TreePairs.ranked, "min_gap": 0.0, **changes})


def step(text: str) -> Completion:
    tokens = tuple(map(ord, text))
    return Completion("sum", 0, tokens, (-0.5,) * len(tokens), text, False, 3)


def answer(tree: Tree, parent: Node, text: str, score: float | None) -> Node:
    node = tree.add(parent, step(text), ended=True)
    node.score = score
    node.value = None if score is None else 2 * score - 1
    return node


def searched() -> tuple[Tree, dict[str, Node]]:
    """`a` leads to a right and a wrong answer, `b` to two wrong ones; each is tried once."""
    tree = Tree.planted(PROMPT, 0)
    tree.judge = "verifier/last_line@1"
    a, b = (tree.add(tree.root, step(text), ended=False) for text in ("a\n", "b\n"))
    ends = {text: answer(tree, parent, text[-1], score) for text, parent, score in (
        ("a\nx", a, 1.0), ("a\ny", a, 0.0), ("b\nx", b, 0.0), ("b\nz", b, 0.0)
    )}  # fmt: skip
    for node in ends.values():
        node.update()
    for node in ends.values():
        place: Node | None = node
        while place:
            place.pending += 1
            place = place.parent
        back_up(node, tree.root)
    return tree, ends


def test_an_answer_is_worth_what_became_of_its_beginnings() -> None:
    """After `a` half of the answers are right, after `b` none."""
    _, ends = searched()
    assert {text: worth(node) for text, node in ends.items()} == pytest.approx(
        {"a\nx": (0.5 + 1) / 2, "a\ny": (0.5 + 0) / 2, "b\nx": 0.0, "b\nz": 0.0}
    )


def test_better_answers_stand_over_worse_ones_and_ties_are_counted() -> None:
    tree, _ = searched()
    pairs, dropped = ranked_pairs(tree, config())
    assert [(p.chosen.text, p.rejected.text) for p in pairs] == [
        ("a\nx", "a\ny"), ("a\nx", "b\nx"), ("a\nx", "b\nz"), ("a\ny", "b\nx"), ("a\ny", "b\nz"),
    ]  # fmt: skip
    assert [(d.reason, d.chosen.text, d.rejected.text) for d in dropped] == [
        (DropReason.TIE, "b\nx", "b\nz")
    ]
    assert (pairs[0].chosen.score, pairs[0].rejected.score) == (0.75, 0.25)
    assert math.isclose(sum(p.weight for p in pairs), 1)
    assert {p.prompt for p in pairs} == {PROMPT} and {p.judge for p in pairs} == {tree.judge}
    assert {p.win_prob for p in pairs} == {1.0}


def test_steps_weigh_by_how_much_they_resemble_those_of_the_best_answer() -> None:
    tree, _ = searched()
    pairs, _ = ranked_pairs(tree, config())
    emphasis = {p.rejected.text: p.rejected.emphasis for p in pairs} | {
        p.chosen.text: p.chosen.emphasis for p in pairs
    }
    assert emphasis["a\nx"] == ((0, 2, 1.0), (2, 3, 1.0)), "the best resembles itself"
    assert emphasis["a\ny"] == ((0, 2, 1.0), (2, 3, 0.5))
    # `b` and a newline against `a` and a newline: cosine 1/2.
    assert emphasis["b\nx"] == (pytest.approx((0, 2, 0.75)), (2, 3, 1.0))


@pytest.mark.parametrize(
    ("scale", "value", "expected"),
    [
        (StepValue.outcome, 0.5, 0.75),
        (StepValue.judge, 0.82, 0.82),
        (StepValue.self_evaluation, 2.0, 1.0),
        (StepValue.self_evaluation, 1.4, 0.8),
    ],
)
def test_worths_are_on_one_scale_whatever_the_values(scale, value, expected) -> None:
    tree = Tree.planted(PROMPT, 0)
    node = answer(tree, tree.root, "a", 1.0)
    node.value = value
    assert worth(node, scale) == pytest.approx(expected)


def test_the_weight_of_a_step() -> None:
    assert step_weight(step("aab"), step("baa")) == pytest.approx(1.0)
    assert step_weight(step("aab"), step("b")) == pytest.approx((1 + 1 / math.sqrt(5)) / 2)
    assert step_weight(step("ab"), step("cd")) == step_weight(step("ab"), None) == 0.5


def test_a_list_holds_the_best_and_the_worst_and_what_lies_between() -> None:
    tree = Tree.planted(PROMPT, 0)
    for i in range(9):
        answer(tree, tree.root, str(i), i / 8)
    pairs, dropped = ranked_pairs(tree, config(list_size=3))
    assert not dropped
    assert [(p.chosen.text, p.rejected.text) for p in pairs] == [
        ("8", "4"),
        ("8", "0"),
        ("4", "0"),
    ]
    near, ties = ranked_pairs(tree, config(list_size=3, min_gap=0.6))
    assert [p.rejected.text for p in near] == ["0"]
    assert [d.reason for d in ties] == [DropReason.TIE] * 2


def test_what_has_no_score_and_what_stands_alone_is_counted() -> None:
    tree = Tree.planted(PROMPT, 0)
    answer(tree, tree.root, "a", 1.0)
    answer(tree, tree.root, "b", None)
    pairs, dropped = ranked_pairs(tree, config())
    assert not pairs
    assert [d.reason for d in dropped] == [DropReason.JUDGE_FAILED, DropReason.SHORT_GROUP]


def test_one_text_on_two_ways_is_one_answer() -> None:
    tree = Tree.planted(PROMPT, 0)
    begun = tree.add(tree.root, step("a"), ended=False)
    answer(tree, begun, "b", 1.0)
    answer(tree, tree.root, "ab", 1.0)
    answer(tree, tree.root, "c", 0.0)
    pairs, _ = ranked_pairs(tree, config())
    assert [(p.chosen.text, p.rejected.text) for p in pairs] == [("ab", "c")]


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 6))
def test_every_list_is_ordered_and_weighs_one(seed: int, num_nodes: int, size: int) -> None:
    tree = random_tree(seed, num_nodes)
    pairs, dropped = ranked_pairs(tree, config(list_size=size))
    scored = {tree.answer(n).text for n in tree.answers if n.step and n.score is not None}
    num_listed = min(size, len(scored))
    num_ties = sum(d.reason is DropReason.TIE for d in dropped)
    if num_listed >= 2:
        assert len(pairs) + num_ties == num_listed * (num_listed - 1) // 2
    assert all(0 <= p.rejected.score < p.chosen.score <= 1 for p in pairs)
    for pair in pairs:
        for side, emphasis in ((side.completion, side.emphasis) for side in pair.sides):
            places = [place for start, end, _ in emphasis for place in range(start, end)]
            assert places == list(range(len(side.token_ids))), "every token has one weight"
            assert all(0.5 <= weight <= 1 + 1e-9 for *_, weight in emphasis)
    if pairs:
        assert math.isclose(sum(p.weight for p in pairs), 1)
