"""SLiC-HF: a hinge on log-probabilities, without anchor."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, chosen_nll_per_token, margin
from rlhf.ranges import number


@dataclass
class SLiCConfig(ObjectiveConfig):
    name: ClassVar[str] = "slic"
    takes_certain_labels: ClassVar[bool] = True

    delta: float = number(1.0, above=0)
    nll_coef: float = number(0.5, at_least=0)

    def loss(self, pairs: Pairs) -> Tensor:
        """A hinge on log-probabilities, plus the chosen side's NLL per token.

        The paper takes the NLL of a fixed target, summed over tokens. A fresh preference has no
        target but its chosen side, and per token `nll_coef` means what it means in DPO.
        """
        hinge_B = (self.delta - margin(pairs.policy)).relu()
        # Zhao et al. 2023, arXiv 2305.10425, Eq. 1
        return hinge_B + self.nll_coef * chosen_nll_per_token(pairs.policy)
