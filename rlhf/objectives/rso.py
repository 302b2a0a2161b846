"""RSO's normalised hinge."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, margin
from rlhf.ranges import number


@dataclass
class RSOConfig(ObjectiveConfig):
    name: ClassVar[str] = "rso"
    takes_certain_labels: ClassVar[bool] = True

    gamma: float = number(0.05, above=0)
    anchor: Anchor = Anchor.initial

    def loss(self, pairs: Pairs) -> Tensor:
        """A hinge, without gradient where the margin exceeds 1/γ."""
        margin_B = margin(pairs.log_ratios(self.anchor.value))
        # Liu et al. 2023, arXiv 2309.06657, "hinge-norm"
        return (1 - self.gamma * margin_B).relu()
