"""LCPO around other losses: worked by hand, its limits, and what it remembers of steps."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.diagnostics import TrainedPairs, names_for, pair_metrics
from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.ipo import IPOConfig, Reduce
from rlhf.objectives.kto import KTOConfig
from rlhf.objectives.lcpo import RELIABILITY, LCPOConfig
from rlhf.objectives.rrpo import RRPOConfig
from rlhf.objectives.simpo import SimPOConfig
from rlhf.objectives.sppo import SPPOConfig
from rlhf.objectives.tpo import TPOConfig
from rlhf.options import Fact

nats = st.floats(-50, 0)


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def example(memory: float = 0.9, chosen: float = -10.0, rejected: float = -12.0) -> Pairs:
    """E of the methods catalogue: margin 1.5 in log-ratios, 5 and 8 tokens."""
    policy = PairLogprobs(
        number(chosen).requires_grad_(),
        number(rejected).requires_grad_(),
        torch.tensor([5]),
        torch.tensor([8]),
    )
    zero_B = number(0.0)
    return Pairs(
        policy,
        {"initial": SideLogprobs(number(-11.0), number(-11.5))},
        Judged(number(1.0), number(1.0), zero_B, zero_B, zero_B),
        memory={RELIABILITY: memory},
    )


def test_worked_by_hand_around_dpo():
    config, pairs = LCPOConfig(of=DPOConfig()), example()
    # ℓ is 0.620957 and of the opposite label 0.770957: p = σ(0.15) = 0.53743, with odds 1.161834;
    # times those of η = 0.9, which are 9, they are 10.456506: c = 0.912713.
    confidence = config.noticed(pairs)
    assert confidence[RELIABILITY].item() == pytest.approx(0.912713, abs=1e-6)
    assert config.loss(pairs).item() == pytest.approx(0.63405, abs=1e-5)
    after = config.after_step(config.first_memory(), {RELIABILITY: 0.912713})
    assert after == {RELIABILITY: pytest.approx(0.901271, abs=1e-6)}
    shown = pair_metrics(TrainedPairs(config, config.loss(pairs), pairs))
    assert shown["label_confidence"].item() == pytest.approx(0.912713, abs=1e-6)
    assert "label_confidence" not in names_for(DPOConfig())


def test_around_ipo_p_is_sigma_of_twice_the_margin_over_tau():
    # (Δ + 5)² - (Δ - 5)² = 20Δ for τ = 0.1
    config = LCPOConfig(of=IPOConfig(reduce=Reduce.sum, tau=0.1))
    assert config.loss(example(1 - 1e-12)).item() == pytest.approx(math.log1p(math.exp(-30)))


@given(chosen=nats, rejected=nats)
def test_labels_that_are_surely_right_leave_minus_log_p(chosen: float, rejected: float):
    pairs = example(1 - 1e-12, chosen, rejected)
    margin = pairs.log_ratios("initial")
    lead_B = 0.1 * (margin.chosen_B - margin.rejected_B)
    found = LCPOConfig(of=DPOConfig()).loss(pairs)
    assert found.item() == pytest.approx(torch.nn.functional.softplus(-lead_B).item(), abs=1e-9)


@given(reliability=st.floats(0.01, 0.99))
def test_a_pair_of_which_the_policy_says_nothing_is_right_as_often_as_labels_are(reliability):
    pairs = example(reliability, chosen=-11.0, rejected=-11.5)
    config = LCPOConfig(of=DPOConfig())
    assert config.noticed(pairs)[RELIABILITY].item() == pytest.approx(reliability)


def test_no_gradient_flows_through_the_confidence():
    config, pairs = LCPOConfig(of=DPOConfig()), example()
    (slope,) = torch.autograd.grad(config.loss(pairs).sum(), pairs.policy.chosen_B)
    # d/dlead of -c ln σ(lead) - (1-c) ln σ(-lead) is p - c, and lead grows with β = 0.1
    assert slope.item() == pytest.approx(0.1 * (0.53743 - 0.912713), abs=1e-6)


@pytest.mark.parametrize("of", [DPOConfig(), SimPOConfig(), KTOConfig(), RRPOConfig()])
def test_it_needs_what_the_objective_needs_that_it_is_around(of: ObjectiveConfig):
    config = LCPOConfig(of=of)
    assert config.anchor_names == of.anchor_names
    assert config.needs_tokens == of.needs_tokens
    assert list(config.problems()) == []
    assert config.needs() == of.needs()


@pytest.mark.parametrize(
    ("of", "told"),
    [
        (ObjectiveConfig(), "objective.of: is required"),
        (LCPOConfig(of=DPOConfig()), "of=lcpo: remembers steps itself"),
        (SPPOConfig(), "of=sppo: is no loss of a pair with one label"),
        (TPOConfig(), "of=tpo: is no loss of a pair with one label"),
    ],
)
def test_what_it_cannot_be_around_is_told(of: ObjectiveConfig, told: str):
    (problem,) = LCPOConfig(of=of).problems()
    assert told in problem


def test_lists_are_still_asked_for():
    assert Fact.ranked_lists in LCPOConfig(of=TPOConfig()).needs()


@pytest.mark.parametrize(("mean", "least", "most"), [(0.0, 1e-7, 1e-5), (1.0, 1 - 1e-5, 1 - 1e-7)])
def test_reliability_never_becomes_certain(mean: float, least: float, most: float):
    config = LCPOConfig(of=DPOConfig(), step=1.0)
    after = config.after_step(config.first_memory(), {RELIABILITY: mean})
    assert least <= after[RELIABILITY] <= most
