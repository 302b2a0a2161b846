"""Self-play losses against numbers worked by hand, closed forms and symmetries.

B pairs. Most anchors are 0 here, so that the policy's log-probabilities are its log-ratios.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf.diagnostics import TrainedPairs
from rlhf.objectives import (
    Judged,
    PairLogprobs,
    Pairs,
    SideLogprobs,
)
from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.gpo import GPOConfig
from rlhf.objectives.inpo import INPOConfig
from rlhf.objectives.ipo import IPOConfig, Reduce
from rlhf.objectives.nash_md import NashMDConfig
from rlhf.objectives.sppo import SPPOConfig, Target
from rlhf.objectives.vpo import Optimism, VPOConfig
from rlhf.objectives.xpo import XPOConfig

Two = tuple[float, float]
"""A number for the chosen and one for the rejected side."""

HARD_SPPO = SPPOConfig(step_size=10.0, target=Target.pair)
ONLINE_IPO = IPOConfig(tau=0.25, reduce=Reduce.sum)
PESSIMISTIC = VPOConfig(optimism=Optimism.offline)
SYMMETRIC = [
    SPPOConfig(step_size=10.0),
    HARD_SPPO,
    INPOConfig(step_size=2.0, tau=0.2),
    GPOConfig(),
    NashMDConfig(),
    XPOConfig(alpha=0.01),
    VPOConfig(),
    ONLINE_IPO,
    IPOConfig(),
]
ALL = [*SYMMETRIC, PESSIMISTIC]

nats = st.floats(-300, 300)
probabilities = st.floats(0, 1)
scores = st.floats(-12, 12)
quick = settings(max_examples=20)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def pairs(*sides: Two, tokens: tuple[int, int] = (5, 8)) -> PairLogprobs:
    chosen_B, rejected_B = (vector(*side) for side in zip(*sides, strict=True))
    chosen_tokens_B, rejected_tokens_B = (torch.full((len(sides),), n) for n in tokens)
    return PairLogprobs(chosen_B, rejected_B, chosen_tokens_B, rejected_tokens_B)


def anchors(initial: Two = (0.0, 0.0), previous: Two = (0.0, 0.0)) -> dict[str, SideLogprobs]:
    named = {"initial": initial, "previous": previous}
    return {name: SideLogprobs(vector(c), vector(r)) for name, (c, r) in named.items()}


def judged(
    win_prob: float = 1.0, score: Two = (0.9, 0.1), mixture: Two = (0.0, 0.0), num_pairs: int = 1
) -> Judged:
    numbers = (win_prob, *score, *mixture)
    return Judged(*(vector(*[number] * num_pairs) for number in numbers))


def swapped(sides: Two) -> Two:
    return sides[1], sides[0]


def loss_of(
    config: ObjectiveConfig,
    policy: Two,
    verdict: Judged | None = None,
    initial: Two = (0.0, 0.0),
    previous: Two = (0.0, 0.0),
) -> float:
    frozen = anchors(initial, previous)
    return config.loss(Pairs(pairs(policy), frozen, verdict or judged())).item()


def gradient_of(
    config: ObjectiveConfig, policy: Two, verdict: Judged, initial: Two = (0, 0)
) -> Two:
    sides = pairs(policy)
    sides.chosen_B.requires_grad_()
    sides.rejected_B.requires_grad_()
    loss_B = config.loss(Pairs(sides, anchors(initial), verdict))
    chosen_B, rejected_B = torch.autograd.grad(loss_B.sum(), (sides.chosen_B, sides.rejected_B))
    return chosen_B.item(), rejected_B.item()


# --- the numbers of the flagship methods --------------------------------------------------------

# Section 2: the scores of five completions, and either one's mean win probability over all five,
# itself included. Best meets worst: (.797714, .262622).
SCORES_5 = vector(2, 1, 0, -1, -0.5)
WIN_PROBS_5 = torch.sigmoid(SCORES_5[:, None] - SCORES_5).mean(1)
JUDGED = [name for name in Judged.__slots__ if name != "peers"]
BEST_WORST = judged(score=(WIN_PROBS_5[0].item(), WIN_PROBS_5[3].item()))
# Section 5: s = v_1·v'_2 - v_2·v'_1 of three two-dimensional embeddings, and mean scores ŝ.
EMBEDDINGS = vector(1, 0.6, -0.3), vector(0.2, 0.5, 0.8)
SKEW_33 = torch.outer(*EMBEDDINGS) - torch.outer(*EMBEDDINGS).T
MEAN_SCORES = SKEW_33.mean(1).tolist()


def skewed(i: int, j: int) -> Judged:
    return judged(score=(MEAN_SCORES[i], MEAN_SCORES[j]))


Case = tuple[ObjectiveConfig, Two, Judged, Two, Two, float]
"""Objective, policy, what was judged, initial and previous anchor, loss."""

FLAGSHIP: dict[str, Case] = {
    "sppo": (SPPOConfig(10.0), (0.3, -0.2), BEST_WORST, (9, 9), (0, 0), 5.9462038),
    "sppo, official step": (SPPOConfig(), (0.3, -0.2), BEST_WORST, (9, 9), (0, 0), 72354.29892),
    # P = σ(2 + 1) = .952574 within the pair
    "sppo, single": (
        HARD_SPPO,
        (0.3, -0.2),
        judged(1 / (1 + math.exp(-3))),
        (9, 9),
        (0, 0),
        18.284463,
    ),
    # TRL's 45.13 is the sum over sides, where the paper has the half.
    "sppo, hard": (HARD_SPPO, (0.3, -0.2), judged(), (9, 9), (0, 0), 45.13 / 2),
    "sppo, tie": (SPPOConfig(), (0.3, -0.2), judged(0.5, (0.5, 0.5)), (9, 9), (0, 0), 0.065),
    # 10 - 2/3 - 4·2/3 = 6.666667, target 66.666667
    "inpo": (INPOConfig(1 / 0.0075, 0.0025), (10, 0), judged(), (2, 0), (4, 0), 3600.0),
    # 1 - .4·.2 - .6·.4 = .68, target 1
    "inpo, small": (INPOConfig(2.0, 0.2), (0, -1), judged(), (3.2, 3), (0.4, 0), 0.1024),
    # (.5 - .3/.25)²
    "online ipo": (ONLINE_IPO, (0.4, -0.1), judged(0.8), (0, 0), (9, 9), 0.49),
    # half of 3.121111 + 5.213611, and of .266944 + 5.213611
    "gpo": (GPOConfig(5.0), (0.3, -0.2), skewed(0, 2), (9, 9), (0, 0), 4.167361),
    "gpo, second": (GPOConfig(5.0), (-0.1, -0.2), skewed(1, 2), (9, 9), (0, 0), 2.7402775),
    # ℓ = -1.5 over two tokens, h = -1.5 + 1.7, weight .7 - .5 - .1·.2 = .18
    "nash-md": (
        NashMDConfig(0.1),
        (-1.5, -7),
        judged(0.7, mixture=(0, 0.125)),
        (-1.7, -3),
        (9, 9),
        0.27,
    ),
    # Δ = 2; .5981389 - 1e-5·120
    "xpo": (XPOConfig(), (-100, -120), judged(mixture=(0, 1)), (-103, -121), (9, 9), 0.5969389),
    "vpo": (VPOConfig(), (-1, -3), judged(mixture=(0, 1)), (0, 0), (9, 9), 0.5951389),
    "vpo, offline": (PESSIMISTIC, (-3, -5), judged(mixture=(0, 0)), (0, 0), (9, 9), 0.6011389),
}


@pytest.mark.parametrize("case", FLAGSHIP.values(), ids=FLAGSHIP.keys())
def test_flagship_anchor(case: Case) -> None:
    config, policy, verdict, initial, previous, expected = case
    assert loss_of(config, policy, verdict, initial, previous) == pytest.approx(expected, rel=1e-6)


def test_inputs_of_the_anchors_are_those_of_the_notes() -> None:
    assert WIN_PROBS_5.tolist() == pytest.approx(
        [0.797714, 0.639674, 0.448332, 0.262622, 0.351657], abs=1e-6
    )
    assert pytest.approx([0.413333, 0.083333, -0.496667], abs=1e-6) == MEAN_SCORES


@pytest.mark.parametrize("case", FLAGSHIP.values(), ids=FLAGSHIP.keys())
def test_flagship_anchor_in_float32(case: Case) -> None:
    config, policy, verdict, initial, previous, expected = case
    sides, frozen = pairs(policy), anchors(initial, previous)
    loss_B = config.loss(
        Pairs(
            replace(sides, chosen_B=sides.chosen_B.float(), rejected_B=sides.rejected_B.float()),
            {k: SideLogprobs(v.chosen_B.float(), v.rejected_B.float()) for k, v in frozen.items()},
            Judged(*(getattr(verdict, name).float() for name in JUDGED)),
        )
    )
    assert loss_B.dtype is torch.float32
    assert loss_B.item() == pytest.approx(expected, rel=1e-4)


# What is left where the policy is its anchors, so at the first step of a round (test plan 4).
AT_ANCHORS = [
    (SPPOConfig(10.0), BEST_WORST, 50 * (0.2977143**2 + 0.2373778**2)),
    (INPOConfig(2.0, 0.2), judged(), 1.0),
    (INPOConfig(2.0, 0.0), judged(0.75), 0.25),
    (GPOConfig(5.0), judged(score=(0.2, -0.4)), 2.5),
    (XPOConfig(), judged(mixture=(0, 0)), math.log(2)),
    (VPOConfig(), judged(0.3, mixture=(0, 1)), math.log(2)),
]


@pytest.mark.parametrize(("config", "verdict", "expected"), AT_ANCHORS)
def test_loss_where_policy_equals_anchors(
    config: ObjectiveConfig, verdict: Judged, expected: float
) -> None:
    here = (-17.0, -4.0)
    assert loss_of(config, here, verdict, here, here) == pytest.approx(expected, rel=1e-6)


# --- gradients ----------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2


def closed_form(config: Any, policy: Two, verdict: Judged) -> Two:
    """Gradient with anchors of 0, for a pair of the policy's own chosen side and a mixture's."""
    (chosen, rejected), gap = policy, policy[0] - policy[1]
    p, s_chosen, s_rejected, *_ = (getattr(verdict, name).item() for name in JUDGED)
    match config:
        case SPPOConfig(step_size=s, target=Target.mean):
            return chosen - s * (s_chosen - 0.5), rejected - s * (s_rejected - 0.5)
        case SPPOConfig(step_size=s):
            return chosen - s * (p - 0.5), rejected + s * (p - 0.5)
        case GPOConfig(step_size=s, max_target=most):
            targets = (max(-most, min(most, s * score)) for score in (s_chosen, s_rejected))
            return chosen - next(targets), rejected - next(targets)
        case INPOConfig(step_size=s):
            both = 2 * (gap - s * (p - 0.5))
            return both, -both
        case IPOConfig(tau=tau, reduce=Reduce.sum):
            both = 2 * (gap - (p - 0.5) / tau)
            return both, -both
        case IPOConfig(tau=tau):  # 5 and 8 tokens
            both = 2 * (chosen / 5 - rejected / 8 - (p - 0.5) / tau)
            return both / 5, -both / 8
        case NashMDConfig(tau=tau):
            return -(p - 0.5 - tau * chosen), 0.0
        case XPOConfig(beta=beta, alpha=alpha):
            logistic = beta * (sigmoid(beta * gap) - p)
            return logistic, -logistic + alpha
        case VPOConfig(beta=beta, alpha=alpha, optimism=optimism):
            logistic = beta * (sigmoid(beta * gap) - p)
            online = optimism is Optimism.online
            return logistic - alpha * beta * (not online), -logistic + alpha * beta * online
    raise TypeError(f"no closed form for {config}")


@pytest.mark.parametrize("config", ALL, ids=repr)
@quick
@given(chosen=nats, rejected=nats, win_prob=probabilities, one=scores, other=scores)
def test_gradient_is_its_closed_form(
    config: ObjectiveConfig,
    chosen: float,
    rejected: float,
    win_prob: float,
    one: float,
    other: float,
) -> None:
    verdict = judged(win_prob, (one, other), mixture=(0, 1))
    policy = (chosen, rejected)
    assert gradient_of(config, policy, verdict) == pytest.approx(
        closed_form(config, policy, verdict), rel=1e-9, abs=1e-9
    )


def test_nash_md_credits_the_whole_completion_and_averages_own_sides() -> None:
    """Weights .2 - .1·.2 = .18 and -.2 + .1·3 = .1, of which the mean."""
    own = judged(0.7, mixture=(0, 0))
    assert gradient_of(NashMDConfig(0.1), (-1.5, -7.0), own, (-1.7, -4.0)) == pytest.approx(
        (-0.09, -0.05)
    )
    only_rejected = judged(0.7, mixture=(0.125, 0))
    assert gradient_of(
        NashMDConfig(0.1), (-1.5, -7.0), only_rejected, (-1.7, -4.0)
    ) == pytest.approx((0.0, -0.1))


def test_nash_md_without_an_own_side_is_nothing() -> None:
    verdict = judged(0.7, mixture=(0.125, 1.0))
    assert loss_of(NashMDConfig(), (-1.5, -7.0), verdict) == 0.0
    assert gradient_of(NashMDConfig(), (-1.5, -7.0), verdict) == (0.0, 0.0)


WON, LOST = judged(score=(0.9, 0.1)), judged(0.0, (0.1, 0.9))
FAVOURED = judged(score=(0.4, -0.4))


@pytest.mark.parametrize(
    ("config", "verdict"),
    [
        (SPPOConfig(), WON),
        (HARD_SPPO, WON),
        (GPOConfig(), FAVOURED),
        (INPOConfig(), WON),
        (NashMDConfig(), WON),
        (XPOConfig(), WON),
        (VPOConfig(), WON),
        (PESSIMISTIC, WON),
        (ONLINE_IPO, WON),
    ],
)
def test_descent_raises_the_winner_and_lowers_the_loser(
    config: ObjectiveConfig, verdict: Judged
) -> None:
    chosen, rejected = gradient_of(config, (0.5, -0.2), verdict)
    assert chosen < 0 < rejected


@pytest.mark.parametrize(
    "config", [SPPOConfig(10.0), HARD_SPPO, INPOConfig(), NashMDConfig(), XPOConfig(), ONLINE_IPO]
)
def test_win_probability_below_a_half_turns_the_pair_around(config: ObjectiveConfig) -> None:
    chosen, rejected = gradient_of(config, (0.0, 0.0), LOST)
    assert rejected < 0 < chosen


# Targets: INPO 1 on the margin, IPO 2 on the margin, SPPO and GPO 4 and -4 on the sides.
BEYOND = [
    (INPOConfig(2.0, 0.2), (1.0, -0.5), WON),
    (ONLINE_IPO, (1.5, -1.0), WON),
    (SPPOConfig(10.0), (4.5, -4.5), WON),
    (GPOConfig(10.0), (4.5, -4.5), FAVOURED),
]


@pytest.mark.parametrize(("config", "policy", "verdict"), BEYOND)
def test_squared_losses_pull_back_beyond_their_target(
    config: ObjectiveConfig, policy: Two, verdict: Judged
) -> None:
    chosen, rejected = gradient_of(config, policy, verdict)
    assert rejected < 0 < chosen


def test_gpo_target_is_limited() -> None:
    config = GPOConfig(step_size=1000.0, max_target=300.0)
    assert loss_of(config, (300.0, -300.0), judged(score=(10.0, -10.0))) == 0.0
    assert loss_of(config, (0.0, 0.0), judged(score=(10.0, -0.2))) == pytest.approx(65000.0)


# --- optimism -----------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [XPOConfig(alpha=0.0), VPOConfig(alpha=0.0)], ids=repr)
@quick
@given(chosen=nats, rejected=nats)
def test_without_alpha_it_is_dpo(config: ObjectiveConfig, chosen: float, rejected: float) -> None:
    verdict = judged(mixture=(1, 0))
    assert loss_of(config, (chosen, rejected), verdict, (-7.0, -9.0)) == pytest.approx(
        loss_of(DPOConfig(), (chosen, rejected), verdict, (-7.0, -9.0)), rel=1e-12, abs=1e-12
    )


@pytest.mark.parametrize("config", [XPOConfig(alpha=0.1), VPOConfig(alpha=0.1)], ids=repr)
@pytest.mark.parametrize("mixture", [(0.0, 0.0), (0.0, 0.5)])
def test_without_a_side_of_the_initial_policy_it_is_dpo(
    config: ObjectiveConfig, mixture: Two
) -> None:
    verdict = judged(mixture=mixture)
    assert loss_of(config, (-1.0, -3.0), verdict) == loss_of(DPOConfig(), (-1.0, -3.0), verdict)


@pytest.mark.parametrize("mixture", [(0.0, 1.0), (1.0, 0.0)])
def test_optimism_lowers_the_initial_policys_side_whichever_it_is(mixture: Two) -> None:
    side = mixture.index(1.0)
    plain = gradient_of(XPOConfig(alpha=0.0), (-1.0, -3.0), judged(mixture=mixture))
    xpo = gradient_of(XPOConfig(alpha=0.02), (-1.0, -3.0), judged(mixture=mixture))
    vpo = gradient_of(VPOConfig(alpha=0.2), (-1.0, -3.0), judged(mixture=mixture))
    assert xpo[side] == pytest.approx(plain[side] + 0.02)
    assert xpo[1 - side] == plain[1 - side]
    assert vpo == pytest.approx(xpo)


def test_pessimism_raises_the_chosen_side() -> None:
    plain = gradient_of(replace(PESSIMISTIC, alpha=0.0), (-1.0, -3.0), judged())
    chosen, rejected = gradient_of(replace(PESSIMISTIC, alpha=0.2), (-1.0, -3.0), judged())
    assert chosen == pytest.approx(plain[0] - 0.02)
    assert rejected == plain[1]


def test_optimism_has_an_end() -> None:
    """At 600 nats below the initial policy the bonus stays at 500, and only DPO pushes."""
    verdict, initial = judged(mixture=(0, 1)), (-110.0, -120.0)
    optimistic, plain = XPOConfig(alpha=0.02), XPOConfig(alpha=0.0)
    beyond, within = (-110.0, -720.0), (-110.0, -619.0)
    bonus = loss_of(optimistic, beyond, verdict, initial) - loss_of(plain, beyond, verdict, initial)
    assert bonus == pytest.approx(0.02 * (-500 - 120))
    assert gradient_of(optimistic, beyond, verdict, initial) == gradient_of(
        plain, beyond, verdict, initial
    )
    assert gradient_of(optimistic, within, verdict, initial)[1] > 0.0199


@quick
@given(chosen=nats, rejected=nats, win_prob=probabilities)
def test_soft_label_is_the_average_over_sampled_ones(
    chosen: float, rejected: float, win_prob: float
) -> None:
    config, policy = XPOConfig(alpha=0.01), (chosen, rejected)
    won, lost = (loss_of(config, policy, judged(p, mixture=(0, 1))) for p in (1.0, 0.0))
    soft = loss_of(config, policy, judged(win_prob, mixture=(0, 1)))
    assert soft == pytest.approx(win_prob * won + (1 - win_prob) * lost, rel=1e-9, abs=1e-9)


# --- symmetries ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", SYMMETRIC, ids=repr)
@quick
@given(policy=st.tuples(nats, nats), initial=st.tuples(nats, nats), win_prob=probabilities)
def test_swapping_sides_changes_nothing(
    config: ObjectiveConfig, policy: Two, initial: Two, win_prob: float
) -> None:
    score, mixture, previous, tokens = (0.3, 0.6), (1.0, 0.0), (2.0, -1.0), (5, 8)
    there = config.loss(
        Pairs(
            pairs(policy, tokens=tokens),
            anchors(initial, previous),
            judged(win_prob, score, mixture),
        )
    )
    back = config.loss(
        Pairs(
            pairs(swapped(policy), tokens=(8, 5)),
            anchors(swapped(initial), swapped(previous)),
            judged(1 - win_prob, swapped(score), swapped(mixture)),
        )
    )
    assert back.item() == pytest.approx(there.item(), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_pairs_do_not_mix_and_may_be_permuted(config: ObjectiveConfig) -> None:
    order = [2, 0, 3, 1]
    policy = [(-10.0, -12.0), (-3.0, -2.5), (-40.0, -41.0), (-7.0, -7.0)]
    frozen = [(-11.0, -11.5), (-3.0, -3.0), (-39.0, -44.0), (-7.5, -6.0)]
    rows = [(1, 0.9, 0.1, 0, 1), (0.3, 0.4, 0.7, 1, 0), (0.5, 0.5, 0.5, 0, 0), (0.8, 2, -3, 0.5, 1)]

    def losses(indices: list[int]) -> list[float]:
        numbers = zip(*[rows[i] for i in indices], strict=True)
        initial = zip(*[frozen[i] for i in indices], strict=True)
        sides = SideLogprobs(*(vector(*side) for side in initial))
        both = {"initial": sides, "previous": SideLogprobs(sides.rejected_B, sides.chosen_B)}
        verdict = Judged(*(vector(*column) for column in numbers))
        return config.loss(Pairs(pairs(*[policy[i] for i in indices]), both, verdict)).tolist()

    together = losses([0, 1, 2, 3])
    assert losses(order) == pytest.approx([together[i] for i in order], rel=1e-12)
    assert [losses([i])[0] for i in range(4)] == pytest.approx(together, rel=1e-12)


@quick
@given(shift=nats, policy=nats, reference=nats)
def test_inpo_forgets_tau_where_both_anchors_agree(
    shift: float, policy: float, reference: float
) -> None:
    initial, previous = (reference + shift, shift), (reference, 0.0)
    with_tau = loss_of(INPOConfig(2.0, 0.3), (policy, 0.0), judged(), initial, previous)
    without = loss_of(INPOConfig(2.0, 0.0), (policy, 0.0), judged(), initial, previous)
    assert with_tau == pytest.approx(without, rel=1e-9, abs=1e-9)


def test_inpo_starts_a_later_round_behind_the_initial_policy() -> None:
    """At the previous policy the margin is .4·(gap to it less gap to the initial one)."""
    loss = loss_of(INPOConfig(2.0, 0.2), (3.0, 1.0), judged(), (0.5, 0.0), (3.0, 1.0))
    assert loss == pytest.approx((0.4 * (2.0 - 0.5) - 1.0) ** 2)


def test_inpo_without_tau_is_ipo_on_the_previous_policy() -> None:
    ipo = IPOConfig(tau=0.5, reduce=Reduce.sum, anchor=Anchor.previous)
    for config in (INPOConfig(2.0, 0.0), ipo):
        loss = loss_of(config, (1.0, -2.0), judged(0.9), (5.0, 7.0), (0.5, -1.0))
        assert loss == pytest.approx((1.5 - 0.8) ** 2)


# --- degenerate ---------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ALL, ids=repr)
@pytest.mark.parametrize("gap", [-1e4, 1e4])
@pytest.mark.parametrize("win_prob", [0.0, 1.0])
def test_extremes_stay_finite_in_float32(
    config: ObjectiveConfig, gap: float, win_prob: float
) -> None:
    chosen_B = torch.tensor([gap], requires_grad=True)
    zero_B, one_B = torch.zeros(1), torch.ones(1)
    side = SideLogprobs(zero_B, zero_B)
    loss_B = config.loss(
        Pairs(
            PairLogprobs(chosen_B, zero_B, one_B, one_B),
            {"initial": side, "previous": side},
            Judged(one_B * win_prob, one_B * 1e4, one_B * -1e4, zero_B, one_B),
        )
    )
    (gradient_B,) = torch.autograd.grad(loss_B.sum(), chosen_B)
    assert loss_B.isfinite().all()
    assert gradient_B.isfinite().all()


@pytest.mark.parametrize("config", ALL, ids=repr)
def test_no_pairs_are_no_loss(config: ObjectiveConfig) -> None:
    none_B = torch.zeros(0, requires_grad=True)
    side = SideLogprobs(none_B, none_B)
    loss_B = config.loss(
        Pairs(
            PairLogprobs(none_B, none_B, none_B, none_B),
            {"initial": side, "previous": side},
            Judged(none_B, none_B, none_B, none_B, none_B),
        )
    )
    assert loss_B.shape == (0,)
    assert loss_B.sum().item() == 0.0


@pytest.mark.parametrize("config", [INPOConfig(), ONLINE_IPO, XPOConfig(), VPOConfig()], ids=repr)
def test_a_tie_of_identical_texts_moves_nothing(config: ObjectiveConfig) -> None:
    assert gradient_of(config, (-3.0, -3.0), judged(0.5)) == (0.0, 0.0)


# --- anchors, targets, shapes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        (SPPOConfig(), ("previous",)),
        (INPOConfig(), ("initial", "previous")),
        (GPOConfig(), ("previous",)),
        (NashMDConfig(), ("initial",)),
        (XPOConfig(), ("initial",)),
        (VPOConfig(), ("initial",)),
        (SPPOConfig(anchor=Anchor.initial), ("initial",)),
    ],
)
def test_margin_is_to_the_first_anchor_needed(
    config: ObjectiveConfig, needed: tuple[str, ...]
) -> None:
    both = anchors((-11.0, -11.5), (-13.0, -10.0))
    margins = {"initial": 1.5, "previous": 5.0}
    assert config.anchor_names == needed
    trained = TrainedPairs(config, vector(0.0), Pairs(pairs((-10.0, -12.0)), both, judged()))
    assert trained.margin_B.item() == margins[needed[0]]


@pytest.mark.parametrize("config", [SPPOConfig, GPOConfig, NashMDConfig, XPOConfig, VPOConfig])
def test_loss_uses_the_configured_anchor(config: Any) -> None:
    verdict, here, there = judged(0.8, mixture=(0, 1)), (-11.0, -11.5), (-13.0, -10.0)
    fixed, moving = config(anchor=Anchor.initial), config(anchor=Anchor.previous)
    losses = [
        loss_of(fixed, (-10.0, -12.0), verdict, here, there),
        loss_of(moving, (-10.0, -12.0), verdict, there, here),
    ]
    assert losses[0] == losses[1]
    assert losses[0] != loss_of(moving, (-10.0, -12.0), verdict, here, there)


@pytest.mark.parametrize(
    ("config", "target"),
    [
        (SPPOConfig(), 500.0),
        (INPOConfig(), 66.666667),
        (IPOConfig(), 5.0),
        (GPOConfig(), 1000.0),
        (NashMDConfig(), None),
        (XPOConfig(), None),
        (VPOConfig(), None),
        (DPOConfig(), None),
    ],
)
def test_implied_target(config: ObjectiveConfig, target: float | None) -> None:
    assert config.largest_target == (target and pytest.approx(target))


@pytest.mark.parametrize(
    ("position", "value_B", "words"),
    [
        (0, torch.ones(2, 1), "score"),
        (0, torch.ones(1), "score"),
        (1, torch.ones(1), "score"),
        (2, torch.ones(2, dtype=torch.bfloat16), "float32 or float64"),
        (3, torch.ones(1), "mixture"),
        (4, torch.ones(2, 1), "mixture"),
    ],
)
def test_malformed_judgements_are_refused(position: int, value_B: Tensor, words: str) -> None:
    values = [torch.ones(2)] * 5
    values[position] = value_B
    with pytest.raises(ValueError, match=words):
        Judged(*values)


def test_judgements_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="judgements of 1 pairs for 2"):
        DPOConfig().loss(Pairs(pairs((0.0, 0.0), (0.0, 0.0)), anchors(), judged()))
