"""Monte-Carlo tree search over steps, as in Xie et al. 2024 (arXiv 2405.00451).

Expansion goes on until an answer is whole, so it takes the place of rollouts. Differences from the
released code: the root counts each simulation once; what is below it counts for its ancestors too
after a move; who is most visited, and then better, is moved to.
"""

import math
from collections.abc import Awaitable, Callable, Sequence

from rlhf.tree.nodes import Node

Grow = Callable[[Sequence[Node], Node], Awaitable[None]]
"""Gives several nodes their children, with priors and values; at least one each. The second node is
where the search now stands."""
VIRTUAL_LOSS = 1.0
"""What a simulation under way is thought to lose, on the scale of outcomes, so that the next one
goes elsewhere."""


async def search(
    root: Node,
    grow: Grow,
    *,
    num_simulations: int,
    num_root_simulations: int,
    num_parallel: int,
    exploration: float,
) -> int:
    """Moves step by step to a whole answer, each move after simulations; returns their number."""
    place, done = root, 0
    while not place.ended:
        budget = num_root_simulations if place is root else num_simulations
        while budget > 0:
            num_paths = min(num_parallel, budget)
            await simulate(place, grow, num_paths, exploration)
            budget -= num_paths
            done += num_paths
        place = best_move(place)
        place.on_path = True
    return done


async def simulate(start: Node, grow: Grow, num_paths: int, exploration: float) -> None:
    """Several descents from `start` to whole answers, which grow their leaves together."""
    places = []
    for _ in range(num_paths):
        start.pending += 1
        places.append(descend(start, exploration))
    while True:
        leaves = list(dict.fromkeys(place for place in places if not place.ended))
        if not leaves:
            break
        await grow(leaves, start)
        for leaf in leaves:
            leaf.expanded = True
            for child in leaf.children:
                child.update()  # Q begins as the step's own gain
        places = [descend(place, exploration) for place in places]
    for place in places:
        back_up(place, start)


def descend(place: Node, exploration: float) -> Node:
    """Along the most promising steps to a node that is whole or has not grown yet."""
    while place.expanded:
        place = select(place, exploration)
        place.pending += 1
    return place


def select(node: Node, exploration: float) -> Node:
    """The child of the largest Q + c·p·√N(parent) / (1 + N); of equals the first.

    A simulation that is under way counts as a visit that loses.
    """
    num_others = node.pending - 1  # but for the simulation that asks
    tried = math.sqrt(node.visits + num_others)

    def promise(child: Node) -> float:
        doubt = VIRTUAL_LOSS * child.pending / (max(1, child.visits) + child.pending)
        num_visits = child.visits + child.pending
        return child.q - doubt + exploration * child.prior * tried / (1 + num_visits)

    return max(node.children, key=promise)


def back_up(leaf: Node, start: Node) -> None:
    """Counts one simulation from `start` to `leaf`, and tells every ancestor what it has found."""
    node: Node | None = leaf
    above = start.parent
    has_passed = True
    while node is not None:
        has_passed = has_passed and node is not above
        node.pending -= has_passed
        node.visits += 1
        node.update()
        node = node.parent


def best_move(node: Node) -> Node:
    """The child that was visited most; of equals the one of the largest Q."""
    return max(node.children, key=lambda child: (child.visits, child.q))
