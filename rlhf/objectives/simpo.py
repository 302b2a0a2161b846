"""SimPO: log-probabilities per token, without anchor."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    log_sigmoid,
    margin,
    per_token,
)
from rlhf.ranges import number


@dataclass
class SimPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "simpo"
    takes_certain_labels: ClassVar[bool] = True

    beta: float = number(2.0, above=0)
    margin: float = number(0.5, at_least=0)
    """Target margin per token, the paper's γ/β."""

    def loss(self, pairs: Pairs) -> Tensor:
        """Log-probabilities per token are to be apart by more than a target margin."""
        margin_B = margin(per_token(pairs.policy, pairs.policy))
        # Meng et al. 2024, arXiv 2405.14734, Eq. 6, with the paper's γ = β·margin
        return -log_sigmoid(self.beta * (margin_B - self.margin))
