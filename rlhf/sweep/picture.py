"""Draws `sweep.png`: which configuration of a sweep is best, and how sure that is."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from textwrap import fill

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlhf.storage.disk import writing
from rlhf.storage.store import read_metrics
from rlhf.sweep.results import Member, Results
from rlhf.watching.metrics import LOWER_IS_BETTER
from rlhf.watching.panels import (
    BLUE,
    EVALUATIONS,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    Evaluation,
    as_it_is,
)

COLORS = (BLUE, ORANGE, GREEN, RED, PURPLE, "#56b4e9", "#8b5a2b", "#d783b5", "#c8a000", "#3f3f6e")
Color = str | tuple[float, float, float, float]

NAME_WIDTH = 45
"""Characters of a configuration in a line."""

History = Mapping[int, float]
"""Rounds finished -> the metric of the evaluation then; 0 is before training."""


def draw_sweep(results: Results, png: Path) -> None:
    """Evaluations over rounds, and the last ones side by side; none, no picture.

    A configuration has one colour: thin lines are its seeds, dashed where they did not finish; the
    bold one is the mean of those that did, and the area goes from their lowest to their highest.
    """
    metric = results.metric
    if metric is None:
        return
    histories = {member.number: _history(member, metric) for member in results.members}
    groups: dict[str, list[Member]] = {}
    for member in results.members:
        if histories[member.number]:
            groups.setdefault(member.configuration, []).append(member)
    finished = results.finished()  # the best first
    ordered = [name for name in finished if name in groups]
    ordered += [name for name in groups if name not in finished]
    colors = dict(zip(ordered, _colors(len(ordered)), strict=True))
    height = max(5.6, 1.6 + 0.42 * len(ordered))
    figure = Figure(figsize=(15, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    shown = next(one for one in EVALUATIONS if metric in one.lines)
    for name in reversed(ordered):  # the best on top
        _draw_group(left, groups[name], histories, colors[name])
    number = "{:.1%}" if shown.is_share else "{:.3f}"
    _draw_last(right, [groups[name] for name in ordered], histories, colors, number)
    _label(left, right, shown, metric)
    num_bad = sum(member.status != "completed" for member in results.members)
    without = f", {num_bad} of which did not finish" if num_bad else ""
    figure.suptitle(f"{len(results.members)} members{without}", fontsize=13, x=0.01, ha="left")
    figure.supxlabel(
        "Thin lines and points are members, dashed and hollow where they did not finish; bold is "
        "the mean over seeds of those that did, from their lowest to their highest.",
        fontsize=10,
        color="#555555",
    )
    with writing(png):
        figure.savefig(png)


def _history(member: Member, metric: str) -> History:
    records = read_metrics(Path(member.directory) / "metrics.jsonl")
    key = f"eval/{metric}"
    return {r["round"] + 1: r[key] for r in records if r.get(key) is not None}


def _colors(count: int) -> Sequence[Color]:
    if count <= len(COLORS):
        return COLORS[:count]
    return [colormaps["turbo"](share) for share in np.linspace(0.05, 0.95, count)]


def _draw_group(
    axes: Axes, members: Sequence[Member], histories: Mapping[int, History], color: Color
) -> None:
    for member in members:
        style = "-" if member.status == "completed" else "--"
        axes.plot(*_points(histories[member.number]), style, color=color, linewidth=1, alpha=0.5)
    ended = [histories[member.number] for member in members if member.status == "completed"]
    if not ended:
        return
    rounds = sorted(set.intersection(*map(set, ended)))
    values = np.array([[history[round] for round in rounds] for history in ended])
    marker = "o" if len(rounds) < 30 else ""
    axes.plot(rounds, values.mean(axis=0), color=color, linewidth=2.6, marker=marker, markersize=5)
    if len(ended) > 1:
        axes.fill_between(rounds, values.min(axis=0), values.max(axis=0), color=color, alpha=0.12)


def _points(history: History) -> tuple[list[int], list[float]]:
    return list(history), list(history.values())


def _draw_last(
    axes: Axes,
    rows: Sequence[Sequence[Member]],
    histories: Mapping[int, History],
    colors: Mapping[str, Color],
    number: str,
) -> None:
    """One row for each configuration, the best on top; it names the colours too."""
    for row, members in enumerate(rows):
        color = colors[members[0].configuration]
        for member in members:
            last = list(histories[member.number].values())[-1]
            face = color if member.status == "completed" else "white"
            axes.plot(last, row, "o", color=color, markerfacecolor=face, alpha=0.7)
        ended = [m.after for m in members if m.status == "completed" and m.after is not None]
        if ended:
            mean = fmean(ended)
            axes.plot([min(ended), max(ended)], [row, row], color=color, linewidth=2)
            axes.plot(mean, row, "|", color=color, markersize=22, markeredgewidth=3)
            place = {"xytext": (0, 13), "textcoords": "offset points", "ha": "center"}
            axes.annotate(number.format(mean), (mean, row), fontsize=9, **place)
    names = [members[0].configuration for members in rows]
    axes.set_yticks(range(len(names)), [as_it_is(fill(name, NAME_WIDTH)) for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(colors[name])
        label.set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.6)


def _label(left: Axes, right: Axes, shown: Evaluation, metric: str) -> None:
    is_plain = len(shown.labels) == 1 and metric in shown.labels
    words = shown.axis if is_plain else f"{shown.axis} ({shown.lines[metric]})"
    left.set_title(f"{shown.title} over rounds", loc="left", fontsize=11, fontweight="bold")
    left.set_xlabel("rounds finished")
    left.set_ylabel(words)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    direction = "lower" if metric in LOWER_IS_BETTER else "higher"
    right.set_title(
        f"The last one; {direction} is better", loc="left", fontsize=11, fontweight="bold"
    )
    right.set_xlabel(f"{words}: seeds, and their mean")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    if shown.is_share:
        left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
