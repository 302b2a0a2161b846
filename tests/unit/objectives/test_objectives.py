"""Losses against numbers worked by hand, their limits and their gradients. B pairs."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.diagnostics import TrainedPairs
from rlhf.launching.configuration import CONF
from rlhf.objectives import (
    OBJECTIVES,
    Judged,
    PairLogprobs,
    Pairs,
    SideLogprobs,
)
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.ipo import IPOConfig, Reduce
from rlhf.objectives.ln_dpo import LNDPOConfig
from rlhf.objectives.rdpo import RDPOConfig
from rlhf.objectives.rso import RSOConfig
from rlhf.objectives.simpo import SimPOConfig
from rlhf.objectives.slic import SLiCConfig

ALL = [
    DPOConfig(),
    DPOConfig(label_smoothing=0.1),
    DPOConfig(nll_coef=1.0),
    RDPOConfig(),
    IPOConfig(),
    IPOConfig(reduce=Reduce.sum),
    RSOConfig(),
    SLiCConfig(),
    SimPOConfig(),
    LNDPOConfig(),
]
SUMMED = [DPOConfig(), RDPOConfig(), IPOConfig(reduce=Reduce.sum), RSOConfig()]
"""Objectives of the summed log-ratio margin alone."""

nats = st.floats(-300, 0)
betas = st.floats(0.01, 5)


def vector(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype)


def one_pair(
    chosen: float, rejected: float, lengths: tuple[int, int] = (5, 8), grad: bool = False
) -> PairLogprobs:
    return PairLogprobs(
        vector(chosen).requires_grad_(grad),
        vector(rejected).requires_grad_(grad),
        torch.tensor([lengths[0]]),
        torch.tensor([lengths[1]]),
    )


def plain_labels(policy: PairLogprobs) -> Judged:
    ones_B, zeros_B = torch.ones_like(policy.chosen_B), torch.zeros_like(policy.chosen_B)
    return Judged(ones_B, ones_B, zeros_B, zeros_B, zeros_B)


def plain_loss(
    config: ObjectiveConfig, policy: PairLogprobs, anchors: dict[str, SideLogprobs]
) -> Tensor:
    return config.loss(Pairs(policy, anchors, plain_labels(policy)))


def implicit_margin(
    config: ObjectiveConfig, policy: PairLogprobs, anchors: dict[str, SideLogprobs]
) -> Tensor:
    judged = plain_labels(policy)
    return TrainedPairs(config, judged.win_prob_B, Pairs(policy, anchors, judged)).margin_B


def one_anchor(chosen: float, rejected: float) -> dict[str, SideLogprobs]:
    return {"initial": SideLogprobs(vector(chosen), vector(rejected))}


def loss_of(
    config: ObjectiveConfig,
    policy: tuple[float, float],
    anchor: tuple[float, float] = (-11.0, -11.5),
    lengths: tuple[int, int] = (5, 8),
) -> float:
    return plain_loss(config, one_pair(*policy, lengths), one_anchor(*anchor)).item()


def gradients(
    config: ObjectiveConfig, policy: PairLogprobs, anchors: dict[str, SideLogprobs]
) -> tuple[float, float]:
    loss_B = plain_loss(config, policy, anchors)
    chosen_B, rejected_B = torch.autograd.grad(loss_B.sum(), (policy.chosen_B, policy.rejected_B))
    return chosen_B.item(), rejected_B.item()


# Example E of the methods catalogue: π -10 and -12, reference -11 and -11.5, 5 and 8 tokens.
EXAMPLE_E = [
    (DPOConfig(), 0.620957),
    (DPOConfig(label_smoothing=0.1), 0.635957),
    (DPOConfig(nll_coef=1.0), 2.620957),
    (RDPOConfig(), 0.602207),
    (IPOConfig(reduce=Reduce.mean), 22.443906),
    (IPOConfig(reduce=Reduce.sum), 12.25),
    (RSOConfig(), 0.925),
    (SLiCConfig(nll_coef=0.0), 0.0),
    (SLiCConfig(), 1.0),
    (SimPOConfig(), 2.126928),
    (LNDPOConfig(beta=0.1), 0.680108),
    (LNDPOConfig(beta=5.0), 0.238345),
]


@pytest.mark.parametrize(("config", "expected"), EXAMPLE_E)
def test_example_e(config: ObjectiveConfig, expected: float) -> None:
    assert loss_of(config, (-10.0, -12.0)) == pytest.approx(expected, abs=1e-6)


def test_a_soft_label_weighs_both_sides_as_a_self_preferring_policy_does() -> None:
    """OSP: .8 of -log σ(.15) and .2 of -log σ(-.15)."""
    policy = one_pair(-10.0, -12.0)
    certain = plain_labels(policy)
    judged = replace(certain, win_prob_B=0.8 * certain.win_prob_B)
    loss_B = DPOConfig().loss(Pairs(policy, one_anchor(-11.0, -11.5), judged))
    assert loss_B.item() == pytest.approx(0.650957, abs=1e-6)


def test_slic_hinge_inside_its_margin() -> None:
    assert loss_of(SLiCConfig(nll_coef=0.0), (-10.0, -10.4)) == pytest.approx(0.6, abs=1e-12)


# Anchor of the flagship methods, section 1: ℓ (-12, -15), reference (-13, -14), so Δ = 2.
FLAGSHIP = [
    (DPOConfig(), 0.5981389),
    (DPOConfig(label_smoothing=0.1), 0.6181389),
    (IPOConfig(reduce=Reduce.sum), 9.0),
    (IPOConfig(reduce=Reduce.mean), 23.5225),
]


@pytest.mark.parametrize(("config", "expected"), FLAGSHIP)
def test_flagship_anchor(config: ObjectiveConfig, expected: float) -> None:
    actual = loss_of(config, (-12.0, -15.0), (-13.0, -14.0), lengths=(10, 20))
    assert actual == pytest.approx(expected, abs=1e-7)


# What is left where the policy equals its anchor: ln 2 for the logistic losses whatever β and ε.
AT_ANCHOR = [
    (DPOConfig(beta=0.7), math.log(2)),
    (DPOConfig(label_smoothing=0.3), math.log(2)),
    (RDPOConfig(label_noise=0.3), math.log(2)),
    (LNDPOConfig(), math.log(2)),
    (IPOConfig(tau=0.25), 4.0),
    (RSOConfig(), 1.0),
]


@pytest.mark.parametrize(("config", "expected"), AT_ANCHOR)
def test_loss_where_policy_equals_anchor(config: ObjectiveConfig, expected: float) -> None:
    assert loss_of(config, (-17.0, -4.0), (-17.0, -4.0)) == pytest.approx(expected, abs=1e-12)


def test_dpo_gradient_on_example_e() -> None:
    chosen, rejected = gradients(
        DPOConfig(), one_pair(-10.0, -12.0, grad=True), one_anchor(-11.0, -11.5)
    )
    assert chosen == pytest.approx(-0.046257, abs=1e-6)
    assert rejected == pytest.approx(0.046257, abs=1e-6)


@given(chosen=nats, rejected=nats, beta=betas)
def test_dpo_gradient_is_its_closed_form(chosen: float, rejected: float, beta: float) -> None:
    policy = one_pair(chosen, rejected, grad=True)
    anchor = one_anchor(-100.0, -120.0)
    gap = chosen + 100 - (rejected + 120)
    expected = -beta / (1 + math.exp(beta * gap)) if beta * gap < 700 else 0.0
    assert gradients(DPOConfig(beta=beta), policy, anchor) == pytest.approx(
        (expected, -expected), rel=1e-9, abs=1e-12
    )


@given(chosen=nats, rejected=nats, noise=st.floats(0, 0.45))
def test_rdpo_is_dpo_on_average_over_flips(chosen: float, rejected: float, noise: float) -> None:
    config, clean = RDPOConfig(label_noise=noise), DPOConfig()
    kept = loss_of(config, (chosen, rejected), (-7.0, -9.0))
    flipped = loss_of(config, (rejected, chosen), (-9.0, -7.0))
    expected = loss_of(clean, (chosen, rejected), (-7.0, -9.0))
    assert (1 - noise) * kept + noise * flipped == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_cdpo_is_least_at_the_log_odds_of_a_right_label() -> None:
    config = DPOConfig(beta=0.1, label_smoothing=0.25)
    least = 10.98612  # ln 3 / 0.1
    chosen, _ = gradients(config, one_pair(least, 0.0, grad=True), one_anchor(0.0, 0.0))
    below, at, above = (loss_of(config, (least + d, 0.0), (0.0, 0.0)) for d in (-0.5, 0, 0.5))
    assert chosen == pytest.approx(0.0, abs=1e-7)
    assert at < below
    assert at < above


def test_ipo_pulls_back_beyond_its_target() -> None:
    config = IPOConfig(tau=0.1, reduce=Reduce.sum)
    assert loss_of(config, (5.0, 0.0), (0.0, 0.0)) == pytest.approx(0.0, abs=1e-12)
    chosen, rejected = gradients(config, one_pair(6.0, 0.0, grad=True), one_anchor(0.0, 0.0))
    assert (chosen, rejected) == pytest.approx((2.0, -2.0))


@pytest.mark.parametrize(
    ("config", "rejected"),
    [(RSOConfig(gamma=0.05), -20.1), (SLiCConfig(delta=1.0, nll_coef=0.0), -1.1)],
)
def test_hinge_is_flat_beyond_its_margin(config: ObjectiveConfig, rejected: float) -> None:
    policy = one_pair(0.0, rejected, grad=True)
    assert gradients(config, policy, one_anchor(0.0, 0.0)) == (0.0, 0.0)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_descent_raises_the_chosen_and_lowers_the_rejected(config: ObjectiveConfig) -> None:
    policy = one_pair(-10.0, -10.4, grad=True)
    chosen, rejected = gradients(config, policy, one_anchor(-10.5, -10.2))
    assert chosen < 0 < rejected


@pytest.mark.parametrize("config", SUMMED, ids=repr)
@given(shift=st.floats(-50, 50))
def test_shifting_both_sides_alike_changes_nothing(config: ObjectiveConfig, shift: float) -> None:
    expected = loss_of(config, (-10.0, -12.0))
    assert loss_of(config, (-10.0, -12.0), (-11.0 + shift, -11.5 + shift)) == pytest.approx(
        expected, abs=1e-9
    )
    assert loss_of(config, (-10.0 + shift, -12.0 + shift)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("config", SUMMED, ids=repr)
def test_lengths_do_not_enter_summed_losses(config: ObjectiveConfig) -> None:
    assert loss_of(config, (-10.0, -12.0), lengths=(50, 3)) == loss_of(config, (-10.0, -12.0))


@given(chosen=nats, rejected=nats, repeats=st.integers(2, 9))
def test_simpo_ignores_repetition(chosen: float, rejected: float, repeats: int) -> None:
    config = SimPOConfig()
    once = loss_of(config, (chosen, rejected), lengths=(5, 8))
    repeated = loss_of(config, (chosen * repeats, rejected), lengths=(5 * repeats, 8))
    assert repeated == pytest.approx(once, rel=1e-9, abs=1e-12)


@given(chosen=nats, rejected=nats, length=st.integers(1, 400))
def test_ln_dpo_is_dpo_with_beta_over_a_shared_length(
    chosen: float, rejected: float, length: int
) -> None:
    normalised = loss_of(LNDPOConfig(beta=5.0), (chosen, rejected), lengths=(length, length))
    assert normalised == pytest.approx(
        loss_of(DPOConfig(beta=5.0 / length), (chosen, rejected)), rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("config", [DPOConfig(nll_coef=1.0), SLiCConfig(nll_coef=1.0)], ids=repr)
def test_nll_is_a_mean_over_each_pairs_own_tokens(config: ObjectiveConfig) -> None:
    """The chosen side is 1,000 nats ahead, so only the NLL is left."""
    policy = PairLogprobs(
        vector(-30.0, -30.0),
        vector(-1030.0, -1030.0),
        torch.tensor([3, 60]),
        torch.tensor([7, 7]),
    )
    anchors = {"initial": SideLogprobs(vector(-30.0, -30.0), vector(-30.0, -30.0))}
    assert plain_loss(config, policy, anchors).tolist() == pytest.approx([10.0, 0.5], abs=1e-12)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_pairs_do_not_mix(config: ObjectiveConfig) -> None:
    policies = [(-10.0, -12.0, 5, 8), (-3.0, -2.5, 2, 2), (-40.0, -41.0, 33, 12)]
    anchors = [(-11.0, -11.5), (-3.0, -3.0), (-39.0, -44.0)]
    batch_3 = plain_loss(
        config,
        PairLogprobs(*(torch.tensor(column) for column in zip(*policies, strict=True))),
        {"initial": SideLogprobs(*(vector(*side) for side in zip(*anchors, strict=True)))},
    )
    alone = [
        loss_of(config, (chosen, rejected), anchor, lengths=(n_chosen, n_rejected))
        for (chosen, rejected, n_chosen, n_rejected), anchor in zip(policies, anchors, strict=True)
    ]
    assert batch_3.tolist() == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize("config", ALL, ids=repr)
@pytest.mark.parametrize("gap", [-1e4, 1e4])
def test_extreme_margins_stay_finite_in_float32(config: ObjectiveConfig, gap: float) -> None:
    chosen_B = vector(gap, dtype=torch.float32).requires_grad_()
    zero_B = torch.zeros(1)
    one_token_B = torch.ones(1)
    loss_B = plain_loss(
        config,
        PairLogprobs(chosen_B, zero_B, one_token_B, one_token_B),
        {"initial": SideLogprobs(zero_B, zero_B)},
    )
    loss_B.sum().backward()
    assert loss_B.isfinite().all()
    assert chosen_B.grad is not None
    assert chosen_B.grad.isfinite().all()


@pytest.mark.parametrize("config", [DPOConfig, RDPOConfig, IPOConfig, RSOConfig, LNDPOConfig])
def test_loss_and_margin_use_the_configured_anchor(config: type) -> None:
    policy = one_pair(-10.0, -12.0)
    initial, previous = one_anchor(-11.0, -11.5)["initial"], one_anchor(-13.0, -10.0)["initial"]
    both = {"initial": initial, "previous": previous}
    moving = config(anchor=Anchor.previous)
    assert config().anchor_names == ("initial",)
    assert moving.anchor_names == ("previous",)
    assert implicit_margin(config(), policy, both).item() == pytest.approx(1.5)
    assert implicit_margin(moving, policy, both).item() == pytest.approx(5.0)
    expected = plain_loss(config(), policy, {"initial": previous})
    assert plain_loss(moving, policy, both).item() == expected.item()
    assert plain_loss(config(), policy, both).item() != expected.item()


@pytest.mark.parametrize("config", [SLiCConfig(), SimPOConfig()], ids=repr)
def test_objectives_without_anchor_ask_for_none(config: ObjectiveConfig) -> None:
    policy = one_pair(-10.0, -12.0)
    assert config.anchor_names == ()
    assert plain_loss(config, policy, {}).shape == (1,)
    assert implicit_margin(config, policy, {}).item() == 2.0


@given(chosen=nats, rejected=nats)
def test_swapping_sides_negates_the_margin(chosen: float, rejected: float) -> None:
    there = implicit_margin(DPOConfig(), one_pair(chosen, rejected), one_anchor(-3.0, -8.0))
    back = implicit_margin(DPOConfig(), one_pair(rejected, chosen), one_anchor(-8.0, -3.0))
    assert there.item() == -back.item()


def test_swapping_sides_negates_dpo_gradient_at_the_anchor() -> None:
    there = gradients(DPOConfig(), one_pair(-3.0, -8.0, grad=True), one_anchor(-3.0, -8.0))
    back = gradients(DPOConfig(), one_pair(-8.0, -3.0, grad=True), one_anchor(-8.0, -3.0))
    assert there == pytest.approx((-0.05, 0.05))
    assert (back[1], back[0]) == pytest.approx((0.05, -0.05))


def test_every_objective_can_be_chosen_and_the_readme_has_the_list() -> None:
    choices = sorted(file.stem for file in (CONF / "objective").glob("*.yaml"))
    assert set(OBJECTIVES) <= set(choices)
    row = f"| the loss | `objective={choices[0]}` " + " ".join(f"`{name}`" for name in choices[1:])
    assert f"{row} |\n" in (CONF.parent / "README.md").read_text(), row


@pytest.mark.parametrize(
    ("chosen_B", "rejected_B"),
    [
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(1)),
        (torch.zeros(2, 1), torch.zeros(2, 1)),
        (torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2)),
    ],
)
def test_malformed_sides_are_refused(chosen_B: Tensor, rejected_B: Tensor) -> None:
    with pytest.raises(ValueError, match="log-probabilit"):
        SideLogprobs(chosen_B, rejected_B)
    with pytest.raises(ValueError, match="log-probabilit"):
        PairLogprobs(chosen_B, rejected_B, torch.ones(2), torch.ones(2))


def test_token_counts_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="one token count"):
        PairLogprobs(torch.zeros(2), torch.zeros(2), torch.ones(2), torch.ones(1))


def test_anchor_that_would_broadcast_is_refused() -> None:
    policy = PairLogprobs(torch.zeros(2), torch.zeros(2), torch.ones(2), torch.ones(2))
    with pytest.raises(ValueError, match="anchor of 1 pairs for 2"):
        plain_loss(DPOConfig(), policy, one_anchor(0.0, 0.0))
