"""Which plots the page of a run has: every metric is in one of them, or by itself at the end."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf.diagnostics import DIAGNOSTICS
from rlhf.diagnostics.base import Metric
from rlhf.watching.metric_names import ROLES, describe
from rlhf.watching.metrics import RESTARTS
from rlhf.watching.panels import (
    BLUE,
    EVALUATIONS,
    GREEN,
    GREY,
    LOWEST_GAP,
    ORANGE,
    OUTCOMES,
    PURPLE,
    RED,
    SHARE,
    STAGES,
    Curves,
)

PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, "#c8a000", "#56b4e9", "#d783b5", "#8b5a2b", GREY)
SIDES = {"chosen": GREEN, "rejected": RED}
OTHER = "All other metrics"
PASS = "eval/pass_at_"

Scale = Literal["linear", "share", "log"]


@dataclass(frozen=True)
class Line:
    """One metric in a plot."""

    metric: str
    label: str
    color: str


@dataclass(frozen=True)
class Plot:
    """Metrics that are looked at together; those that a run lacks are left out."""

    title: str
    axis: str
    lines: Sequence[Line]
    scale: Scale = "linear"
    stacked: bool = False
    limit: float | None = None
    """Where a run stops."""
    band: tuple[str, str] | None = None
    """Metrics of the lower and the upper end of the first line's uncertainty."""

    @property
    def metrics(self) -> set[str]:
        return {line.metric for line in self.lines} | set(self.band or ())


@dataclass(frozen=True)
class Section:
    """Plots under one heading."""

    title: str
    plots: Sequence[Plot] = field(default_factory=list)


def plot(title: str, axis: str, labels: Mapping[str, str], **settings: Any) -> Plot:
    """A plot of metrics with these labels, in the usual colours."""
    lines = [
        Line(metric, label, SIDES.get(label, PALETTE[place % len(PALETTE)]))
        for place, (metric, label) in enumerate(labels.items())
    ]
    return Plot(title, axis, lines, **settings)


def sections(curves: Curves, max_logprob_gap: float | None) -> list[Section]:
    """What a run with these metrics shows; each metric is in at least one plot."""
    wanted = [
        Section("Evaluation", list(_evaluation(curves))),
        Section("Policy", POLICY),
        Section("Judge", [*JUDGE, *_of_members(curves)]),
        Section("Preferences", PREFERENCES),
        Section("Rollouts", ROLLOUTS),
        Section("Time", TIME),
        Section("Weights", list(_weights(max_logprob_gap))),
        Section("Machines", list(_system(curves))),
        Section("Search trees", TREES),
    ]
    found = [Section(one.title, list(_known(one.plots, curves))) for one in wanted]
    shown = {metric for one in found for plot in one.plots for metric in plot.metrics}
    found.append(Section(OTHER, [_alone(name) for name in sorted(curves.keys() - shown)]))
    return [section for section in found if section.plots]


def _known(plots: Sequence[Plot], curves: Curves) -> Iterator[Plot]:
    for one in plots:
        if lines := [line for line in one.lines if line.metric in curves]:
            band = one.band if one.band and curves.keys() >= set(one.band) else None
            yield Plot(one.title, one.axis, lines, one.scale, one.stacked, one.limit, band)


def _stack(title: str, axis: str, layers: Mapping[str, tuple[str, str]]) -> Plot:
    lines = [Line(metric, *layer) for metric, layer in layers.items()]
    return Plot(title, axis, lines, stacked=True)


def _alone(name: str) -> Plot:
    metric = describe(name)
    return plot(name, metric.unit if metric else "", {name: name}, scale=_scale(metric))


def _scale(metric: Metric | None) -> Scale:
    return "share" if metric and metric.unit == "share" else "linear"


def _evaluation(curves: Curves) -> Iterator[Plot]:
    ends = ("eval/exploitability_low", "eval/exploitability_high")
    for one in EVALUATIONS:
        labels = {f"eval/{name}": label or one.axis for name, label in one.lines.items()}
        scale: Scale = "share" if one.is_share else "linear"
        band = ends if "eval/exploitability" in labels else None
        yield plot(one.title, one.axis, labels, scale=scale, band=band)
    shares = sorted(name for name in curves if name.startswith(SHARE))
    labels = {name: name.removeprefix(SHARE) for name in shares}
    yield plot("What the policy answers", "share of held-out answers", labels, scale="share")
    passes = sorted((n for n in curves if n.startswith(PASS)), key=lambda n: int(n[len(PASS) :]))
    labels = {name: f"of {name[len(PASS) :]}" for name in passes}
    yield plot("Right among several samples", "share of prompts", labels, scale="share")
    yield _each("Parts of the held-out score", "eval/part_", curves)
    yield _each("Parts of the gold score", "eval/gold_part_", curves)
    yield from EVALUATION
    yield _each("Held-out failures of members", "eval/failed_", curves, "share")
    yield _each("Failures of the gold judge's members", "eval/gold_failed_", curves, "share")


def _of_members(curves: Curves) -> Iterator[Plot]:
    yield _each("Parts of the score", "judge/part_", curves)
    yield _each("Failures of members", "judge/failed_", curves, "share")
    yield plot("Agreement of members", "Cohen's kappa", {"judge/kappa": "of every two"})
    yield plot("What judging takes", "tokens", {"judge/written_tokens": "of written tests"})


