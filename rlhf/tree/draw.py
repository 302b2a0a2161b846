"""A search tree as a picture."""

import warnings
from itertools import accumulate
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve

from rlhf.tree.layout import Spot, arrange, wrap
from rlhf.tree.nodes import Node
from rlhf.tree.reading import UNFINISHED
from rlhf.tree.view import View, counts, words

DPI = 100
MAX_PIXELS = 60_000
"""Of either side; matplotlib can draw 65,536."""
COLORS = "RdBu"
"""Bad is red and good is blue: colour-blind people tell these apart."""
INK, GREY, EDGE = "#1a1a1a", "#757575", "#bdbdbd"
WIDE = {"Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "PingFang SC", "Microsoft YaHei"}
"""Fonts for what DejaVu lacks, if there are such."""
FAMILIES = ["DejaVu Sans", *sorted(WIDE & set(fontManager.get_font_names()))]
STEP, NUMBERS = FontProperties(FAMILIES, size=8.5), FontProperties(FAMILIES, size=6.5)
TITLE = FontProperties(FAMILIES, size=13, weight="bold")
MOVED = FontProperties(FAMILIES, size=8.5, weight="bold")

# Lengths are inches, in which the picture has its coordinates too.
MARGIN, MIN_WIDTH = 0.35, 8.8
TEXT_ROOM, MIN_TEXT, MAX_TEXT, MAX_LINES = 24.0, 1.3, 3.0, 2
"""A step's texts are that wide in all columns together, and in one at least and at most."""
LINE, NUMBERS_LINE, ROW_GAP = 0.145, 0.115, 0.09
TITLE_LINE, FACTS_LINE, FOOTER, BAR = 0.24, 0.16, 0.7, 2.0
SCALED_WIDTH, MAX_SCALE = 16.0, 2.0
"""A picture that is wider than that has larger letters above and below the tree."""
TEXT_GAP, EDGE_ROOM = 0.18, 0.55
"""From a node's middle to its text, and from the longest text to the next column."""
MIN_SIZE, MIN_ANSWER, MAX_SIZE = 5.0, 7.5, 14.0
"""Points across, without visits and at the root."""
MIN_EDGE, MAX_EDGE, PATH_EDGE = 0.6, 6.0, 2.5
SHAPES = {"step": "o", "right answer": "*", "wrong answer": "X", "other answer": "D"}
SHAPE_SCALES = {"*": 1.5, "X": 1.1, "D": 0.85}
"""So that all look equally large."""


def draw_tree(view: View, round: str, file: Path) -> None:
    """Writes a .png, .svg or .pdf, as large as the view needs; raises OSError if it cannot."""
    with warnings.catch_warnings():
        # What no font has becomes a box, which tells it well enough.
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        figure = tree_figure(view, round)
        dpi = min(DPI, MAX_PIXELS / max(figure.get_size_inches()))
        figure.savefig(file, dpi=dpi)


def tree_figure(view: View, round: str) -> Figure:
    """The picture; the texts at nodes have a `gid` that begins with `node`."""
    drawing = _Drawing(view, round)
    for spot in drawing.spots:
        for child in spot.children:
            drawing.edge(spot, child)
    for place, spot in enumerate(drawing.spots):
        drawing.spot(spot, f"node-{place}")
    drawing.header()
    drawing.footer()
    return drawing.figure


class _Drawing:
    """A figure as large as its tree, and how to put that into it."""

    def __init__(self, view: View, round: str) -> None:
        self.figure = Figure(dpi=DPI)
        self.renderer = FigureCanvasAgg(self.figure).get_renderer()
        self.advances: dict[str, float] = {}
        most_steps = max(node.depth for node in view.nodes)
        room = min(max(TEXT_ROOM / max(1, most_steps), MIN_TEXT), MAX_TEXT)
        root = arrange(view, room, MAX_LINES, lambda text: sum(map(self.advance, text)))
        self.spots = list(root)
        self.widths = {spot: self.spot_width(spot) for spot in self.spots}
        widths = [0.0] * (1 + max(spot.column for spot in self.spots))
        for spot, width in self.widths.items():
            widths[spot.column] = max(widths[spot.column], width)
        lefts = accumulate((TEXT_GAP + width + EDGE_ROOM for width in widths), initial=MARGIN)
        *self.lefts, right = lefts
        self.rights = [left - EDGE_ROOM for left in (*self.lefts[1:], right)]
        self.total_width = max(MIN_WIDTH, self.rights[-1] + MARGIN)
        self.scale = min(max(1.0, self.total_width / SCALED_WIDTH), MAX_SCALE)
        self.texts = self.head(view, round)
        self.row = max(len(spot.lines) for spot in self.spots) * LINE + NUMBERS_LINE + ROW_GAP
        rows = max(spot.row for spot in self.spots) + 1
        self.top = self.scale * FOOTER + rows * self.row
        self.total_height = self.top + MARGIN + sum(height for *_, height in self.texts)
        self.figure.set_size_inches(self.total_width, self.total_height)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.total_width))
        self.axes.set_ylim(0, self.total_height)
        self.axes.set_axis_off()
        self.most_visits = max(1, view.tree.root.visits)
        self.most = max(1.0, max(abs(node.q) for node in view.nodes))
        self.colors = ScalarMappable(Normalize(-self.most, self.most), COLORS)

    def width(self, text: str, font: FontProperties) -> float:
        return self.renderer.get_text_width_height_descent(text, font, ismath=False)[0] / DPI

    def advance(self, character: str) -> float:
        """As one of many, and bold: columns are not to depend on where the path is.

        A text's own width is slow to measure, and its kerning makes little difference.
        """
        if character not in self.advances:
            self.advances[character] = self.width(10 * character, MOVED) / 10
        return self.advances[character]

    def spot_width(self, spot: Spot) -> float:
        lines = max((self.width(line, MOVED) for line in spot.lines), default=0.0)
        return max(lines, self.width(spot.numbers, NUMBERS))

    def head(self, view: View, round: str) -> list[tuple[str, FontProperties, str, float]]:
        """The lines above the tree: text, font, colour and height."""
        prompt, title, small = view.tree.prompt, self.scaled(TITLE), self.scaled(STEP)
        facts = ["unfinished round" if round == UNFINISHED else f"round {round}"]
        if prompt.answer is not None:
            facts.insert(0, f"answer {words(prompt.answer)}")
        facts += counts(view.tree)
        if num_hidden := len(view.tree.nodes) - len(view.shown):
            facts.append(f"{num_hidden:,} nodes left out, the least visited or deepest")
        # A line ends between facts, and not within one.
        text = "\u00a0\u00a0·\u00a0 ".join(fact.replace(" ", "\u00a0") for fact in facts)
        room = self.total_width - 2 * MARGIN
        titles = wrap(words(prompt.text or prompt.id), room, 2, lambda t: self.width(t, title))
        rows = wrap(text, room, 4, lambda t: self.width(t, small))
        return [
            *((line, title, INK, self.scale * TITLE_LINE) for line in titles),
            *((line, small, GREY, self.scale * FACTS_LINE) for line in rows),
        ]

    def scaled(self, font: FontProperties) -> FontProperties:
        """Larger in a large picture, for who sees it as a whole."""
        larger = font.copy()
        larger.set_size(font.get_size_in_points() * self.scale)
        return larger

    def place(self, spot: Spot) -> tuple[float, float]:
        return self.lefts[spot.column], self.top - (spot.row + 0.5) * self.row

    def edge(self, parent: Spot, child: Spot) -> None:
        """From the parent's text on, straight as far as its column goes, then in a bow."""
        x, y = self.place(parent)
        start = x + TEXT_GAP + self.widths[parent] + 0.06
        bend = self.rights[parent.column]
        end, below = self.place(child)
        middle = (bend + end) / 2
        points = [(start, y), (max(start, bend), y), (middle, y), (middle, below), (end, below)]
        codes = [Curve.MOVETO, Curve.LINETO, *3 * [Curve.CURVE4]]
        node = child.node
        width, color, style = MIN_EDGE, EDGE, ":"
        if node is not None:
            width += (MAX_EDGE - MIN_EDGE) * node.visits / self.most_visits
            style = "-" if node.visits else "--"
            if node.on_path:
                width, color = max(width, PATH_EDGE), INK
        line = {"edgecolor": color, "linewidth": width, "linestyle": style, "capstyle": "round"}
        self.axes.add_patch(PathPatch(Curve(points, codes), facecolor="none", zorder=width, **line))

    def spot(self, spot: Spot, name: str) -> None:
        x, y = self.place(spot)
        node = spot.node
        if node is not None:
            shape = SHAPES[_kind(node)]
            # Of a node without a visit nothing is known that a colour could say.
            face = self.colors.cmap((1 + node.q / self.most) / 2) if node.visits else "white"
            width, edge = (1.8, INK) if node.on_path else (0.7, GREY)
            size = self.size(node) * SHAPE_SCALES.get(shape, 1)
            line = {"linewidths": width, "edgecolors": edge, "zorder": MAX_EDGE + 1}
            self.axes.scatter(x, y, size**2, color=face, marker=shape, **line)
        font = MOVED if node and node.on_path else STEP
        color = INK if node and node.visits else GREY
        texts = [(line, font, color, LINE) for line in spot.lines]
        if spot.numbers:
            texts.append((spot.numbers, NUMBERS, GREY, NUMBERS_LINE))
        bottom = y + sum(height for *_, height in texts) / 2
        for place, (text, font, color, height) in enumerate(texts):
            bottom -= height
            style = {"font": font, "color": color, "parse_math": False, "gid": f"{name}-{place}"}
            # Below its line a text has about a quarter of it.
            self.axes.text(x + TEXT_GAP, bottom + height / 4, text, **style)

    def size(self, node: Node) -> float:
        """Across, in points; its area goes with its visits."""
        least = MIN_ANSWER if node.ended else MIN_SIZE
        return least + (MAX_SIZE - least) * (node.visits / self.most_visits) ** 0.5

    def header(self) -> None:
        y = self.total_height - MARGIN / 2
        for text, font, color, height in self.texts:
            y -= height
            self.axes.text(MARGIN, y, text, font=font, color=color, parse_math=False)

    def footer(self) -> None:
        """What shapes, lines and colours mean."""
        scale, font = self.scale, self.scaled(NUMBERS)
        signs = [Line2D([], [], linestyle="", marker=s, label=name) for name, s in SHAPES.items()]
        for sign, shape in zip(signs, SHAPES.values(), strict=True):
            sign.set(markersize=7 * scale * SHAPE_SCALES.get(shape, 1), markeredgecolor=GREY)
            sign.set_markerfacecolor("white")
        signs += [
            Line2D([], [], color=INK, linewidth=scale * PATH_EDGE, label="moved through"),
            Line2D([], [], color=EDGE, linewidth=scale, linestyle="--", label="never visited"),
        ]
        width, height = self.total_width / scale, self.total_height / scale
        self.axes.legend(
            handles=signs,
            loc="lower left",
            bbox_to_anchor=(MARGIN / self.total_width, 0.2 / height),
            ncols=len(signs),
            frameon=False,
            prop=font,
            borderpad=0,
            borderaxespad=0,
            columnspacing=1.2,
            handletextpad=0.4,
        )
        left = 1 - MARGIN / self.total_width - BAR / width
        bar = self.figure.add_axes((left, 0.25 / height, BAR / width, 0.1 / height))
        self.figure.colorbar(self.colors, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=font.get_size_in_points(), length=2, pad=1)
        bar.set_title("Q", fontproperties=font, loc="left", pad=2)


def _kind(node: Node) -> str:
    if not node.ended:
        return "step"
    if node.score in (0, 1):
        return "right answer" if node.score else "wrong answer"
    return "other answer"
