"""Draws `curves.png`: what changed in a run, at a glance."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from rlhf.storage.disk import writing
from rlhf.storage.store import read_metrics
from rlhf.watching.panels import (
    BLUE,
    EVALUATIONS,
    GREEN,
    LOWEST_GAP,
    ORANGE,
    OUTCOMES,
    RED,
    SHARE,
    STAGES,
    Curve,
    Curves,
    as_it_is,
    headlines,
    read_curves,
)

WIDTH, HEIGHT = 16, 9
"""Of the picture, in inches, as are the margins of its panels:"""
LEFT, BOTTOM, TOP, GAP, FOOT = 0.85, 0.6, 0.65, 0.35, 0.4


def draw_curves(metrics_jsonl: Path, png: Path, max_logprob_gap: float | None = None) -> None:
    """Draws the run so far, 1600 by 900 pixels; what was not measured is left out.

    `max_logprob_gap`, in nats per token, is shown as a limit. Without any numbers there is no
    picture.
    """
    curves = read_curves(read_metrics(metrics_jsonl))
    panels: list[tuple[set[str], Callable[[Axes, Curves], None]]] = [
        ({f"eval/{name}" for one in EVALUATIONS for name in one.lines}, _draw_evaluation),
        _answers_panel(curves),
        ({"policy/loss", "policy/margin"}, _draw_loss),
        ({"policy/chosen_logratio", "policy/rejected_logratio"}, _draw_logratios),
        ({"preference/count"}, _draw_preferences),
        ({"rollout/length_mean"}, _draw_length),
        (set(STAGES), _draw_seconds),
        ({"weights/logprob_gap"}, partial(_draw_gap, limit=max_logprob_gap)),
    ]
    wanted = [draw for needs, draw in panels if needs & curves.keys()]
    if not wanted:
        return
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100)
    num_rounds = max(1, *(curve.rounds.max() for curve in curves.values()))
    figure.suptitle(_headline(curves, num_rounds), fontsize=17)
    figure.supxlabel(
        "Thin lines are single rounds; bold lines and areas are averages over nearby rounds.",
        fontsize=10,
        color="#555555",
    )
    shown: list[Axes] = []
    for draw in wanted:
        shown.append(axes := figure.add_axes((0, 0, 1, 1)))
        axes.set_xlabel("rounds finished")
        axes.set_xlim(-0.03 * num_rounds, 1.03 * num_rounds)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, curves)
    _lay_out(shown)
    with writing(png):
        FigureCanvasAgg(figure).print_png(png)


def _lay_out(panels: Sequence[Axes]) -> None:
    """Gives each its place: to look for one takes longer than to draw."""
    num_rows = 1 if len(panels) < 3 else 2
    num_columns = -(-len(panels) // num_rows)
    columns = [panels[i::num_columns] for i in range(num_columns)]
    rights = [1.05 if any(map(_twins, column)) else 0.4 for column in columns]
    width = (WIDTH - sum(rights) - num_columns * LEFT) / num_columns
    height = (HEIGHT - TOP - FOOT) / num_rows - BOTTOM - GAP
    left = 0.0
    for column, right in zip(columns, rights, strict=True):
        left += LEFT
        for row, axes in enumerate(column):
            bottom = HEIGHT - TOP - (row + 1) * (height + BOTTOM + GAP) + BOTTOM
            place = (left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT)
            for one in (axes, *_twins(axes)):
                one.set_position(place)
            axes.xaxis.set_label_coords(0.5, -0.3 / height)
        left += width + right


def _twins(axes: Axes) -> list[Axes]:
    """Those with an axis on its right."""
    return [one for one in axes.get_shared_x_axes().get_siblings(axes) if one is not axes]


def _headline(curves: Curves, num_rounds: int) -> str:
    parts = [f"{num_rounds} round{'s' if num_rounds > 1 else ''}"]
    parts += [f"{words} {' → '.join(ends)}" for words, ends in headlines(curves)]
    return "   ·   ".join(parts)


def _draw_evaluation(axes: Axes, curves: Curves) -> None:
    own = (one for one in EVALUATIONS if any(f"eval/{name}" in curves for name in one.labels))
    gold = (one for one in EVALUATIONS if any(f"eval/{name}" in curves for name in one.lines))
    shown = next(chain(own, gold))
    _label(axes, shown.title, shown.axis)
    known = {name: curves[f"eval/{name}"] for name in shown.lines if f"eval/{name}" in curves}
    for (name, curve), color in zip(known.items(), (BLUE, ORANGE, GREEN, RED), strict=False):
        text = shown.lines[name] or "the judge"
        axes.plot(*curve, color=color, marker="o", markersize=4, linewidth=2, label=text)
    if {"eval/exploitability_low", "eval/exploitability_high"} <= curves.keys():
        low, high = (curves[f"eval/exploitability_{end}"] for end in ("low", "high"))
        axes.fill_between(low.rounds, low.values, high.values, color=BLUE, alpha=0.15)
    if shown.is_share:
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    elif shown.labels.keys() & {"exploitability"}:
        axes.set_ylim(bottom=0)
    if len(shown.labels) > 1 or not known.keys() <= shown.labels.keys():
        axes.legend(loc="best")


def _answers_panel(curves: Curves) -> tuple[set[str], Callable[[Axes, Curves], None]]:
    """What is known of the answers: their shares in a game, else their scores."""
    shares = {name for name in curves if name.startswith(SHARE)}
    if shares:
        return shares, _draw_shares
    if "judge/win_prob_mean" in curves:  # scores against one's own group are 1/2 on average
        return {"judge/win_prob_mean"}, _draw_win_prob
    return {"judge/score_mean"}, _draw_score


def _draw_shares(axes: Axes, curves: Curves) -> None:
    _label(axes, "What the policy answers", "share of held-out answers")
    names = sorted(name for name in curves if name.startswith(SHARE))
    for name in names:
        axes.plot(*curves[name], linewidth=2, label=as_it_is(name.removeprefix(SHARE)))
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.legend(loc="best")


def _draw_win_prob(axes: Axes, curves: Curves) -> None:
    _label(axes, "How sure the judge is", "win probability of the chosen side")
    _draw_smoothed(axes, curves["judge/win_prob_mean"], BLUE)


def _draw_score(axes: Axes, curves: Curves) -> None:
    _label(axes, "Score of the training answers", "mean score of the judge")
    _draw_smoothed(axes, curves["judge/score_mean"], BLUE)


def _draw_loss(axes: Axes, curves: Curves) -> None:
    _label(axes, "Loss and margin", "loss")
    _draw_two(axes, curves, "policy/loss", "policy/margin", "margin, chosen over rejected")


def _draw_length(axes: Axes, curves: Curves) -> None:
    _label(axes, "Answer length and cut-off answers", "tokens, mean")
    other = _draw_two(axes, curves, "rollout/length_mean", "rollout/truncated_rate", "cut off")
    if other is not None:
        other.yaxis.set_major_formatter(PercentFormatter(1))
        other.set_ylim(0, max(0.01, 1.1 * curves["rollout/truncated_rate"].values.max()))


def _draw_logratios(axes: Axes, curves: Curves) -> None:
    _label(axes, "Distance from the anchor", "log-ratio to the anchor, nats per answer")
    axes.axhline(0, color="black", linewidth=0.8)
    for side, color in (("chosen", GREEN), ("rejected", RED)):
        if curve := curves.get(f"policy/{side}_logratio"):
            _draw_smoothed(axes, curve, color, side)
    axes.legend(loc="best")


def _draw_preferences(axes: Axes, curves: Curves) -> None:
    _label(axes, "What became of the preferences", "count per round")
    _draw_stack(axes, curves, OUTCOMES, share=0.1)


def _draw_seconds(axes: Axes, curves: Curves) -> None:
    _label(axes, "Where the time goes", "seconds per round")
    # Wide, so that what happens every few rounds is seen as its part of each.
    _draw_stack(axes, curves, STAGES, share=0.3)


def _draw_gap(axes: Axes, curves: Curves, limit: float | None) -> None:
    _label(axes, "Do rollouts run the same policy?", "log-probability gap, nats per token")
    curve = curves["weights/logprob_gap"]
    gaps = np.maximum(curve.values, LOWEST_GAP)
    axes.plot(curve.rounds, gaps, color=BLUE, linewidth=1, marker=_marker(curve), markersize=4)
    axes.set_yscale("log")
    highest = gaps.max()
    if limit:
        axes.axhline(limit, color=RED, linestyle="--", label="the run stops above this")
        axes.legend(loc="center right")
        highest = max(highest, limit)
    # Half a decade below the lowest, or a curve of zeros would lie on the frame.
    axes.set_ylim(
        10 ** (np.floor(np.log10(gaps.min())) - 0.5), 2 * 10 ** np.ceil(np.log10(highest))
    )


def _draw_two(axes: Axes, curves: Curves, left: str, right: str, label: str) -> Axes | None:
    """Two metrics of different units; axis labels and ticks have the colour of their curve."""
    if left in curves:
        _draw_smoothed(axes, curves[left], BLUE)
        axes.yaxis.label.set_color(BLUE)
        axes.tick_params(axis="y", colors=BLUE)
    if right not in curves:
        return None
    other = axes.twinx()
    other.spines[["top", "left"]].set_visible(False)
    other.set_ylabel(label, color=ORANGE)
    other.tick_params(axis="y", colors=ORANGE)
    _draw_smoothed(other, curves[right], ORANGE)
    return other


def _draw_stack(
    axes: Axes, curves: Curves, layers: Mapping[str, tuple[str, str]], share: float
) -> None:
    during = {name: _during(curves[name]) for name in layers if name in curves}
    shown = {name: curve for name, curve in during.items() if curve.values.any()}
    if not shown:
        return
    last = max(curve.rounds[-1] for curve in shown.values())
    heights = np.zeros((len(shown), last + 1))
    for row, curve in zip(heights, shown.values(), strict=True):
        row[curve.rounds] = curve.values
        row[1:] = _smooth(row[1:], share)
    # A step reaches back to the round before, so the first needs one.
    heights[:, 0] = heights[:, 1]
    labels, colors = zip(*(layers[name] for name in shown), strict=True)
    axes.stackplot(
        np.arange(last + 1), heights, labels=labels, colors=colors, alpha=0.85, step="pre"
    )
    axes.set_ylim(0, 1.35 * heights.sum(axis=0).max())
    axes.legend(loc="upper center", ncols=2, fontsize=8, columnspacing=0.8, handlelength=1)


def _draw_smoothed(axes: Axes, curve: Curve, color: str, label: str | None = None) -> None:
    axes.plot(*curve, color=color, alpha=0.25, linewidth=0.8)
    smooth = _smooth(curve.values, share=0.1)
    marker = _marker(curve)
    axes.plot(
        curve.rounds, smooth, color=color, linewidth=2, marker=marker, markersize=4, label=label
    )


def _during(curve: Curve) -> Curve:
    """Without what was measured before training."""
    return Curve(*(part[curve.rounds > 0] for part in curve))


def _marker(curve: Curve) -> str:
    return "o" if len(curve.values) < 10 else ""


def _smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Weighted means over that share of the run, around each point; at the ends, over less."""
    window = np.bartlett(2 * int(len(values) * share / 2) + 3)[1:-1]
    sums = np.convolve(values, window, mode="same")
    return sums / np.convolve(np.ones(len(values)), window, mode="same")


def _label(axes: Axes, title: str, label: str) -> None:
    # At a height, or it is looked for.
    axes.set_title(title, loc="left", y=1.0, fontsize=11, fontweight="bold")
    axes.set_ylabel(label)
