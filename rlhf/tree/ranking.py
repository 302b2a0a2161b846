"""A search tree's whole answers as one ranked list, as in TPO (Liao et al. 2024, arXiv 2410.12854).

Where its lists come from a language model that grades five answers, here the tree grades them: by
what became of everything that began like them.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from rlhf.records import Completion, Dropped, DropReason, Emphasis, Preference
from rlhf.tree.nodes import Node, Tree
from rlhf.tree.pairs import is_tie
from rlhf.tree.settings import StepValue, TreeSettings

_SCALES = {
    StepValue.outcome: (-1.0, 1.0),
    StepValue.self_evaluation: (-1.0, 2.0),
    StepValue.judge: (0.0, 1.0),
}


def ranked_pairs(
    tree: Tree, config: TreeSettings
) -> tuple[tuple[Preference, ...], tuple[Dropped, ...]]:
    """Every answer of the list over every one that is worth less, weights summing to 1.

    Scores of sides are worths. SHORT_GROUP counts a tree with a single answer, JUDGE_FAILED an
    answer without a score, TIE a pair whose worths are too near.
    """
    known, dropped = [], []
    for node in _distinct(tree):
        if node.score is None:
            dropped.append(Dropped(DropReason.JUDGE_FAILED, tree.answer(node)))
        else:
            known.append(node)

    def value(node: Node) -> float:
        return worth(node, config.value)

    listed = _spread(sorted(known, key=value, reverse=True), config.list_size)
    if len(listed) < 2:
        return (), (*dropped, Dropped(DropReason.SHORT_GROUP))
    answers = [(value(node), tree.answer(node), _emphasis(node, listed[0])) for node in listed]
    pairs = []
    for better, worse in combinations(answers, 2):
        if is_tie(better[0] - worse[0], config.min_gap):
            dropped.append(Dropped(DropReason.TIE, better[1], worse[1]))
        else:
            pairs.append((better, worse))
    preferences = tuple(
        Preference.over(
            prompt=tree.prompt,
            chosen=chosen,
            rejected=rejected,
            chosen_score=chosen_worth,
            rejected_score=rejected_worth,
            judge=tree.judge,
            weight=1 / len(pairs),
            emphasis=(chosen_emphasis, rejected_emphasis),
        )
        for (chosen_worth, chosen, chosen_emphasis), (rejected_worth, rejected, rejected_emphasis)
        in pairs
    )  # fmt: skip
    return preferences, tuple(dropped)


def worth(node: Node, scale: StepValue = StepValue.outcome) -> float:
    """Of a whole answer, from 0 to 1: the mean over its steps of what is expected after each.

    A right answer whose beginnings mostly led to wrong ones is worth less than one on a safe way,
    and a wrong answer more if it went wrong late. `scale` says between what values lie.
    """
    low, high = _SCALES[scale]
    expected = [step.estimate + step.below for step in node.way_up if step.step is not None]
    shares = [min(max((value - low) / (high - low), 0.0), 1.0) for value in expected]
    return sum(shares) / len(shares)


def step_weight(step: Completion, other: Completion | None) -> float:
    """(1 + cosine)/2 of two steps by their tokens' counts: 1 for equal ones, 1/2 without any token
    in common, or without another step.

    The paper's weight is twice that, of embeddings of the steps.
    """
    if other is not None and step.token_ids == other.token_ids:
        return 1.0  # exactly, however the cosine is rounded
    a, b = Counter(step.token_ids), Counter(other.token_ids if other else ())
    product = sum(count * b[token] for token, count in a.items())
    lengths = math.hypot(*a.values()) * math.hypot(*b.values())
    return (1 + product / lengths) / 2 if lengths else 0.5


def _emphasis(node: Node, best: Node) -> Emphasis:
    """Every step of an answer by how much it resembles that of the best answer in its place."""
    steps, others = node.steps, best.steps
    places, start = [], 0
    for i, step in enumerate(steps):
        end = start + len(step.token_ids)
        places.append((start, end, step_weight(step, others[i] if i < len(others) else None)))
        start = end
    return tuple(places)


def _distinct(tree: Tree) -> list[Node]:
    """Whole answers, of equal texts the first; the same may be reached on several ways."""
    first: dict[str, Node] = {}
    for node in tree.answers:
        if node.step is not None:
            first.setdefault(tree.answer(node).text, node)
    return list(first.values())


def _spread(ranked: Sequence[Node], size: int) -> list[Node]:
    """At most `size` of them at equal distances, the first and the last among them."""
    if len(ranked) <= size:
        return list(ranked)
    return [ranked[round(i * (len(ranked) - 1) / (size - 1))] for i in range(size)]
