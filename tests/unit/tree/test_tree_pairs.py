"""A tree's siblings as preferences: worked numbers, and what holds for every tree."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.algorithms.tree import TreeConfig
from rlhf.collecting.truncated import Truncated
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, DropReason, Prompt
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.pairs import label_smoothing, sibling_pairs
from rlhf.tree.settings import RejectedSibling, Search, StepValue

PROMPT = Prompt("sum", (), (5, 6))


def step(text: str) -> Completion:
    tokens = tuple(ord(character) for character in text)
    return Completion("sum", 0, tokens, (-0.5,) * len(tokens), text, False, 3)


def grown(tree: Tree, parent: Node, *siblings: tuple[str, float, int]) -> list[Node]:
    """Children with their Q and N; the first one is on the path."""
    children = [tree.add(parent, step(text), ended=False) for text, _, _ in siblings]
    for child, (_, q, visits) in zip(children, siblings, strict=True):
        child.q, child.visits = q, visits
    parent.expanded = True
    children[0].on_path = True
    return children


def config(**changes) -> TreeConfig:
    return TreeConfig(**{"min_gap": 0.1, **changes})


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [(12, 4, 0.25), (4, 12, 0.5), (5, 0, 1 / 6), (0, 0, 0.5), (1, 1, 0.5), (99, 1, 0.01)],
)
def test_labels_are_smoothed_by_visits(chosen: int, rejected: int, expected: float) -> None:
    """In the released code (5, 0) and (0, 0) have 0: a side that nobody tried is trusted most."""
    assert label_smoothing(chosen, rejected) == pytest.approx(expected)


@given(st.integers(0, 1000), st.integers(0, 1000))
def test_smoothing_is_at_most_a_half_and_falls_with_the_chosen_sides_visits(n: int, m: int) -> None:
    assert 0 < label_smoothing(n, m) <= 0.5
    assert label_smoothing(n + 1, m) <= label_smoothing(n, m)
    assert label_smoothing(n, m + 1) >= label_smoothing(n, m)


def test_a_smoothed_pairs_loss_is_that_of_cdpo() -> None:
    """ε 0.25, a margin of 2 nats, β 0.1: 0.6481389 (reference notes, section 8)."""
    one = torch.ones(1, dtype=torch.float64)
    policy = PairLogprobs(one * -3, one * -5, one * 4, one * 4)
    anchor = SideLogprobs(one * -4, one * -4)
    judged = Judged(one * (1 - label_smoothing(12, 4)), one, -one, one * 0, one * 0)
    loss = DPOConfig(beta=0.1).loss(Pairs(policy, {"initial": anchor}, judged))
    assert loss.item() == pytest.approx(0.6481389, abs=1e-7)


def test_what_siblings_share_belongs_to_their_prompt() -> None:
    tree = Tree.planted(PROMPT, 0)
    tree.judge = "verifier/last_line@1"
    first, _ = grown(tree, tree.root, ("46\n", 0.5, 12), ("47\n", -0.5, 4))
    grown(tree, first, ("99", 1.0, 3), ("98", -1.0, 1))
    (top, deep), dropped = sibling_pairs(tree, config())
    assert not dropped
    # "4" stands before either: it is in the prompt, and training begins behind it.
    assert top.prompt.token_ids == (5, 6, ord("4"))
    assert top.chosen.completion.token_ids == (ord("6"), ord("\n"))
    assert top.rejected.completion.token_ids == (ord("7"), ord("\n"))
    assert (top.chosen.text, top.rejected.text, top.prompt.prefix) == (
        "46\n",
        "47\n",
        "",
    )
    assert top.win_prob == 0.75
    assert (top.chosen.score, top.rejected.score, top.margin) == (0.5, -0.5, 1.0)
    assert top.judge == "verifier/last_line@1"
    assert deep.prompt.token_ids == (5, 6, *map(ord, "46\n9"))
    assert (deep.prompt.prefix, deep.prompt.num_prefix_tokens) == ("46\n", 4)
    assert deep.chosen.completion.token_ids == (ord("9"),)
    assert top.weight == deep.weight == 0.5


def test_a_step_takes_along_what_follows_it_without_alternative() -> None:
    tree = Tree.planted(PROMPT, 0)
    first, second = grown(tree, tree.root, ("a\n", 0.5, 2), ("b\n", 0.0, 2))
    (only,) = grown(tree, first, ("c\n", 0.5, 2))
    grown(tree, only, ("d", 0.5, 1), ("e", 0.1, 1))
    pairs, dropped = sibling_pairs(tree, config())
    assert [(p.chosen.text, p.rejected.text) for p in pairs] == [
        ("a\nc\n", "b\n"),
        ("d", "e"),
    ]
    assert [one.reason for one in dropped] == [DropReason.SHORT_GROUP]
    assert second.children == []


@pytest.mark.parametrize(
    ("visits", "gap", "reason"),
    [
        ((3, 0), 0.5, DropReason.UNVISITED),
        ((0, 3), 0.5, DropReason.UNVISITED),
        ((3, 3), 0.09, DropReason.TIE),
        ((3, 3), 0.0, DropReason.TIE),
        ((3, 3), 0.1, None),
    ],
)
def test_what_is_too_uncertain_is_dropped_and_counted(visits, gap, reason) -> None:
    tree = Tree.planted(PROMPT, 0)
    grown(tree, tree.root, ("a", 0.3 + gap, visits[0]), ("b", 0.3, visits[1]))
    pairs, dropped = sibling_pairs(tree, config())
    assert [one.reason for one in dropped] == ([reason] if reason else [])
    assert len(pairs) == (reason is None)


def test_a_whole_answer_needs_no_visit() -> None:
    tree = Tree.planted(PROMPT, 0)
    right, wrong = grown(tree, tree.root, ("a", 1.0, 3), ("b", -1.0, 0))
    wrong.ended, wrong.value = True, -1.0
    (pair,) = sibling_pairs(tree, config())[0]
    assert pair.win_prob == pytest.approx(0.75), "as if it had been tried once"
    wrong.ended, right.ended, right.value, right.visits = False, True, 1.0, 0
    assert [d.reason for d in sibling_pairs(tree, config())[1]] == [DropReason.UNVISITED]


def test_a_judge_that_failed_makes_no_pair_and_is_counted() -> None:
    """In MCTS of whole answers, in best-first search of every step without a share."""
    tree = Tree.planted(PROMPT, 0)
    unknown, wrong, right = grown(tree, tree.root, ("a", 0, 3), ("b", -1, 3), ("c", 1, 3))
    for node, value in ((unknown, None), (wrong, -1.0), (right, 1.0)):
        node.ended, node.value = True, value
        node.score = None if value is None else (value + 1) / 2
    pairs, dropped = sibling_pairs(tree, config(rejected=RejectedSibling.all))
    assert [(p.chosen.text, p.rejected.text) for p in pairs] == [("c", "b")]
    assert [d.reason for d in dropped] == [DropReason.JUDGE_FAILED]
    for node in tree.root.children:
        node.ended = False
    best_first = config(rejected=RejectedSibling.all, search=Search.best_first)
    assert [(p.chosen.text, p.rejected.text) for p in sibling_pairs(tree, best_first)[0]] == [
        ("c", "b")
    ]
    wrong.score = None
    pairs, dropped = sibling_pairs(tree, best_first)
    assert not pairs
    assert [d.reason for d in dropped] == [DropReason.JUDGE_FAILED] * 2 + [DropReason.SHORT_GROUP]


@pytest.mark.parametrize(
    ("value", "score", "reason"),
    [
        (StepValue.self_evaluation, 0.0, DropReason.ALL_WRONG),
        (StepValue.self_evaluation, 1.0, None),
        (StepValue.judge, 0.0, None),
    ],
)
def test_without_a_right_answer_the_policys_opinion_of_itself_teaches_nothing(
    value: StepValue, score: float, reason: DropReason | None
) -> None:
    tree = Tree.planted(PROMPT, 0)
    first, _ = grown(tree, tree.root, ("a\n", 0.9, 3), ("b\n", 0.1, 3))
    (end,) = grown(tree, first, ("x", 0.5, 3))
    end.ended, end.value, end.score = True, 2 * score - 1, score
    pairs, dropped = sibling_pairs(tree, config(value=value))
    assert len(pairs) == (reason is None)
    assert [d.reason for d in dropped] == ([reason] if reason else []) + [DropReason.SHORT_GROUP]


@pytest.mark.parametrize("truncated", [Truncated.penalise, Truncated.keep])
def test_what_never_ends_is_not_chosen_unless_it_may_be(truncated: Truncated) -> None:
    tree = Tree.planted(PROMPT, 0)
    cut, _ = grown(tree, tree.root, ("a", 0.9, 3), ("b", 0.1, 3))
    cut.step = replace(cut.step, truncated=True)
    cut.ended, cut.value = True, 0.9
    pairs, dropped = sibling_pairs(tree, config(truncated=truncated))
    assert len(pairs) == (truncated is Truncated.keep)
    assert [d.reason for d in dropped] == [DropReason.TRUNCATED] * (1 - len(pairs))


def test_a_gap_of_fractions_is_reached_exactly() -> None:
    """7/8 against 4/8 is 0.375 (Tree-PLV), and so it is for shares that no float can hold."""
    tree = Tree.planted(PROMPT, 0)
    grown(tree, tree.root, ("a", 2 / 3, 8), ("b", 2 / 3 - 0.375 + 1e-17, 8))
    assert len(sibling_pairs(tree, config(min_gap=0.375))[0]) == 1


def test_without_a_minimum_equal_q_are_ties_all_the_same() -> None:
    tree = Tree.planted(PROMPT, 0)
    grown(tree, tree.root, ("a", 0.3, 1), ("b", 0.3, 1))
    assert [d.reason for d in sibling_pairs(tree, config(min_gap=0.0))[1]] == [DropReason.TIE]


def test_which_sibling_is_rejected() -> None:
    tree = Tree.planted(PROMPT, 7)
    siblings = [("a", 0.9, 1), ("b", 0.5, 1), ("c", 0.1, 1), ("d", -0.5, 1)]
    grown(tree, tree.root, *siblings)

    def rejected(how: RejectedSibling) -> list[str]:
        return [pair.rejected.text for pair in sibling_pairs(tree, config(rejected=how))[0]]

    assert rejected(RejectedSibling.worst) == ["d"]
    assert rejected(RejectedSibling.all) == ["b", "c", "d"]
    (drawn,) = rejected(RejectedSibling.random)
    assert drawn in "bcd"
    assert [drawn] == rejected(RejectedSibling.random), "drawn with the tree's seed"


def test_pairs_stand_along_the_path_unless_the_whole_tree_is_asked_for() -> None:
    tree = Tree.planted(PROMPT, 0)
    _, second = grown(tree, tree.root, ("a\n", 0.5, 2), ("b\n", 0.0, 2))
    for child in grown(tree, second, ("x", 0.5, 1), ("y", 0.1, 1)):
        child.on_path = False
    assert [p.chosen.text for p in sibling_pairs(tree, config())[0]] == ["a\n"]
    everywhere, _ = sibling_pairs(tree, config(whole_tree=True))
    assert [p.chosen.text for p in everywhere] == ["a\n", "x"]
    assert math.isclose(sum(p.weight for p in everywhere), 1)


@given(st.lists(st.tuples(st.text("ab", min_size=1, max_size=4), st.floats(-1, 1)), max_size=5))
def test_both_sides_keep_a_token_and_differ_at_the_first(siblings) -> None:
    tree = Tree.planted(PROMPT, 0)
    texts = dict(siblings)
    if texts:
        grown(tree, tree.root, *((text, q, 1) for text, q in texts.items()))
    for pair in sibling_pairs(tree, config(rejected=RejectedSibling.all))[0]:
        a, b = pair.chosen.completion.token_ids, pair.rejected.completion.token_ids
        assert a and b
        assert len(a) == len(pair.chosen.completion.logprobs)
        begins = pair.chosen.text.startswith(pair.rejected.text)
        ends = pair.rejected.text.startswith(pair.chosen.text)
        assert a[0] != b[0] or begins or ends
        whole = (*pair.prompt.token_ids, *a)
        assert whole == (*PROMPT.token_ids, *map(ord, pair.chosen.text))


# --- steps with calls -----------------------------------------------------------------------------

marked = st.lists(
    st.tuples(st.text("ab", min_size=1, max_size=3), st.booleans()), max_size=4
).filter(lambda parts: any(not observed for _, observed in parts))
"""What stands in a step, part by part, each with whether a tool wrote it; some of it none did."""


def step_of(parts: list[tuple[str, bool]]) -> Completion:
    whole = Completion("sum", 0, (), (), "", False, 3)
    for text, observed in parts:
        part = step(text)
        if observed:
            part = replace(part, observed=((0, len(text)),), logprobs=(0.0,) * len(text))
        whole = whole.followed_by(part)
    return whole


def marks(completion: Completion) -> list[bool]:
    """For every token, whether a tool wrote it."""
    places = range(len(completion.token_ids))
    return [any(start <= i < end for start, end in completion.observed) for i in places]


@given(st.lists(marked, min_size=2, max_size=4), marked)
def test_both_sides_keep_a_token_of_the_policy_and_every_mark_stays(siblings, after) -> None:
    tree = Tree.planted(PROMPT, 0)
    for place, parts in enumerate(siblings):
        child = tree.add(tree.root, step_of(parts), ended=False)
        child.q, child.visits = float(-place), 1
    tree.add(tree.root.children[0], step_of(after), ended=True)
    whole = [step_of(parts) for parts in (siblings[0] + after, *siblings[1:])]
    pairs, _ = sibling_pairs(tree, config(rejected=RejectedSibling.all))
    assert len(pairs) == len(siblings) - 1
    for pair in pairs:
        chosen, rejected = whole[0], whole[pair.rejected.completion.sample - 1]
        num_shared = len(pair.prompt.token_ids) - len(PROMPT.token_ids)
        for one, before in ((pair.chosen, chosen), (pair.rejected, rejected)):
            side = one.completion
            assert side.num_own_tokens >= 1
            assert side.token_ids == before.token_ids[num_shared:]
            assert marks(side) == marks(before)[num_shared:]
            assert side.num_own_tokens == marks(side).count(False)
            assert [nats == 0.0 for nats in side.logprobs] == marks(side)
        a, b = (list(side.completion.token_ids) for side in pair.sides)
        all_shared = a[0] == b[0]
        assert not all_shared or 1 in (
            pair.chosen.completion.num_own_tokens,
            pair.rejected.completion.num_own_tokens,
        )


def test_a_side_that_differs_in_what_follows_a_result_alone_begins_there() -> None:
    tree = Tree.planted(PROMPT, 0)
    call = [("<<1+2=", False), ("3>>", True)]
    for q, last in ((1.0, "3"), (0.0, "4")):
        child = tree.add(tree.root, step_of([*call, (last, False)]), ended=True)
        child.q = child.value = q
    tree.root.children[0].on_path = True
    (pair,), _ = sibling_pairs(tree, config())
    assert pair.prompt.token_ids == (5, 6, *map(ord, "<<1+2=3>>"))
    assert [side.tokens.observed for side in pair.sides] == [(), ()]
    assert pair.chosen.completion.token_ids == (ord("3"),)


def test_a_call_is_a_sides_own_beginning_if_nothing_follows_its_result() -> None:
    tree = Tree.planted(PROMPT, 0)
    call = [("<<1+2=", False), ("3>>", True)]
    for q, more in ((1.0, [("3", False)]), (0.0, [])):
        child = tree.add(tree.root, step_of([*call, *more]), ended=True)
        child.q = child.value = q
    (pair,), _ = sibling_pairs(tree, config())
    assert pair.chosen.completion.token_ids == tuple(map(ord, "=3>>3"))
    assert pair.rejected.completion.token_ids == tuple(map(ord, "=3>>"))
    assert [side.tokens.observed for side in pair.sides] == [((1, 4),), ((1, 4),)]
