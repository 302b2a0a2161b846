"""CPO: DPO without an anchor, held by the chosen side's likelihood."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    chosen_nll_per_token,
    dpo_loss,
    margin,
)
from rlhf.ranges import number


@dataclass
class CPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "cpo"

    beta: float = number(0.1, above=0)
    nll_coef: float = number(1.0, at_least=0)
    """Weight of the chosen side's mean token NLL, which stands in for an anchor."""

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO's loss of a uniform anchor, on summed log-probabilities, and the NLL per token."""
        # Xu et al. 2024, arXiv 2401.08417, Eq. 3 and 5
        preferred_B = dpo_loss(self.beta * margin(pairs.policy), pairs.judged.win_prob_B)
        return preferred_B + self.nll_coef * chosen_nll_per_token(pairs.policy)