def _each(title: str, prefix: str, curves: Curves, scale: Scale = "linear") -> Plot:
    """A line for each metric whose name begins so."""
    names = sorted(name for name in curves if name.startswith(prefix))
    labels = {name: name.removeprefix(prefix) for name in names}
    return plot(title, "share" if scale == "share" else "mean", labels, scale=scale)


def _weights(max_logprob_gap: float | None) -> Iterator[Plot]:
    yield plot(
        "Do rollouts run the same policy?",
        f"nats per token; below {LOWEST_GAP:g} is rounding",
        {"weights/logprob_gap": "log-probability gap"},
        scale="log",
        limit=max_logprob_gap,
    )
    yield plot("Staleness", "age of the sampling policy, rounds", {"staleness/mean": "mean"})


def _system(curves: Curves) -> Iterator[Plot]:
    """One plot for each thing that is measured of the roles."""
    measured: dict[str, dict[str, str]] = {}
    for name in sorted(name for name in curves if name.startswith("system/")):
        role, _, what = name.removeprefix("system/").partition("_")
        if role in ROLES and what:
            measured.setdefault(what, {})[name] = role
    for what, labels in measured.items():
        share = what.endswith("utilization")
        title = what.removesuffix("_bytes").replace("_", " ").replace("gpu", "GPU")
        axis = "share of the time" if share else what.rpartition("_")[2]
        yield plot(title[0].upper() + title[1:], axis, labels, scale="share" if share else "linear")
    roles = {f"{RESTARTS}{role}": role for role in ROLES}
    yield plot("Workers that were lost and started anew", "times so far", roles)


EVALUATION = [
    plot("Best of several samples", "share of prompts",
         {"eval/best_of_n": "best of n", "eval/gold_best_of_n": "best of n, gold"},
         scale="share"),
    plot("Nash gap", "what both players could gain",
         {"eval/nash_gap": "last policy", "eval/nash_gap_average": "average policy"}),
    plot("Held-out length", "tokens", {"eval/length_mean": "mean length"}),
    plot("Held-out variety", "share",
         {"eval/unique_rate": "different texts", "eval/distinct_1": "different tokens",
          "eval/distinct_2": "different pairs of tokens"}, scale="share"),
    plot("Held-out failures", "share",
         {"eval/truncated_rate": "cut off", "eval/invalid_rate": "judge failed",
          "eval/gold_invalid_rate": "gold judge failed"}, scale="share"),
]  # fmt: skip
POLICY = [
    *(
        plot(one.title, one.axis, {f"policy/{each.name}": each.label for each in one.metrics},
             scale=_scale(one.metrics[0].metric))
        for one in DIAGNOSTICS.values()
    ),
    plot("Gradient norm", "before clipping", {"policy/grad_norm": "mean"}),
    plot("Learning rate", "of the last step", {"policy/lr": "learning rate"}),
]  # fmt: skip
JUDGE = [
    plot("Score of the training answers", "mean score", {"judge/score_mean": "score"}),
    plot("How sure the judge is", "win probability of the chosen side",
         {"judge/win_prob_mean": "win probability"}, scale="share"),
    plot("Ties and failures", "share",
         {"judge/tie_rate": "ties", "judge/invalid_rate": "judge failed"}, scale="share"),
    plot("Consistency", "share",
         {"judge/order_disagreement": "orders disagree", "judge/cycle_rate": "cycles"},
         scale="share"),
]  # fmt: skip
PREFERENCES = [
    _stack("What became of the preferences", "count per round", OUTCOMES),
    plot("Margin by the judge", "score, chosen minus rejected", {"preference/margin_mean": "mean"}),
    plot("Length gap", "tokens, chosen minus rejected", {"preference/length_gap": "mean"}),
    plot("Likeness of the sides", "share of tokens", {"preference/similarity": "mean"},
         scale="share"),
]  # fmt: skip
ROLLOUTS = [
    plot("Answer length", "tokens", {"rollout/length_mean": "mean length"}),
    plot("Cut-off and failed answers", "share",
         {"rollout/truncated_rate": "cut off", "rollout/failed_rate": "failed"}, scale="share"),
    plot("Entropy", "nats per token", {"rollout/entropy": "entropy"}),
    plot("Different answers to a prompt", "share", {"rollout/unique_rate": "unique"},
         scale="share"),
]  # fmt: skip
TIME = [
    _stack("Where the time goes", "seconds per round", STAGES),
    plot("Tokens per second", "of the whole round", {"rollout/tokens_per_s": "sampled tokens"}),
    plot("Whole rounds", "seconds per round", {"time/round_s": "round"}),
]
TREES = [
    plot("Size of a tree", "count",
         {"tree/size": "nodes", "tree/num_simulations": "simulations", "tree/depth": "depth"}),
    plot("What trees find", "score",
         {"tree/path_accuracy": "end of the best path", "tree/terminal_accuracy": "all answers"}),
    plot("Difference in value of a pair", "quantiles of the pairs",
         {"tree/q_gap_p10": "10 %", "tree/q_gap_p50": "50 %", "tree/q_gap_p90": "90 %"}),
    plot("Doubt of the labels", "quantiles of the pairs",
         {f"tree/smoothing_p{q}": f"{q} %" for q in (10, 50, 90)}),
    plot("Cost of a pair", "per pair",
         {"tree/tokens_per_pair": "tokens", "tree/judged_per_pair": "judgements"}),
]  # fmt: skip
