"""ORPO against hand-worked numbers, and what keeps it finite."""

import pytest
import torch

from rlhf.objectives import Judged, PairLogprobs, Pairs
from rlhf.objectives.orpo import ORPOConfig


def loss(config: ORPOConfig, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Of 5 and 8 tokens."""
    policy = PairLogprobs(chosen, rejected, torch.tensor([5]), torch.tensor([8]))
    ones_B, zeros_B = torch.ones_like(chosen), torch.zeros_like(chosen)
    return config.loss(Pairs(policy, {}, Judged(ones_B, ones_B, zeros_B, zeros_B, zeros_B)))


def number(value: float, grad: bool = False) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize(("odds_coef", "expected"), [(0.0, 2.0), (0.1, 2.104206), (1.0, 3.042058)])
def test_worked_by_hand(odds_coef: float, expected: float):
    # p = e^-2 and e^-1.5: log-odds -2 - ln(1 - e^-2) = -1.854587 and -1.247518, apart by -0.607069.
    found = loss(ORPOConfig(odds_coef=odds_coef), number(-10.0), number(-12.0))
    assert found.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("chosen", [0.0, -1e-12, -1e-3, -1e4])
def test_certainty_and_despair_are_finite(chosen: float):
    one, other = number(chosen, grad=True), number(-12.0, grad=True)
    found = loss(ORPOConfig(), one, other)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert one.grad is not None and one.grad.isfinite().all() and one.grad.item() <= 0
    assert other.grad is not None and other.grad.isfinite().all() and other.grad.item() >= 0


def test_it_compares_with_no_anchor():
    assert ORPOConfig().anchor_names == ()
