"""Which rows share a forward pass, and which pairs an optimizer step.

Pure index arithmetic, the same on every rank, so ranks need not talk to agree.
"""

import random
from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise
from typing import TypeVar

Row = TypeVar("Row", bound=Hashable)


def micro_batches(widths: Sequence[tuple[int, int]], budget_tokens: int) -> list[list[int]]:
    """Indices packed, longest first, so that `rows x (widest prompt + widest completion)` stays
    within the budget; a row beyond it travels alone.

    `widths`: (prompt tokens, completion tokens) of each row.
    """
    order = sorted(range(len(widths)), key=lambda i: (-sum(widths[i]), i))
    batches: list[list[int]] = []
    width_P = width_C = 0
    for i in order:
        prompt, completion = widths[i]
        wider_P, wider_C = max(width_P, prompt), max(width_C, completion)
        if batches and (len(batches[-1]) + 1) * (wider_P + wider_C) <= budget_tokens:
            batches[-1].append(i)
            width_P, width_C = wider_P, wider_C
        else:
            batches.append([i])
            width_P, width_C = prompt, completion
    return batches


def unique(rows: Sequence[Row]) -> tuple[list[Row], list[int]]:
    """The distinct rows, and for each of `rows` where it stands among them.

    A completion that is in many pairs is computed once.
    """
    place: dict[Row, int] = {}
    places = [place.setdefault(row, len(place)) for row in rows]
    return list(place), places


def together(groups: Sequence[Hashable]) -> list[list[int]]:
    """The rows of each group, groups in the order of their first rows."""
    members: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        members.setdefault(group, []).append(row)
    return list(members.values())


def optimizer_steps(
    groups: Sequence[Hashable], batch_size: int, epochs: int, seed: int, whole: bool = False
) -> list[list[int]]:
    """Rows of each optimizer step: every epoch a new order, cut into steps of nearly equal size.

    `groups` names the group of each row, its prompt: a group stays together, so that a completion
    of several pairs is computed in one step and not in all. Where two steps meet, one group may be
    in both, unless groups are to stay `whole`. Equal rather than full steps with a small rest: a
    step of three pairs is mostly noise.
    """
    steps: list[list[int]] = []
    for epoch in range(epochs):
        shuffled = together(groups)
        random.Random(seed + epoch).shuffle(shuffled)
        order = [row for group in shuffled for row in group]
        num_steps = -(-len(order) // batch_size)
        cuts = [len(order) * i // num_steps for i in range(num_steps + 1)] if order else []
        if whole and order:
            ends = [0, *accumulate(map(len, shuffled))]
            cuts = [min(ends, key=lambda end: abs(end - cut)) for cut in cuts]
        steps += [order[a:b] for a, b in pairwise(cuts) if a < b]
    return steps


def rank_micro_batches(
    widths: Sequence[tuple[int, int]], budget_tokens: int, num_ranks: int
) -> list[list[list[int]]]:
    """Each rank's micro-batches of one optimizer step, the same number for every rank.

    Ranks meet in collectives at every micro-batch, so a rank with less to do gets empty ones.
    """
    order = sorted(range(len(widths)), key=lambda i: (-sum(widths[i]), i))
    ranks = []
    for rank in range(num_ranks):
        mine = order[rank::num_ranks]
        packed = micro_batches([widths[i] for i in mine], budget_tokens)
        ranks.append([[mine[i] for i in batch] for batch in packed])
    most = max(len(batches) for batches in ranks)
    return [batches + [[]] * (most - len(batches)) for batches in ranks]
