"""Which part of a tree is in view, where its nodes stand, and the picture of it."""

from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from matplotlib.text import Text
from sample_trees import grown, prompt, random_tree, small

from rlhf.tree.draw import DPI, draw_tree, tree_figure
from rlhf.tree.layout import arrange, wrap
from rlhf.tree.nodes import Tree
from rlhf.tree.view import Limits, View, best_answer, words


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(1, 80), st.integers(0, 6))
@settings(max_examples=30)
def test_a_view_holds_the_most_visited_and_counts_the_rest(seed, size, most, depth):
    tree = random_tree(seed, size)
    view = View.of(tree, Limits(nodes=most, depth=depth))
    assert len(view.shown) <= most and all(node.depth <= depth for node in view.nodes)
    assert all(node.parent.index in view.shown for node in view.nodes if node.parent)
    assert len(tree.nodes) == len(view.shown) + sum(map(view.num_hidden, view.nodes))
    path = [node for node in tree.path if node.depth <= depth][:most]
    assert all(node.index in view.shown for node in path)


def test_the_best_answer_is_the_one_moved_to_among_equals():
    tree = small("x")
    grown(tree, tree.root, "46!", 99, 1.0, score=1.0)
    assert best_answer(tree) is tree.nodes[3]
    assert best_answer(Tree.planted(prompt("y"), 0)) is None


def test_words_are_one_line_that_nothing_obeys():
    assert words("a\n\tb\x1b[2J\u3000和\u202e") == r"a↵⇥b\x1b[2J 和\u202e"


@given(st.text(max_size=200), st.integers(1, 50), st.integers(1, 4))
def test_wrapped_text_fits_and_loses_nothing_but_spaces(text, room, max_lines):
    lines = wrap(text, room + 1, max_lines, len)
    assert len(lines) <= max_lines and all(len(line) <= room + 1 for line in lines)
    whole = "".join(text.split())
    joined = "".join("".join(lines).split())
    assert joined == whole or (
        len(lines) == max_lines and joined[-1] == "…" and whole.startswith(joined[:-1])
    )


@given(st.integers(0, 10**6), st.integers(1, 80))
@settings(max_examples=30)
def test_rows_of_a_column_are_apart_and_parents_in_the_middle(seed, size):
    view = View.of(random_tree(seed, size), Limits(nodes=60))
    spots = list(arrange(view, 20, 2, len))
    assert min(spot.row for spot in spots) == pytest.approx(0)
    for column in range(max(spot.column for spot in spots) + 1):
        rows = [spot.row for spot in spots if spot.column == column]
        assert all(below - above > 1 - 1e-9 for above, below in pairwise(rows))
    for spot in spots:
        rows = [child.row for child in spot.children]
        assert not rows or spot.row == pytest.approx((rows[0] + rows[-1]) / 2)


@pytest.mark.parametrize(("seed", "size"), [(0, 1), (1, 5), (2, 25), (3, 80), (4, 120)])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_no_two_texts_of_a_picture_overlap(seed, size):
    figure = tree_figure(View.of(random_tree(seed, size), Limits(nodes=100)), "3")
    texts = [text for text in figure.findobj(Text) if (text.get_gid() or "").startswith("node")]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) >= min(size, 100)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    width, height = figure.get_size_inches() * DPI
    for box in boxes:
        assert box.x0 > 0 and box.y0 > 0 and box.x1 < width and box.y1 < height


@pytest.mark.filterwarnings("error")
def test_a_tree_is_drawn(tmp_path):
    view = View.of(small("12+34"), Limits())
    width, height = (round(side * DPI) for side in tree_figure(view, "1").get_size_inches())
    draw_tree(view, "1", tmp_path / "tree.png")
    image = imread(tmp_path / "tree.png")
    assert image.shape[:2] == pytest.approx((height, width), abs=1)
    assert image[..., :3].std() > 0.05
    for name in ("tree.svg", "tree.pdf"):
        draw_tree(view, "1", tmp_path / name)
        assert (tmp_path / name).stat().st_size > 5000


@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_large_tree_is_folded_and_the_picture_says_so():
    tree = random_tree(7, 90)
    texts = tree_figure(View.of(tree, Limits(nodes=30)), "3").findobj(Text)
    said = " ".join(text.get_text().replace("\u00a0", " ") for text in texts)
    assert "60 nodes left out" in said and " more" in said


HOSTILE = {
    "markup": "</text><script>alert(1)</script>&<!--]]>",
    "control characters": "\x00\x1b]0;owned\x07\x9b",
    "turned writing": "\u202eabc\u2066",
    "half a character": "\ud800",
    "mathematics": "$\\frac{1}{0}$ $$ \\input{/etc/passwd}",
    "a long word": "x" * 300_000,
    "many lines": "\n" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.filterwarnings("ignore:Glyph")
def test_a_picture_of_hostile_texts_is_a_picture(kind, tmp_path):
    tree = Tree.planted(prompt(HOSTILE[kind], HOSTILE[kind]), 0)
    step = grown(tree, tree.root, HOSTILE[kind], 3, 0.5, on_path=True)
    grown(tree, step, HOSTILE[kind], 1, 1.0, score=1.0)
    file = tmp_path / "tree.svg"
    draw_tree(View.of(tree, Limits()), "1", file)
    root = ElementTree.fromstring(file.read_text())
    tags = {one.tag.rpartition("}")[2] for one in root.iter()}
    assert "path" in tags and not tags & {"script", "a", "foreignObject"}
    assert file.stat().st_size < 200_000
