"""What pictures of a run show: its curves, and the words and colours of each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf.records import DropReason
from rlhf.watching.metrics import GOLD_PREFIX

BLUE, ORANGE, GREEN, RED = "#0072b2", "#e07b00", "#009e73", "#c8382e"
PURPLE, GREY = "#8a5fbf", "#9a9a9a"


class Evaluation(NamedTuple):
    """A way to evaluate, as a panel shows it."""

    title: str
    axis: str
    labels: Mapping[str, str]
    """By key without `eval/`."""
    is_share: bool = True

    @property
    def lines(self) -> dict[str, str]:
        """The labels, and those of what the judge of `eval.gold` finds in the same way, so that
        where the one rises and the other falls, it is seen."""
        gold = {
            f"{GOLD_PREFIX}{name}": f"{label}, gold" if label else "the gold judge"
            for name, label in self.labels.items()
        }
        return {**self.labels, **gold}


EVALUATIONS = (
    Evaluation(
        "Held-out accuracy",
        "answers that are correct",
        {"sampled_accuracy": "sampled", "greedy_accuracy": "greedy"},
    ),
    Evaluation(
        "Distance from equilibrium",
        "exploitability",
        {"exploitability": "last policy", "exploitability_average": "average policy"},
        is_share=False,
    ),
    Evaluation("Wins against the initial policy", "share of prompts", {"win_rate": "policy"}),
    Evaluation(
        "Satisfied held-out users",
        "share of users",
        {"satisfied_rate": "sampled", "greedy_satisfied_rate": "greedy"},
    ),
    Evaluation("Held-out score", "mean score of the judge", {"score_mean": ""}, is_share=False),
)
"""A run is shown by the first that it has."""

OUTCOMES = {"preference/count": ("trained on", BLUE)} | {
    f"preference/dropped_{reason}": (f"dropped: {reason.label}", reason.colour)
    for reason in DropReason
}

STAGES = {
    "time/collect_s": ("collect", BLUE),
    "time/anchor_s": ("anchor", GREEN),
    "time/update_s": ("update", ORANGE),
    "time/publish_s": ("publish", PURPLE),
    "time/evaluate_s": ("evaluate", RED),
    "time/checkpoint_s": ("checkpoint", GREY),
}

HEADLINES = {
    "sampled_accuracy": ("sampled accuracy", "{:.0%}"),
    "greedy_accuracy": ("greedy accuracy", "{:.0%}"),
    "exploitability": ("exploitability", "{:.3f}"),
    "exploitability_average": ("of the average policy", "{:.3f}"),
    "win_rate": ("wins against the initial policy", "{:.0%}"),
    "satisfied_rate": ("satisfied users", "{:.0%}"),
    f"{GOLD_PREFIX}sampled_accuracy": ("gold accuracy", "{:.0%}"),
    f"{GOLD_PREFIX}win_rate": ("gold wins", "{:.0%}"),
    f"{GOLD_PREFIX}score_mean": ("gold score", "{:.3g}"),
}
"""What the headline says of an evaluation, without `eval/`, and how."""

SHARE = "eval/share_"

LOWEST_GAP = 1e-9
"""Nats per token; a smaller gap is rounding, and a logarithmic axis has no 0."""


class Curve(NamedTuple):
    """One metric where it is known, in order."""

    rounds: np.ndarray
    """Rounds finished; 0 is before training."""
    values: np.ndarray


Curves = Mapping[str, Curve]


def read_curves(records: Sequence[Mapping[str, Any]]) -> Curves:
    """Every metric that was a number at least once, from the lines of `metrics.jsonl`."""
    names = {name for record in records for name in record if "/" in name}
    known = {name: [r for r in records if r.get(name) is not None] for name in names}
    return {
        name: Curve(
            np.array([record["round"] + 1 for record in some]),
            np.array([record[name] for record in some], dtype=float),
        )
        for name, some in known.items()
        if some
    }


def as_it_is(text: str) -> str:
    """A text from outside as a picture is to show it: neither as a formula, nor as one of those
    labels that legends leave out."""
    escaped = text.replace("$", r"\$")
    return f" {escaped}" if escaped.startswith("_") else escaped


def headlines(curves: Curves) -> list[tuple[str, list[str]]]:
    """What was evaluated, in words, and its first and last value; only one if it was only once."""
    found = []
    for name, (words, number) in HEADLINES.items():
        if curve := curves.get(f"eval/{name}"):
            ends = curve.values[[0, -1]] if len(curve.values) > 1 else curve.values
            found.append((words, [number.format(end) for end in ends]))
    return found
