"""GPO: either side is drawn to its mean log-odds of winning."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs
from rlhf.ranges import number


@dataclass
class GPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "gpo"
    learns_from_ties: ClassVar[bool] = True
    needs_self_play: ClassVar[bool] = True
    needs_score: ClassVar[str | None] = "log_odds"

    step_size: float = number(5.0, above=0)
    """Nats per nat of mean log-odds: either side is drawn to `step_size`·score."""
    max_target: float = number(1000.0, above=0)
    """Largest target in nats."""
    anchor: Anchor = Anchor.previous

    @property
    def largest_target(self) -> float | None:
        return self.max_target

    def loss(self, pairs: Pairs) -> Tensor:
        """Either side's log-ratio is drawn, on its own, to `step_size`·score, within limits."""
        ratio_SB = pairs.log_ratios(self.anchor.value).both_SB
        # A sharp preference model asks for 10,000 nats where a completion has a few hundred.
        target_SB = (self.step_size * pairs.judged.scores_SB).clamp(
            -self.max_target, self.max_target
        )
        # Zhang et al. 2024, arXiv 2410.02197, GPO; log-odds are skew: nothing is to be subtracted
        return (ratio_SB - target_SB).square().sum(0) / 2
