"""Best-first search by look-ahead success rates, as in Tree-PLV (He et al. 2024, arXiv
2407.00390)."""

import asyncio
from collections.abc import Awaitable, Callable

from rlhf.tree.mcts import Grow
from rlhf.tree.nodes import Node

LookAhead = Callable[[Node], Awaitable[None]]
"""Gives a partial answer a score: the share of right answers among several that go on from it."""


async def search(root: Node, grow: Grow, look_ahead: LookAhead, num_lookaheads: int) -> None:
    """Moves from step to best next step, until the answer is whole.

    A node's Q is its score; one without a score, since its judge failed, is never moved to before
    others, and is of no pair.
    """
    place = root
    while not place.ended:
        await grow([place], root)
        place.expanded = True
        await asyncio.gather(*(look_ahead(child) for child in place.children))
        for child in place.children:
            child.visits = num_lookaheads
            child.q = child.score or 0.0
        place = max(place.children, key=_rank)
        place.on_path = True


def _rank(node: Node) -> tuple[bool, float]:
    return node.score is not None, node.q
