"""VPO: DPO with optimism online, or pessimism offline."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    dpo_loss,
    margin,
    mean_over,
)
from rlhf.ranges import number


class Optimism(Enum):
    online = "online"
    """Explore: completions of the initial policy are to lose probability."""
    offline = "offline"
    """Stay: chosen completions are to gain it."""


@dataclass
class VPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "vpo"
    learns_from_ties: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    alpha: float = number(0.01, at_least=0)
    optimism: Optimism = Optimism.online
    max_log_ratio: float = number(500.0, above=0)
    anchor: Anchor = Anchor.initial

    @property
    def explores(self) -> bool:
        return self.optimism is Optimism.online

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO, and the initial policy's completions lose (online), or chosen ones gain (offline).

        Online it is XPO with α·β for α, but for a constant.
        """
        ratios = pairs.log_ratios(self.anchor.value)
        bounded_SB = ratios.both_SB.clamp(-self.max_log_ratio, self.max_log_ratio)
        # Cen et al. 2024, arXiv 2405.19320, Algorithm 1 (online) and 2 (offline)
        if self.optimism is Optimism.online:
            value_B = mean_over(pairs.judged.mixtures_SB == 1, bounded_SB)
        else:
            value_B = -bounded_SB[0]
        preferred_B = dpo_loss(self.beta * margin(ratios), pairs.judged.win_prob_B)
        return preferred_B + self.alpha * self.beta * value_B
