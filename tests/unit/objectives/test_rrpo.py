"""RRPO: which tokens differ, and its loss and gradient worked by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.rrpo import RRPOConfig, differing
from rlhf.objectives.tokens import TokenLogprobs
from rlhf.records import Completion, Preference, Prompt

E_NATS = 0.8526055020137255
"""x with x·e^x = 2."""

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=12)


def pair(chosen: tuple[int, ...], rejected: tuple[int, ...]) -> Preference:
    sides = [
        Completion("p", i, ids, (), str(i), False, 0) for i, ids in enumerate((chosen, rejected))
    ]
    return Preference.over(Prompt("p", (), (1,)), *sides, 1.0, 0.0, "j@1")


def given_pairs(policy_SBC: torch.Tensor, anchor_SBC: torch.Tensor, own_SBC: torch.Tensor) -> Pairs:
    """With the sums of all tokens that are own."""
    sums = [(values * own_SBC).sum(2) for values in (policy_SBC, anchor_SBC)]
    lengths = own_SBC.sum(2)
    zero_B = torch.zeros_like(sums[0][0])
    return Pairs(
        PairLogprobs(*sums[0], *lengths),
        {"initial": SideLogprobs(*sums[1])},
        Judged(zero_B + 1, zero_B, zero_B, zero_B, zero_B),
        TokenLogprobs(policy_SBC, {"initial": anchor_SBC}, own_SBC),
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "marks"),
    [
        ((1, 2, 3, 4), (1, 2, 7, 4), (((0, 2, 0.0), (3, 4, 0.0)), ((0, 2, 0.0), (3, 4, 0.0)))),
        ((1, 2), (1, 2, 9, 9), (((0, 2, 0.0),), ((0, 2, 0.0),))),
        ((1, 2), (3, 4, 5), ((), ())),
    ],
)
def test_what_both_sides_have_does_not_count(chosen, rejected, marks):
    found = RRPOConfig().mark(pair(chosen, rejected))
    assert (found.chosen.emphasis, found.rejected.emphasis) == marks


@given(chosen=tokens, rejected=tokens)
def test_what_does_not_count_is_the_same_on_both_sides(chosen: list[int], rejected: list[int]):
    weights = differing(chosen, rejected)
    left = [
        [token for token, weight in zip(ids, own, strict=True) if not weight]
        for ids, own in zip((chosen, rejected), weights, strict=True)
    ]
    assert left[0] == left[1]


# u = 0.9 - (-0.5) = 1.4, so that -ln σ(0.14) = 0.625595. The chosen side's tokens: one where the
# anchor has x nats more, x·e^x - e^x + 1 = 0.654; two where both agree, 0; one of padding.
def test_worked_by_hand():
    pairs = given_pairs(
        torch.tensor([[[-1.0 - E_NATS, -2.0, -0.5, -9.0]], [[-1.0, -1.0, 0.0, 0.0]]]),
        torch.tensor([[[-1.0, -2.0, -0.5, 0.0]], [[-1.0, -1.0, 0.0, 0.0]]]),
        torch.tensor([[[True, True, True, False]], [[True, True, False, False]]]),
    )
    sums = {"initial": SideLogprobs(torch.tensor([-11.0]), torch.tensor([-11.5]))}
    policy = PairLogprobs(
        torch.tensor([-10.1]), torch.tensor([-12.0]), torch.tensor([3]), torch.tensor([2])
    )
    marked = Pairs(policy, sums, pairs.judged, pairs.tokens)
    divergence = 2 - math.exp(E_NATS) + 1
    expected = 0.625595 + 0.01 * divergence
    assert RRPOConfig().loss(marked).item() == pytest.approx(expected, abs=1e-6)
    assert RRPOConfig(kl_coef=0).loss(marked).item() == pytest.approx(0.625595, abs=1e-6)


def test_at_the_anchor_the_divergence_is_nothing_and_has_no_gradient():
    values_SBC = torch.full((2, 1, 3), -1.5, requires_grad=True)
    own_SBC = torch.ones(2, 1, 3, dtype=torch.bool)
    with_it, without = (
        RRPOConfig(kl_coef=coef).loss(given_pairs(values_SBC, values_SBC.detach(), own_SBC))
        for coef in (10.0, 0.0)
    )
    slopes = [torch.autograd.grad(loss.sum(), values_SBC)[0] for loss in (with_it, without)]
    assert with_it.item() == without.item() == pytest.approx(math.log(2))
    assert torch.equal(*slopes) and slopes[0].abs().max() > 0


@pytest.mark.parametrize("nats", [-1e4, 1e4])
def test_far_from_the_anchor_it_stays_finite(nats: float):
    policy_SBC = torch.full((2, 1, 2), nats, requires_grad=True)
    own_SBC = torch.ones(2, 1, 2, dtype=torch.bool)
    loss_B = RRPOConfig().loss(given_pairs(policy_SBC, torch.zeros(2, 1, 2), own_SBC))
    (slope,) = torch.autograd.grad(loss_B.sum(), policy_SBC)
    assert loss_B.isfinite().all() and slope.isfinite().all()


def test_sums_alone_are_not_enough():
    whole = given_pairs(torch.zeros(2, 1, 1), torch.zeros(2, 1, 1), torch.ones(2, 1, 1).bool())
    with pytest.raises(ValueError, match="looks at tokens"):
        RRPOConfig().loss(Pairs(whole.policy, whole.anchors, whole.judged))
