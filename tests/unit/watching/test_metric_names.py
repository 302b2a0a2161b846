"""The table of metrics, beside the code that makes them."""

import ast
import re
from pathlib import Path

import pytest

from rlhf.records import DropReason
from rlhf.watching.metric_names import METRICS, describe, is_repeatable, rows
from rlhf.watching.terminal import SHOWN

ROOT = Path(__file__).parents[3]
STAGES = {name.partition("/")[0] for name in METRICS}


def names_in_code() -> set[str]:
    """Every text in the code that looks like the name of a metric."""
    files = [file for folder in ("rlhf", "actors") for file in (ROOT / folder).rglob("*.py")]
    trees = [ast.parse(file.read_text()) for file in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    parts = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    texts = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts
    }
    return {
        text for text in texts if re.fullmatch(rf"({'|'.join(STAGES)})/[a-z0-9_]*[a-z0-9]", text)
    }


def test_every_metric_that_the_code_names_is_documented():
    names = names_in_code()
    assert len(names) > 40
    assert {name for name in names if describe(name) is None} == set()


def test_every_metric_that_the_code_composes_is_documented():
    composed = [f"preference/dropped_{reason}" for reason in DropReason]
    composed += SHOWN
    composed += ["eval/share_rock", "eval/share_none", "system/rollout_gpu_utilization"]
    assert [name for name in composed if describe(name) is None] == []


def test_a_name_by_itself_is_not_enough():
    assert describe("policy/lots") is None
    assert describe("loss") is None
    assert describe("share_rock") is None


def test_the_design_s_metrics_are_there_under_their_names():
    named = """
    time/{collect,anchor,update,publish,round}_s
    rollout/{tokens_per_s,length_mean,truncated_rate,unique_rate,entropy}
    judge/{score_mean,invalid_rate,tie_rate,win_prob_mean}
    preference/{count,dropped_tie,dropped_identical,dropped_truncated,margin_mean,length_gap}
    policy/{loss,grad_norm,lr,margin,accuracy,chosen_logratio,rejected_logratio,kl}
    weights/{version,bytes,logprob_gap} staleness/{mean}
    """
    for start, middle, end in re.findall(r"(\S+){(\S+)}(\S*)", named):
        for name in middle.split(","):
            assert f"{start}{name}{end}" in METRICS


@pytest.mark.parametrize("name", METRICS)
def test_a_meaning_is_one_line(name):
    metric = METRICS[name]
    assert metric.meaning and "\n" not in metric.meaning and "{}" not in metric.meaning
    assert not metric.meaning.endswith(".")
    for unit in ("s", "bytes"):
        assert name.endswith(f"_{unit}") <= (metric.unit.endswith(unit))


def test_only_the_clock_and_the_machine_differ_between_equal_runs():
    differing = {name for name in METRICS if not is_repeatable(name)}
    parts = {name.partition("/")[0] for name in differing}
    assert parts == {"time", "system", "cluster", "rollout"}
    assert "rollout/tokens_per_s" in differing and "rollout/length_mean" not in differing


def test_the_page_about_metrics_has_them_all_and_no_others():
    page = (ROOT / "docs" / "metrics.md").read_text()
    # `python -m rlhf.watching.metric_names` prints them.
    assert re.findall(r"^\| `[a-z]+/.*", page, re.MULTILINE) == rows()
    mentioned = set(re.findall(r"`([a-z]+/[a-z0-9_]+)`", page))
    assert {name for name in mentioned if describe(name) is None} == set()
