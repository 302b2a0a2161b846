"""Siblings of a search tree into preferences.

The beginning that two siblings share belongs to their prompt, so that what is trained on begins at
the first token in which they differ.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile

from rlhf.collecting.truncated import Truncated
from rlhf.records import Completion, Dropped, DropReason, Preference
from rlhf.tree.nodes import Node, Tree, chain
from rlhf.tree.settings import RejectedSibling, Search, StepValue, TreeSettings

_EPSILON = 1e-9
"""Shares of look-aheads are fractions: 7/8 - 4/8 reaches a gap of 0.375."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One side of a would-be pair: a sibling, with what follows it without alternative."""

    node: Node
    completion: Completion


def sibling_pairs(
    tree: Tree, config: TreeSettings
) -> tuple[tuple[Preference, ...], tuple[Dropped, ...]]:
    """Preferences among the children of the nodes that were moved through, weights summing to 1.

    One per node, or with rejected=all one per child that is not the best. SHORT_GROUP counts a node
    without a second child, JUDGE_FAILED one of which nobody knows what it is worth, TIE a pair
    whose Q are too near, UNVISITED one of which a side goes on and was not tried often enough,
    TRUNCATED one whose chosen side never ends, ALL_WRONG one of a tree without a right answer,
    where the policy's opinion of itself is all that tells its sides apart.
    """
    is_hopeless = config.value is StepValue.self_evaluation and not any(
        node.score for node in tree.answers
    )
    pairs: list[tuple[Node, Candidate, Candidate]] = []
    dropped: list[Dropped] = []
    grown = [node for node in tree.nodes if node.children and (node.on_path or config.whole_tree)]
    for node in grown:
        known = [child for child in node.children if not _has_failed(child, config)]
        num_failed = len(node.children) - len(known)
        dropped += [Dropped(DropReason.JUDGE_FAILED)] * num_failed
        if len(known) < 2:
            dropped.append(Dropped(DropReason.SHORT_GROUP))
            continue
        best, *others = sorted(known, key=_rank, reverse=True)
        for other in _rejected(others, config.rejected, tree.seed + node.index):
            chosen, rejected = _candidate(best), _candidate(other)
            reason = _reason_to_drop(chosen, rejected, config)
            if reason := reason or (DropReason.ALL_WRONG if is_hopeless else None):
                dropped.append(Dropped(reason, chosen.completion, rejected.completion))
            else:
                pairs.append((node, chosen, rejected))
    preferences = tuple(
        _preference(tree, node, chosen, rejected, config, 1 / len(pairs))
        for node, chosen, rejected in pairs
    )
    return preferences, tuple(dropped)


def label_smoothing(chosen_visits: int, rejected_visits: int) -> float:
    """ε: how doubtful a label is, from 0 to 1/2, by how often either side was tried.

    Xie et al. 2024 (arXiv 2405.00451, Section 2.2): ε = 1 - 1/(1 + N_rejected/N_chosen). A side
    that was never tried counts as tried once: the paper's formula would trust it most of all.
    """
    ratio = max(1, rejected_visits) / max(1, chosen_visits)
    return min(1 - 1 / (1 + ratio), 0.5)


def is_tie(gap: float, min_gap: float) -> bool:
    """Whether one side is not better by enough, or not better at all."""
    return gap <= 0 or gap + _EPSILON < min_gap


def _rank(node: Node) -> tuple[float, float, float, float, int, int]:
    """By Q, then as the released code breaks ties; the first drawn of all that is equal."""
    return node.q, node.prior, node.reward, node.estimate, node.visits, -node.index


def _rejected(others: Sequence[Node], how: RejectedSibling, seed: int) -> Sequence[Node]:
    if how is RejectedSibling.all:
        return others
    if how is RejectedSibling.random:
        return [random.Random(seed).choice(others)]
    return [others[-1]]


def _has_failed(node: Node, config: TreeSettings) -> bool:
    """Whether a judge did not answer, in best-first search about every look-ahead."""
    return node.has_failed or (config.search is Search.best_first and node.score is None)


def _reason_to_drop(
    chosen: Candidate, rejected: Candidate, config: TreeSettings
) -> DropReason | None:
    best, other = chosen.node, rejected.node
    # Of a whole answer the judge has said all that visits could tell.
    if any(node.visits < config.min_visits and not node.ended for node in (best, other)):
        return DropReason.UNVISITED
    if is_tie(best.q - other.q, config.min_gap):
        return DropReason.TIE
    if chosen.completion.truncated and config.truncated is Truncated.penalise:
        return DropReason.TRUNCATED
    return None


def _candidate(node: Node) -> Candidate:
    steps = (link.step for link in chain(node) if link.step is not None)
    return Candidate(node, replace(reduce(Completion.followed_by, steps), sample=node.index))


def _preference(
    tree: Tree,
    node: Node,
    chosen: Candidate,
    rejected: Candidate,
    config: TreeSettings,
    weight: float,
) -> Preference:
    a, b = chosen.completion, rejected.completion
    # Either side keeps a token of the policy, should one be the beginning of the other.
    most = min(_last_own(a), _last_own(b))
    same = (left == right for left, right in zip(a.token_ids, b.token_ids, strict=False))
    num_shared = min(sum(takewhile(bool, same)), most)
    smoothing = 0.0
    if config.smooth_labels:
        smoothing = label_smoothing(chosen.node.visits, rejected.node.visits)
    return Preference.over(
        prompt=tree.begun(node, a.token_ids[:num_shared]),
        chosen=a.between(num_shared, len(a.token_ids)),
        rejected=b.between(num_shared, len(b.token_ids)),
        chosen_score=chosen.node.q,
        rejected_score=rejected.node.q,
        judge=tree.judge,
        weight=weight,
        win_prob=1 - smoothing,
    )


def _last_own(completion: Completion) -> int:
    """Where the last token stands that no tool wrote."""
    place = len(completion.token_ids) - 1
    for start, end in reversed(completion.observed):
        if end <= place:
            break
        place = start - 1
    return place
