"""XPO: DPO that explores away from the initial policy."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Pairs,
    dpo_loss,
    log_ratios,
    margin,
    mean_over,
)
from rlhf.ranges import number


@dataclass
class XPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "xpo"
    learns_from_ties: ClassVar[bool] = True
    needs_self_play: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    alpha: float = number(1e-5, at_least=0)
    """Optimism per nat: how much the initial policy's completions are to lose."""
    max_log_ratio: float = number(500.0, above=0)
    """Nats beyond which a completion of the initial policy loses no more."""
    anchor: Anchor = Anchor.initial

    @property
    def explores(self) -> bool:
        return True

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO, and the initial policy's completions are to lose log-probability.

        It is DPO alone where the initial policy drew neither side, and where that completion's
        log-ratio is beyond `max_log_ratio`.
        """
        anchor = pairs.anchors[self.anchor.value]
        ratios = log_ratios(pairs.policy, anchor)
        # Without a bound a completion could be driven down for ever.
        bounded_SB = ratios.both_SB.clamp(-self.max_log_ratio, self.max_log_ratio)
        explored_B = mean_over(pairs.judged.mixtures_SB == 1, bounded_SB + anchor.both_SB)
        # Xie et al. 2024, arXiv 2405.21046, Algorithm 1
        preferred_B = dpo_loss(self.beta * margin(ratios), pairs.judged.win_prob_B)
        return preferred_B + self.alpha * explored_B
