"""KTO, and with the policy's own words alone M-KTO: each side by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs
from rlhf.ranges import number
from rlhf.records import Columns


@dataclass
class KTOConfig(ObjectiveConfig):
    name: ClassVar[str] = "kto"
    takes_certain_labels: ClassVar[bool] = True
    needs_whole_steps: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    anchor: Anchor = Anchor.initial
    previous: Anchor = Anchor.previous
    """How far it is from `anchor` is the paper's z: what a good completion has to exceed."""

    def cautions(self, max_staleness: int) -> Iterator[str]:
        if max_staleness:
            yield (
                f"warning: max_staleness={max_staleness}: objective=kto takes z, how far the "
                "policy is from its anchor, from the policy's own completions, and those of an "
                "older one do not measure it; set max_staleness=0"
            )

    def loss(self, pairs: Pairs) -> Tensor:
        """A good completion is to exceed, a bad one to fall below, the policy's own distance.

        Either side is on its own, and a pair's loss is the mean of its two, from 0 to 1. With the
        policy's own words alone, without those of tools, it is M-KTO.
        """
        ratios = pairs.log_ratios(self.anchor.value)
        z = pairs.judged.others.distance
        good_B = (self.beta * (ratios.chosen_B - z)).sigmoid()
        bad_B = (self.beta * (z - ratios.rejected_B)).sigmoid()
        # Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8, both λ 1; Xiong et al. 2024, arXiv
        # 2409.02392, M-KTO
        return 1 - (good_B + bad_B) / 2

    def statistic(self, step: Columns) -> float:
        """The paper's z: mean nats by which the policy that drew a step's completions favours them.

        The paper estimates KL(policy‖anchor) with completions of other prompts, for want of fresh
        ones; here the sides are the policy's own. Those that it did not draw do not count. Never
        below 0.
        """
        favours_BS = step.anchors[self.previous.value] - step.anchors[self.anchor.value]
        favours = favours_BS[step.pairs.is_own_BS].tolist()
        return max(0.0, sum(favours) / len(favours)) if favours else 0.0
