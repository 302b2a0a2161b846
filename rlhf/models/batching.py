"""Which rows share a forward pass, and which pairs an optimizer step.

Pure index arithmetic, the same on every rank, so ranks need not talk to agree.
"""

import random
from collections.abc import Callable, Hashable, Sequence
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple, TypeVar

Row = TypeVar("Row", bound=Hashable)


class Shape(NamedTuple):
    """What a row, or some that stay together, come to in a forward pass."""

    prompt: int
    """Tokens of the longest."""
    completion: int
    """Tokens of the longest."""
    num_rows: int = 1

    @property
    def width(self) -> int:
        return self.prompt + self.completion

    def beside(self, other: "Shape") -> "Shape":
        """Both in one forward pass."""
        return Shape(
            max(self.prompt, other.prompt),
            max(self.completion, other.completion),
            self.num_rows + other.num_rows,
        )


def micro_batches(shapes: Sequence[Shape], budget_tokens: int) -> list[list[int]]:
    """Indices packed, longest first, so that `rows x (widest prompt + widest completion)` stays
    within the budget; what is beyond it by itself travels alone."""
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i].width, i))
    batches = consecutive([shapes[i] for i in order], budget_tokens)
    return [[order[place] for place in batch] for batch in batches]


def consecutive(shapes: Sequence[Shape], budget_tokens: int) -> list[list[int]]:
    """Indices packed as by `micro_batches`, but in their order: what comes first is done first."""
    batches: list[list[int]] = []
    whole = Shape(0, 0, 0)
    for i, shape in enumerate(shapes):
        wider = whole.beside(shape)
        if batches and wider.num_rows * wider.width <= budget_tokens:
            batches[-1].append(i)
            whole = wider
        else:
            batches.append([i])
            whole = shape
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


def halved(rows: list[int], too_large: Callable[[list[int]], bool]) -> list[list[int]]:
    """The rows in parts, each cut in the middle until it is no longer too large."""
    if not too_large(rows):
        return [rows]
    middle = len(rows) // 2
    return halved(rows[:middle], too_large) + halved(rows[middle:], too_large)


def optimizer_steps(
    groups: Sequence[Hashable],
    batch_size: int,
    epochs: int,
    seed: int,
    whole: bool = False,
    in_order: bool = False,
) -> list[list[int]]:
    """Rows of each optimizer step: every epoch a new order, cut into steps of nearly equal size;
    with `in_order` the first epoch has that of the rows.

    `groups` names the group of each row, its prompt: a group stays together, so that a completion
    of several pairs is computed in one step and not in all. Where two steps meet, one group may be
    in both, unless groups are to stay `whole`. Equal rather than full steps with a small rest: a
    step of three pairs is mostly noise.
    """
    steps: list[list[int]] = []
    for epoch in range(epochs):
        if in_order and epoch == 0:
            parts = [list(part) for _, part in groupby(range(len(groups)), groups.__getitem__)]
        else:
            parts = together(groups)
            random.Random(seed + epoch).shuffle(parts)
        order = [row for group in parts for row in group]
        num_steps = -(-len(order) // batch_size)
        cuts = [len(order) * i // num_steps for i in range(num_steps + 1)] if order else []
        if whole and order:
            ends = [0, *accumulate(map(len, parts))]
            cuts = [min(ends, key=lambda end: abs(end - cut)) for cut in cuts]
        steps += [order[a:b] for a, b in pairwise(cuts) if a < b]
    return steps


def surely_first(num_rows: int, batch_size: int) -> int:
    """Of a first epoch's rows in order, of which so many are there and more may come, how many its
    first step has however many will come."""
    steps = max(1, -(-num_rows // batch_size))
    # A step's size grows with the rows, and is least where one more row makes one step more.
    return min(num_rows // steps, (steps * batch_size + 1) // (steps + 1))


def rank_micro_batches(
    shapes: Sequence[Shape], budget_tokens: int, num_ranks: int
) -> list[list[list[int]]]:
    """Each rank's micro-batches of one optimizer step, the same number for every rank.

    Ranks meet in collectives at every micro-batch, so a rank with less to do gets empty ones.
    """
    order = sorted(range(len(shapes)), key=lambda i: (-shapes[i].width, i))
    ranks = []
    for rank in range(num_ranks):
        mine = order[rank::num_ranks]
        packed = micro_batches([shapes[i] for i in mine], budget_tokens)
        ranks.append([[mine[i] for i in batch] for batch in packed])
    most = max(len(batches) for batches in ranks)
    return [batches + [[]] * (most - len(batches)) for batches in ranks]
