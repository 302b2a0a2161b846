"""What is shown of a search tree: which nodes, in which order, and in which words."""

import heapq
import itertools
from dataclasses import dataclass
from unicodedata import category

from rlhf.tree.nodes import Node, Tree

NEWLINE = "↵"
NONE = "–"
_VISIBLE = {"\n": NEWLINE, "\t": "⇥"}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a tree is shown at most; None is no limit."""

    nodes: int | None = None
    depth: int | None = None
    siblings: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A tree's most visited nodes."""

    tree: Tree
    shown: frozenset[int]
    """Their indices; with each node its parent."""

    @classmethod
    def of(cls, tree: Tree, limits: Limits) -> "View":
        """With the path first, then by visits, until a limit is met."""
        order = itertools.count()  # of equals the first, and nodes are never compared
        heap = [(_rank(tree.root), next(order), tree.root, 0)]
        shown: set[int] = set()
        while heap and (limits.nodes is None or len(shown) < limits.nodes):
            _, _, node, depth = heapq.heappop(heap)
            shown.add(node.index)
            if limits.depth is None or depth < limits.depth:
                for child in _first(node, limits.siblings):
                    heapq.heappush(heap, (_rank(child), next(order), child, depth + 1))
        return cls(tree, frozenset(shown))

    def children(self, node: Node) -> list[Node]:
        """Those that are shown, the path first, then by visits."""
        return [child for child in sorted(node.children, key=_rank) if child.index in self.shown]

    def num_hidden(self, node: Node) -> int:
        """Nodes that its children which are not shown have, themselves included."""
        return sum(_size(child) for child in node.children if child.index not in self.shown)

    @property
    def nodes(self) -> list[Node]:
        """In the order of their making."""
        return [node for node in self.tree.nodes if node.index in self.shown]


def depth(tree: Tree) -> int:
    """Steps of the longest answer."""
    depths: list[int] = []
    for node in tree.nodes:  # parents before children
        depths.append(depths[node.parent.index] + 1 if node.parent else 0)
    return max(depths)


def share_right(tree: Tree) -> float | None:
    """Mean score of the whole answers that have one."""
    scores = [node.score for node in tree.answers if node.score is not None]
    return sum(scores) / len(scores) if scores else None


def best_answer(tree: Tree) -> Node | None:
    """The whole answer of the best score; of equals the one on the path, or the most visited."""
    scored = [node for node in tree.answers if node.score is not None]
    return max(scored, key=lambda node: (node.score, node.on_path, node.visits), default=None)


def counts(tree: Tree) -> list[str]:
    """What it took, and what came of it."""
    right = share_right(tree)
    parts = [
        many(len(tree.nodes), "node"),
        f"depth {depth(tree)}",
        many(tree.num_simulations, "simulation"),
        many(len(tree.answers), "whole answer"),
        f"{NONE if right is None else f'{right:.0%}'} right",
        f"{many(tree.num_tokens, 'token')} generated",
        f"{tree.num_judged:,} judged",
        f"{tree.num_evaluated:,} evaluated",
    ]
    if tree.num_prompt_tokens:
        cached = tree.num_cached_tokens / tree.num_prompt_tokens
        parts.append(f"{cached:.0%} of {tree.num_prompt_tokens:,} prompt tokens cached")
    return parts


def words(text: str) -> str:
    """The text in one line: ends of lines and what cannot be printed are made visible."""
    return "".join(map(_visible, text))


def number(value: float | None) -> str:
    """With its sign if negative, two decimals."""
    return NONE if value is None else f"{value:.2f}".replace("-", "−")


def mark(score: float | None) -> str:
    """A judge's score: ✓ for 1, ✗ for 0."""
    if score is None:
        return "?"
    return {0.0: "✗", 1.0: "✓"}.get(score) or number(score)


def many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    if category(character) == "Zs":
        return " "
    return _VISIBLE.get(character) or ascii(character)[1:-1]


def _first(node: Node, limit: int | None) -> list[Node]:
    children = sorted(node.children, key=_rank)
    # Saying that one more is left out takes as much room as that one.
    return children if limit is None or len(children) <= limit + 1 else children[:limit]


def _rank(node: Node) -> tuple[bool, int, float]:
    return not node.on_path, -node.visits, -node.q


def _size(node: Node) -> int:
    return 1 + sum(map(_size, node.children))
