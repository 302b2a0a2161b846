"""LD-DPO: DPO in which the longer side's surplus of tokens counts less."""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, dpo_loss, margin
from rlhf.objectives.tokens import marked
from rlhf.ranges import number
from rlhf.records import Preference, Side


@dataclass
class LDDPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "ld_dpo"
    has_dpo_weight: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    alpha: float = number(0.5, at_least=0, at_most=1)
    """How much a token counts beyond the shorter side's length: 1 is DPO, 0 leaves them out."""
    anchor: Anchor = Anchor.initial

    def mark(self, pair: Preference) -> Preference:
        """Of the policy's own tokens, those beyond as many as the other side has count `alpha`."""
        shorter = min(side.tokens.num_own_tokens for side in pair.sides)
        chosen, rejected = (self._marked(side, shorter) for side in pair.sides)
        return replace(pair, chosen=chosen, rejected=rejected)

    def _marked(self, side: Side, length: int) -> Side:
        places = accumulate(side.tokens.own)  # the how manieth of its own a token is
        return marked(side, [1.0 if place <= length else self.alpha for place in places])

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO on the sums so marked, of policy and anchor alike."""
        # Liu et al. 2024, arXiv 2409.06411
        logit_B = self.beta * margin(pairs.log_ratios(self.anchor.value))
        return dpo_loss(logit_B, self.right(pairs.judged.win_prob_B))
