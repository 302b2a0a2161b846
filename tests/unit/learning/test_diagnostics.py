"""What is shown of each pair in training, worked by hand."""

import math

import pytest
import torch

from rlhf.learning.diagnostics import PAIR_METRICS, pair_metrics
from rlhf.objectives import PairLogprobs, SideLogprobs
from rlhf.objectives.base import Anchor
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


def shown(objective) -> dict[str, list[float]]:
    loss_B = vector(0.7, 0.8)
    values = pair_metrics(objective, loss_B, POLICY, ANCHORS)
    return {name: value_B.tolist() for name, value_B in zip(PAIR_METRICS, values, strict=True)}


def test_ratios_to_the_objective_s_own_anchor():
    found = shown(DPOConfig(beta=0.5, anchor=Anchor.previous))
    # σ(-1), and one half where policy and anchor agree.
    assert found.pop("dpo_weight") == pytest.approx([1 / (1 + math.e), 0.5])
    assert found == {
        "loss": [0.7, 0.8],
        "margin": [2, 0],
        "accuracy": [1, 0],
        "chosen_logratio": [2, 0],
        "rejected_logratio": [0, 0],
        "kl": [1, 0],
        "chosen_logprob": [-2, -2],
        "rejected_logprob": [-3, -3],
    }
    assert shown(DPOConfig(beta=0.5))["margin"] == [5, -3]
    assert shown(RDPOConfig(beta=0.5))["dpo_weight"] == shown(DPOConfig(beta=0.5))["dpo_weight"]


@pytest.mark.parametrize("objective", [SimPOConfig(), SLiCConfig()])
def test_without_anchor_ratios_are_to_nothing_and_no_weight_is_shown(objective):
    found = shown(objective)
    assert not objective.has_dpo_weight
    assert found["dpo_weight"] == [0, 0]
    assert (found["chosen_logratio"], found["rejected_logratio"]) == ([-4, -6], [-9, -3])


def test_nothing_of_it_is_learnt_from():
    chosen_B = vector(-4, -6).requires_grad_()
    policy = PairLogprobs(chosen_B, vector(-9, -3), vector(2, 3), vector(3, 1))
    objective = DPOConfig(anchor=Anchor.previous)
    names = dict(
        zip(PAIR_METRICS, pair_metrics(objective, vector(0, 0), policy, ANCHORS), strict=True)
    )
    assert not names["margin"].requires_grad and not names["dpo_weight"].requires_grad
