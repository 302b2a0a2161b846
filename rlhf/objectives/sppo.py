"""SPPO: self-play in which either side has a target of its own."""

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs
from rlhf.ranges import number


class Target(Enum):
    mean = "mean"
    """Either side's mean win probability against its group."""
    pair = "pair"
    """The win probability within the pair: `algorithm.label=hard` makes it hard SPPO."""


@dataclass
class SPPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "sppo"
    learns_from_ties: ClassVar[bool] = True
    needs_self_play: ClassVar[bool] = True
    needs_score: ClassVar[str | None] = "win_prob"

    step_size: float = number(1000.0, above=0)
    """Nats per unit of win probability, the paper's η: either side is drawn to
    `step_size`·(P - 1/2)."""
    target: Target = Target.mean
    anchor: Anchor = Anchor.previous

    @property
    def largest_target(self) -> float | None:
        return self.step_size / 2

    def loss(self, pairs: Pairs) -> Tensor:
        """Either side's log-ratio is drawn, on its own, to `step_size`·(P - 1/2).

        P is the side's score, or its probability of winning within the pair.
        """
        ratio_SB = pairs.log_ratios(self.anchor.value).both_SB
        win_prob_SB = pairs.judged.scores_SB if self.target is Target.mean else pairs.judged.wins_SB
        # Wu et al. 2024, arXiv 2405.00675, Algorithm 1: 1/2 stands for the log-partition over η
        return (ratio_SB - self.step_size * (win_prob_SB - 0.5)).square().sum(0) / 2
