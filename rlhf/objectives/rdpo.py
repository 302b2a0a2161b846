"""Robust DPO: unbiased under labels that are flipped at a known rate."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    log_sigmoid,
    margin,
)
from rlhf.ranges import number


@dataclass
class RDPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "rdpo"
    takes_certain_labels: ClassVar[bool] = True
    has_dpo_weight: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    label_noise: float = number(0.1, at_least=0, below=0.5)
    anchor: Anchor = Anchor.initial

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO's loss, unbiased under labels flipped at a known rate; without lower bound."""
        logit_B = self.beta * margin(pairs.log_ratios(self.anchor.value))
        wrong = self.label_noise
        # Chowdhury et al. 2024, arXiv 2403.00409, Section 3.1
        return (wrong * log_sigmoid(-logit_B) - (1 - wrong) * log_sigmoid(logit_B)) / (
            1 - 2 * wrong
        )
