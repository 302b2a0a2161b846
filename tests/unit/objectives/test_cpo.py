"""CPO against hand-worked numbers, and as DPO against an anchor that knows nothing."""

import pytest
import torch

from rlhf.objectives import Judged, PairLogprobs, Pairs, SideLogprobs
from rlhf.objectives.cpo import CPOConfig
from rlhf.objectives.dpo import DPOConfig


def number(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64)


PAIR = PairLogprobs(number(-10.0), number(-12.0), torch.tensor([5]), torch.tensor([8]))


def judged(win_prob: float) -> Judged:
    zero_B = number(0.0)
    return Judged(number(win_prob), number(1.0), zero_B, zero_B, zero_B)


# The margin is 2 nats: -ln σ(0.2) = 0.598139, -ln σ(-0.2) = 0.798139, and the NLL 10/5 = 2.
@pytest.mark.parametrize(
    ("config", "win_prob", "expected"),
    [
        (CPOConfig(), 1.0, 2.598139),
        (CPOConfig(nll_coef=0.0), 1.0, 0.598139),
        (CPOConfig(nll_coef=0.0), 0.75, 0.648139),
    ],
)
def test_worked_by_hand(config: CPOConfig, win_prob: float, expected: float):
    found = config.loss(Pairs(PAIR, {}, judged(win_prob)))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("win_prob", [1.0, 0.75])
def test_it_is_dpo_with_a_uniform_anchor(win_prob: float):
    uniform = {"initial": SideLogprobs(number(-3.0), number(-3.0))}
    dpo = DPOConfig(beta=0.3, nll_coef=0.5).loss(Pairs(PAIR, uniform, judged(win_prob)))
    cpo = CPOConfig(beta=0.3, nll_coef=0.5).loss(Pairs(PAIR, {}, judged(win_prob)))
    assert torch.equal(cpo, dpo) and CPOConfig().anchor_names == ()
