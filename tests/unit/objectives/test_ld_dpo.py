"""LD-DPO: what it marks, and the loss of sums so marked by hand."""

import pytest
import torch

from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.objectives.ld_dpo import LDDPOConfig
from rlhf.records import Completion, Preference, Prompt


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


def pair(chosen: int, rejected: int, observed=(), emphasis=((), ())) -> Preference:
    sides = [
        Completion("p", i, tuple(range(length)), (), str(i), False, 0, observed=observed * i)
        for i, length in enumerate((chosen, rejected))
    ]
    return Preference.over(Prompt("p", (), (1,)), *sides, 1.0, 0.0, "j@1", emphasis=emphasis)


@pytest.mark.parametrize(
    ("sizes", "observed", "chosen", "rejected"),
    [
        ((5, 8), (), (), ((5, 8, 0.5),)),
        ((8, 5), (), ((5, 8, 0.5),), ()),
        ((4, 4), (), (), ()),
        # Three of the rejected side's eight are a tool's, so that it has five of its own.
        ((5, 8), ((2, 5),), (), ()),
        ((4, 8), ((2, 5),), (), ((7, 8, 0.5),)),
    ],
)
def test_the_surplus_of_the_longer_side_counts_half(sizes, observed, chosen, rejected):
    found = LDDPOConfig().mark(pair(*sizes, observed=observed))
    assert (found.chosen.emphasis, found.rejected.emphasis) == (chosen, rejected)


def test_marks_multiply_what_was_marked_before():
    found = LDDPOConfig(alpha=0.5).mark(pair(2, 4, emphasis=((), ((1, 3, 0.8),))))
    assert found.rejected.emphasis == ((1, 2, 0.8), (2, 3, 0.4), (3, 4, 0.5))


# The rejected side has 5 + 3 tokens: first π -7.5, anchor -7.2, then π -4.5, anchor -4.3.
@pytest.mark.parametrize(("alpha", "expected"), [(0.5, 0.625595), (1.0, 0.620957), (0.0, 0.630258)])
def test_worked_by_hand(alpha: float, expected: float):
    config = LDDPOConfig(alpha=alpha)
    weights = torch.tensor(config.mark(pair(5, 8)).rejected.tokens.weights, dtype=torch.float64)
    policy_T = torch.tensor([-1.5] * 5 + [-1.5] * 3, dtype=torch.float64)
    anchor_T = torch.tensor([-1.44] * 5 + [-4.3 / 3] * 3, dtype=torch.float64)
    policy = PairLogprobs(
        number(-10.0), (policy_T * weights).sum()[None], torch.tensor([5]), torch.tensor([8])
    )
    anchors = {"initial": SideLogprobs(number(-11.0), (anchor_T * weights).sum()[None])}
    zero_B = number(0.0)
    pairs = Pairs(policy, anchors, Judged(number(1.0), zero_B, zero_B, zero_B, zero_B))
    assert config.loss(pairs).item() == pytest.approx(expected, abs=1e-6)
    if alpha == 1:
        assert torch.equal(config.loss(pairs), DPOConfig().loss(pairs))
