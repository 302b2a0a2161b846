"""DPO, and what becomes of it: cDPO by label smoothing, RPO by the chosen side's likelihood."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    chosen_nll_per_token,
    dpo_loss,
    margin,
)
from rlhf.ranges import number


@dataclass
class DPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "dpo"
    has_dpo_weight: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    label_smoothing: float = number(0.0, at_least=0, below=0.5)
    """Share of labels taken to be wrong (cDPO)."""
    nll_coef: float = number(0.0, at_least=0)
    """Weight of the chosen side's mean token NLL (RPO)."""
    anchor: Anchor = Anchor.initial

    def right(self, win_prob_B: Tensor) -> Tensor:
        smoothing = self.label_smoothing
        return win_prob_B * (1 - smoothing) + (1 - win_prob_B) * smoothing

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO; label smoothing makes it cDPO, least at a margin of ln((1-ε)/ε)/β.

        A pair whose win probability is not 1 is doubtful by itself, as those of a search tree are.
        The NLL is the chosen side's, per token.
        """
        logit_B = self.beta * margin(pairs.log_ratios(self.anchor.value))
        right_B = self.right(pairs.judged.win_prob_B)
        # Rafailov et al. 2023, arXiv 2305.18290, Eq. 7; Mitchell 2023, ericmitchell.ai/cdpo.pdf,
        # Eq. 3; the NLL: Pang et al. 2024, arXiv 2404.19733, Eq. 1
        return dpo_loss(logit_B, right_B) + self.nll_coef * chosen_nll_per_token(pairs.policy)
