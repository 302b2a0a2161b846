"""Where the nodes of a tree are drawn: the root on the left, a column per step."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rlhf.tree.nodes import Node
from rlhf.tree.view import View, mark, number, words

Measure = Callable[[str], float]
"""How wide a text is."""

FAMILY_GAP = 1.3
"""Rows from the last child of one parent to the first of the next; from child to child it is 1."""


@dataclass(slots=True, eq=False)
class Spot:
    """A node's place; without a node, that of the words which stand for those left out."""

    node: Node | None
    column: int
    lines: list[str]
    """The step, cut to its column."""
    numbers: str
    children: list["Spot"] = field(default_factory=list)
    row: float = 0.0
    """From the top; a parent is in the middle of its children."""

    def __iter__(self) -> Iterator["Spot"]:
        yield self
        for child in self.children:
            yield from child


def arrange(view: View, room: float, max_lines: int, measure: Measure) -> Spot:
    """The root's spot, which holds all others; no two rows of a column are nearer than 1.

    A step has `max_lines` lines of `room` at most, as `measure` has it.
    """
    root = _spot(view, view.tree.root, 0, lambda text: wrap(text, room, max_lines, measure))
    firsts, _ = _place(root)
    for spot in root:
        spot.row -= min(firsts)
    return root


def wrap(text: str, room: float, max_lines: int, measure: Measure) -> list[str]:
    """The text in lines that fit; what there is no line for becomes dots."""
    lines: list[str] = []
    rest = text.strip()
    while rest:
        end = _fitting(rest, room, measure)
        if end < len(rest) and len(lines) == max_lines - 1:
            end = _fitting(rest, room - measure("…"), measure)
            return [*lines, rest[:end].rstrip() + "…"]
        if end < len(rest):
            space = rest.rfind(" ", end // 2, end + 1)
            end = space if space > 0 else end
        lines.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return lines


def _fitting(text: str, room: float, measure: Measure) -> int:
    """How many characters fit, at least one."""
    most = 32  # to measure is slow, and more so for long texts
    while most < len(text) and measure(text[:most]) <= room:
        most *= 2
    ends = range(min(most, len(text)) + 1)
    return max(1, bisect_right(ends, room, key=lambda end: measure(text[:end])) - 1)


def _spot(view: View, node: Node, column: int, cut: Callable[[str], list[str]]) -> Spot:
    spot = Spot(node, column, cut(words(node.step.text)) if node.step else [], _numbers(node))
    spot.children = [_spot(view, child, column + 1, cut) for child in view.children(node)]
    if num_hidden := view.num_hidden(node):
        spot.children.append(Spot(None, column + 1, [f"… {num_hidden} more"], ""))
    return spot


def _numbers(node: Node) -> str:
    parts = [f"N {node.visits:,}", f"Q {number(node.q)}"]
    if node.parent:
        parts.append(f"P {number(node.prior)}")
    if node.value is not None and not node.ended:
        parts.append(f"v {number(node.value)}")
    if node.ended:
        parts.append(mark(node.score))
    if node.num_copies > 1:
        parts.append(f"×{node.num_copies}")
    return "  ".join(parts)


def _place(spot: Spot) -> tuple[list[float], list[float]]:
    """Sets the rows, each family as near to the one before as their columns allow.

    Returns the first and the last row that is taken in each column, from the spot's own on.
    """
    firsts: list[float] = []
    lasts: list[float] = []
    for child in spot.children:
        begins, ends = _place(child)
        pairs = enumerate(zip(lasts, begins, strict=False))
        down = max(
            (last - begin + (FAMILY_GAP if n else 1) for n, (last, begin) in pairs), default=0
        )
        for moved in child:
            moved.row += down
        firsts += [begin + down for begin in begins[len(firsts) :]]
        lasts[: len(ends)] = [end + down for end in ends]
    if spot.children:
        spot.row = (spot.children[0].row + spot.children[-1].row) / 2
    return [spot.row, *firsts], [spot.row, *lasts]
