"""What people are alerted of, and how often."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.config.run import TrackingConfig
from rlhf.watching.alerts import Alerts

CONFIG = TrackingConfig(alert_truncated_rate=0.3, alert_invalid_rate=0.05, alert_gap_share=0.5)


def alerts() -> Alerts:
    return Alerts(CONFIG, max_logprob_gap=0.1)


@pytest.mark.parametrize(
    ("metric", "well", "wrong", "told"),
    [
        ("rollout/truncated_rate", 0.3, 0.31, "rollout/truncated_rate is 0.31, above 0.3: "),
        ("judge/invalid_rate", 0.05, 0.0625, "judge/invalid_rate is 0.0625, above 0.05: "),
        ("weights/logprob_gap", 0.05, 0.0625, "weights/logprob_gap is 0.0625, above 0.05: "),
        ("policy/skipped_steps", 0, 1, "policy/skipped_steps is 1, above 0: "),
        ("policy/loss", -1e9, math.nan, "not finite, so null: policy/loss"),
        ("eval/score_mean", 1e9, math.inf, "not finite, so null: eval/score_mean"),
    ],
)
def test_a_cause_is_told_once_until_it_is_well_again(metric, well, wrong, told):
    watch = alerts()
    others = {"policy/accuracy": 1.0, "rollout/entropy": 0.0}
    found = [watch.new(others | {metric: value}) for value in (well, wrong, wrong, well, wrong)]
    assert [len(new) for new in found] == [0, 1, 0, 0, 1]
    assert found[1][0].text.startswith(told)
    assert found[1] == found[4]


def test_a_metric_that_is_absent_is_as_it_was():
    watch = alerts()
    values = ({"judge/invalid_rate": 1.0}, {}, {"judge/invalid_rate": 1.0})
    assert [len(watch.new(metrics)) for metrics in values] == [1, 0, 0]


def test_all_that_is_newly_not_finite_is_one_alert():
    watch = alerts()
    watch.new({"policy/loss": math.nan, "policy/margin": 0.0})
    (alert,) = watch.new(dict.fromkeys(("policy/loss", "policy/margin", "policy/kl"), math.nan))
    assert (alert.text, alert.is_error) == ("not finite, so null: policy/kl, policy/margin", True)


def test_a_bound_says_nothing_of_what_is_not_finite():
    (alert,) = alerts().new({"weights/logprob_gap": math.nan})
    assert alert.title == "Numbers are not finite"


@given(st.lists(st.booleans()))
def test_there_are_as_many_alerts_as_turns_for_the_worse(states):
    watch = alerts()
    count = sum(len(watch.new({"judge/invalid_rate": float(state)})) for state in states)
    turns = zip([False, *states], states, strict=False)
    assert count == sum(not before and now for before, now in turns)


def test_wandb_takes_the_titles():
    """Which must have fewer than 64 characters."""
    metrics = ("rollout/truncated_rate", "judge/invalid_rate", "weights/logprob_gap")
    found = alerts().new(dict.fromkeys((*metrics, "policy/skipped_steps"), 1.0) | {"a": math.nan})
    assert len(found) == 5
    assert all(len(alert.title) < 64 for alert in found)


def test_rounds_without_preferences_are_told_when_there_are_five_in_a_row():
    watch = alerts()
    counts = [0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 7, 0]
    found = [watch.new({"preference/count": count}) for count in counts]
    assert [len(new) for new in found] == [0] * 9 + [1] + [0] * 3
    assert found[9][0].text.startswith("no preference in 5 rounds: ")


@pytest.mark.parametrize(
    ("name", "first", "well", "worse"),
    [
        ("sampled_accuracy", 0.5, 0.41, 0.39),
        ("exploitability", 0.1, 0.19, 0.21),
        ("score_mean", -20.0, -21.9, -22.1),
    ],
)
def test_a_policy_that_is_worse_than_at_first_is_told(name, first, well, worse):
    watch = alerts()
    found = [watch.new({f"eval/{name}": value}) for value in (first, well, worse)]
    assert [len(new) for new in found] == [0, 0, 1]
    assert watch.standing == [found[2][0].text]
    watch.new({f"eval/{name}": first})
    assert watch.standing == []
