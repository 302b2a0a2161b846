"""Combinations that are allowed, and told of before a run."""

from pathlib import Path

import pytest
from composing import compose
from omegaconf import OmegaConf

from rlhf.launching.cautions import cautions
from rlhf.launching.checks import config_problems
from rlhf.launching.command_line import typed

CONF = Path(__file__).parents[3] / "conf"
EXPERIMENTS = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


def told(experiment: str, *overrides: str) -> list[str]:
    words = ["run.dir=/tmp/run", f"experiment={experiment}", *overrides]
    config = compose("train", words)
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, "hub/some")
    whole = typed(config)
    assert config_problems(whole) == []
    return list(cautions(whole))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_no_recipe_needs_a_caution(experiment):
    assert told(experiment) == []


@pytest.mark.parametrize(
    ("overrides", "begins", "ends"),
    [
        (
            ["experiment=game_nash_md", "round.epochs=4"],
            "warning: round.epochs=4: Nash-MD follows",
            "set round.epochs=1, and more rounds",
        ),
        (
            ["experiment=demo", "objective=vpo"],
            "warning: objective=vpo: none of its sides is the initial policy's",
            "set algorithm=vpo, or another objective",
        ),
        (
            ["experiment=game_nash_md", "max_staleness=2"],
            "warning: max_staleness=2: Nash-MD follows",
            "set max_staleness=0",
        ),
        (
            ["experiment=game_online_ipo", "round.epochs=2"],
            "warning: round.epochs=2: online IPO follows",
            "set round.epochs=1, and more rounds",
        ),
        (
            ["experiment=game_online_ipo", "algorithm=ipo_md", "max_staleness=1"],
            "warning: max_staleness=1: online IPO follows",
            "set max_staleness=0",
        ),
        (
            ["experiment=game_online_ipo", "algorithm.temperature=0.7"],
            "warning: algorithm.temperature=0.7, algorithm.top_p=1: online IPO follows",
            "set both to 1",
        ),
        (
            ["experiment=demo", "objective=kto", "max_staleness=1"],
            "warning: max_staleness=1: objective=kto takes z",
            "set max_staleness=0",
        ),
    ],
)  # fmt: skip
def test_completions_of_another_policy_are_told_of(overrides, begins, ends):
    first, *others = overrides
    (one,) = told(first.removeprefix("experiment="), *others)
    assert one.startswith(begins) and one.endswith(ends) and "\n" not in one


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [
        ("game", ["max_staleness=1"]),
        ("game_sppo", ["max_staleness=1"]),
        ("demo", ["round.epochs=4", "max_staleness=1"]),
        ("demo", ["objective=ipo", "max_staleness=1"]),
        ("demo", ["objective=kto", "round.epochs=2"]),
    ],
)
def test_what_holds_for_any_completion_is_not_told_of(experiment, overrides):
    assert told(experiment, *overrides) == []


def test_both_ways_to_be_late_are_told_at_once():
    assert len(told("game_nash_md", "round.epochs=2", "max_staleness=1")) == 2


@pytest.mark.parametrize("overrides, count", [((), 1), (("run.checkpoint_every=140",), 0)])
def test_the_best_of_checkpoints_that_are_not_measured_is_told_of(overrides, count):
    found = told("demo", "run.keep_best=eval/sampled_accuracy", *overrides)
    assert [line.partition(": ")[2].partition(":")[0] for line in found] == [
        "run.keep_best=eval/sampled_accuracy"
    ] * count
