"""What is logged of each pair in training, worked by hand."""

import math
import subprocess
import sys

import pytest
import torch

from rlhf.diagnostics import DIAGNOSTICS, PAIR_METRICS, TrainedPairs, names_for, pair_metrics
from rlhf.objectives import OBJECTIVES, Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.rdpo import RDPOConfig
from rlhf.objectives.simpo import SimPOConfig
from rlhf.objectives.slic import SLiCConfig


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


POLICY = PairLogprobs(vector(-4, -6), vector(-9, -3), vector(2, 3), vector(3, 1))
ANCHORS = {
    "previous": SideLogprobs(vector(-6, -6), vector(-9, -3)),
    "initial": SideLogprobs(vector(-5, -5), vector(-5, -5)),
}
JUDGED = Judged(vector(1, 1), vector(1, 1), vector(0, 0), vector(0, 0), vector(0, 0))


def shown(objective: ObjectiveConfig) -> dict[str, list[float]]:
    given = Pairs(POLICY, ANCHORS, JUDGED, memory=objective.first_memory())
    pairs = TrainedPairs(objective, vector(0.7, 0.8), given)
    return {name: value_B.tolist() for name, value_B in pair_metrics(pairs).items()}


def test_ratios_to_the_objective_s_own_anchor():
    found = shown(DPOConfig(beta=0.5, anchor=Anchor.previous))
    # σ(-1), and one half where policy and anchor agree.
    assert found.pop("dpo_weight") == pytest.approx([1 / (1 + math.e), 0.5])
    expected = {
        "loss": [0.7, 0.8],
        "margin": [2, 0],
        "accuracy": [1, 0],
        "chosen_logratio": [2, 0],
        "rejected_logratio": [0, 0],
        "kl": [1, 0],
        "chosen_logprob": [-2, -2],
        "rejected_logprob": [-3, -3],
    }
    assert {name: found[name] for name in expected} == expected
    assert shown(DPOConfig(beta=0.5))["margin"] == [5, -3]
    assert shown(RDPOConfig(beta=0.5))["dpo_weight"] == shown(DPOConfig(beta=0.5))["dpo_weight"]


@pytest.mark.parametrize("objective", [SimPOConfig(), SLiCConfig()])
def test_without_anchor_ratios_are_to_nothing_and_no_weight_is_shown(objective):
    found = shown(objective)
    assert "dpo_weight" not in found
    assert (found["chosen_logratio"], found["rejected_logratio"]) == ([-4, -6], [-9, -3])


def test_nothing_of_it_is_learnt_from():
    sides = [vector(-4, -6).requires_grad_(), vector(-9, -3).requires_grad_()]
    policy = PairLogprobs(*sides, vector(2, 3), vector(3, 1))
    pairs = TrainedPairs(DPOConfig(), policy.chosen_B, Pairs(policy, ANCHORS, JUDGED))
    assert not any(value_B.requires_grad for value_B in pair_metrics(pairs).values())


@pytest.mark.parametrize("objective", OBJECTIVES.values())
def test_the_names_of_an_objective_are_known_before_its_numbers(objective):
    takes = {"of": DPOConfig()} if "of" in objective.__dataclass_fields__ else {}
    found = shown(objective(**takes))
    assert list(found) == names_for(objective(**takes))
    assert all(len(values) == 2 for values in found.values())


def test_every_metric_has_one_file_and_those_of_a_panel_one_unit():
    metrics = [metric for one in DIAGNOSTICS.values() for metric in one.metrics]
    assert [metric.name for metric in metrics] == list(PAIR_METRICS)
    for one in DIAGNOSTICS.values():
        assert one.title and one.axis
        assert len({metric.metric.unit for metric in one.metrics}) == 1


def test_the_first_panels_are_those_that_people_look_at_first():
    assert list(DIAGNOSTICS)[:3] == ["loss", "margin", "accuracy"]


def test_names_are_known_without_torch():
    code = "import sys, rlhf.workspace, rlhf.report.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
