"""Length-normalised DPO."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    log_sigmoid,
    margin,
    per_token,
)
from rlhf.ranges import number


@dataclass
class LNDPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "ln_dpo"
    takes_certain_labels: ClassVar[bool] = True

    beta: float = number(5.0, above=0)
    anchor: Anchor = Anchor.initial

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO on log-ratios per token: on sides of n tokens each, DPO with β/n."""
        ratios = pairs.log_ratios(self.anchor.value)
        # Lambert et al. 2024 (Tülu 3), arXiv 2411.15124, Section 5, length-normalised DPO
        return -log_sigmoid(self.beta * margin(per_token(ratios, pairs.policy)))
