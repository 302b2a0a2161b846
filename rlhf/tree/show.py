"""Search trees in the terminal: a table of a run's, and one of them with its numbers."""

import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree as Branches

from rlhf.tree.nodes import Node, Tree
from rlhf.tree.reading import UNFINISHED, Found, TreePair
from rlhf.tree.view import (
    NONE,
    View,
    best_answer,
    counts,
    depth,
    many,
    mark,
    number,
    share_right,
    words,
)

TITLES = ("N", "Q", "P", "v", "judge", "drawn", "pair")
OPTIONAL = {"drawn", "pair"}
"""Left out where there is nothing to be said."""
GAP = 2
GUIDES = {3: ("   ", "│  ", "├─ ", "└─ "), 2: ("  ", "│ ", "├ ", "└ "), 1: (" ", "│", "├", "└")}
"""By the characters that each step of depth takes: the fewer, the deeper the tree."""
MIN_TEXT, MAX_TEXT = 16, 100
"""Characters of a step that there is room for at least, and at most."""
ON_PATH, OFF_PATH = "▶ ", "  "
MAX_PAIRS = 12
BEGUN = 24
"""Characters of what a pair's sides have in common."""
_MARK_STYLES = {"✓": "green", "✗": "red"}


def table(trees: Iterable[Found]) -> Table:
    """One row per tree."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # What must not be cut is `no_wrap`: a narrow terminal shortens the other columns first.
    shown.add_column("round", justify="right", no_wrap=True)
    shown.add_column("id", max_width=24)
    shown.add_column("prompt", max_width=48)
    for name in ("nodes", "depth", "sims", "answers", "right", "tokens"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("best", max_width=24)
    for found in trees:
        shown.add_row(*_row(found))
    return shown


def _row(found: Found) -> Iterator[Text]:
    tree = found.tree
    yield Text("now" if found.round == UNFINISHED else found.round)
    yield _one_line(Text(words(tree.prompt.id)))
    yield _one_line(Text(words(tree.prompt.text.strip()) or NONE))
    for count in (len(tree.nodes), depth(tree), tree.num_simulations, len(tree.answers)):
        yield Text(f"{count:,}")
    right = share_right(tree)
    yield Text(NONE if right is None else f"{right:.0%}")
    yield Text(f"{tree.num_tokens:,}")
    best = best_answer(tree)
    last = _marked(best, f" {words(best.step.text)}") if best and best.step else Text(NONE)
    yield _one_line(last)


def how_to_look(directory: Path, found: Found) -> str:
    """The command that shows this tree."""
    place = "" if found.round == UNFINISHED else f" --round {found.round}"
    wanted = shlex.join([str(directory), found.tree.prompt.id])
    return f"python -m rlhf.tree {wanted}{place}"


def page(view: View, round: str, pairs: Sequence[TreePair], width: int) -> RenderableType:
    """Everything about one tree, with the part of it that is in view."""
    parts = [_header(view.tree, round), *_pair_table(pairs), Text(), *_branches(view, pairs, width)]
    num_hidden = len(view.tree.nodes) - len(view.shown)
    if num_hidden:
        hint = "--all without --depth shows every node"
        parts.append(Text(f"{num_hidden:,} left out; {hint}.", style="dim"))
    return Group(*parts)


def _header(tree: Tree, round: str) -> Table:
    header = Table.grid(padding=(0, 2))
    header.add_column(style="dim", no_wrap=True)
    header.add_column(overflow="fold")
    header.add_row("prompt", Text(words(tree.prompt.id), style="bold"))
    if tree.prompt.text:
        header.add_row("text", Text(words(tree.prompt.text.strip())))
    if tree.prompt.answer is not None:
        header.add_row("answer", Text(words(tree.prompt.answer)))
    header.add_row("round", Text("not over yet" if round == UNFINISHED else round))
    header.add_row("tree", Text(" · ".join(counts(tree))))
    header.add_row("judge", Text(tree.judge or NONE))
    return header


def _pair_table(pairs: Sequence[TreePair]) -> Iterator[RenderableType]:
    given = [pair for pair in pairs if not pair.dropped]
    if given:
        shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("pair", "margin", "win prob."):
            shown.add_column(name, justify="right", no_wrap=True)
        shown.add_column("answer so far", no_wrap=True, style="dim")
        for name in ("chosen", "rejected"):
            shown.add_column(name, no_wrap=True, max_width=MAX_TEXT)
        for place, pair in enumerate(given[:MAX_PAIRS], start=1):
            numbers = (str(place), number(pair.margin), number(pair.win_prob))
            begun = words(pair.prefix)
            if len(begun) > BEGUN:  # its end says better where this is
                begun = "…" + begun[1 - BEGUN :]
            sides = (begun, words(pair.chosen or ""), words(pair.rejected or ""))
            shown.add_row(*map(Text, (*numbers, *sides)))
        yield shown
    reasons = Counter(pair.dropped for pair in pairs if pair.dropped)
    first = f", of which the first {MAX_PAIRS} are shown" if len(given) > MAX_PAIRS else ""
    parts = [many(len(given), "pair") + first] if pairs else []
    parts += [f"{count} dropped: {reason}" for reason, count in reasons.most_common()]
    if parts:
        yield Text(" · ".join(parts), style="dim")


def _branches(view: View, pairs: Sequence[TreePair], width: int) -> Iterator[RenderableType]:
    """The titles of the columns, and below them the tree with its numbers."""
    sides = _sides(pairs)
    cells = {node.index: _cells(node, sides.get(node.index, [])) for node in view.nodes}
    columns = _Columns.fitting(view, cells, width)
    yield columns.line(Text("step", "dim"), [Text(title, "dim") for title in TITLES], 0)
    root = view.tree.root
    whole = Branches(columns.line(_text(root), cells[root.index], 0), guide_style="dim")
    whole.TREE_GUIDES = [GUIDES[columns.indent]] * 3
    places = {root.index: whole}
    for node in _in_order(view, root):
        if node.parent:
            label = columns.line(_text(node), cells[node.index], node.depth)
            places[node.index] = places[node.parent.index].add(label)
    for node in view.nodes:
        if num_hidden := view.num_hidden(node):
            places[node.index].add(Text(f"{OFF_PATH}… {num_hidden} more", "dim italic"))
    yield whole


def _in_order(view: View, node: Node) -> Iterator[Node]:
    yield node
    for child in view.children(node):
        yield from _in_order(view, child)


@dataclass(frozen=True, slots=True)
class _Columns:
    """A column for steps, and one each for the numbers that any of them has."""

    indent: int
    """Of a step below another, in characters."""
    room: int
    """Of steps with their indents."""
    widths: dict[int, int]
    """By place among `TITLES`."""

    @classmethod
    def fitting(cls, view: View, cells: Mapping[int, Sequence[Text]], width: int) -> "_Columns":
        widths = {}
        for place, title in enumerate(TITLES):
            longest = max(row[place].cell_len for row in cells.values())
            if longest or title not in OPTIONAL:
                widths[place] = GAP + max(longest, len(title))
        deepest = max(node.depth for node in view.nodes)
        room = width - sum(widths.values())
        # A tree that is too deep even so is wider than the terminal, rather than without text.
        indent = next((n for n in GUIDES if n * deepest + MIN_TEXT <= room), min(GUIDES))
        room = max(room, indent * deepest + MIN_TEXT)
        used = (indent * n.depth + min(_text(n).cell_len, MAX_TEXT) for n in view.nodes)
        return cls(indent, min(room, max(used)), widths)

    def line(self, text: Text, row: Sequence[Text], depth: int) -> Text:
        text.truncate(self.room - self.indent * depth, overflow="ellipsis", pad=True)
        for place, width in self.widths.items():
            text = text + Text(" " * (width - row[place].cell_len)) + row[place]
        text.no_wrap, text.overflow = True, "ignore"
        return text


def _text(node: Node) -> Text:
    text = (ON_PATH if node.on_path else OFF_PATH) + (words(node.step.text) if node.step else "·")
    return Text(text, "bold" if node.on_path else "" if node.visits else "dim")


def _cells(node: Node, sides: Sequence[str]) -> list[Text]:
    """One per title."""
    texts = [f"{node.visits:,}", number(node.q), number(node.prior), number(node.value)]
    style = "" if node.visits else "dim"
    judged = node.ended or node.score is not None
    copies = f"×{node.num_copies}" if node.num_copies > 1 else ""
    return [
        *(Text(text, style) for text in texts),
        _marked(node) if judged else Text(),
        Text(copies, style),
        Text(" ".join(sides), "cyan"),
    ]


def _sides(pairs: Sequence[TreePair]) -> dict[int, list[str]]:
    """By node, the pairs that it is chosen (+) or rejected (−) in, as the pairs are numbered."""
    sides: dict[int, list[str]] = {}
    for place, pair in enumerate((pair for pair in pairs if not pair.dropped), start=1):
        for node, sign in ((pair.chosen_node, "+"), (pair.rejected_node, "−")):
            if node is not None:
                sides.setdefault(node, []).append(f"{sign}{place}")
    return sides


def _marked(node: Node, more: str = "") -> Text:
    """The judge's score, and perhaps something about it."""
    text = mark(node.score)
    return Text.assemble((text, _MARK_STYLES.get(text, "")), more)


def _one_line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
