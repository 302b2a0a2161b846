"""RRPO: DPO on the tokens in which the two sides differ, and the chosen side near the anchor."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import Pairs, dpo_loss, margin
from rlhf.objectives.tokens import marked
from rlhf.ranges import number
from rlhf.records import Preference

MOST_NATS = 10.0
"""Of a token, by which the anchor may favour it more than the policy before that counts no more."""


@dataclass
class RRPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "rrpo"
    has_dpo_weight: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    beta: float = number(0.1, above=0)
    kl_coef: float = number(0.01, at_least=0)
    """Weight of the divergence of anchor from policy, summed over the chosen side's tokens."""
    anchor: Anchor = Anchor.initial

    def mark(self, pair: Preference) -> Preference:
        """Tokens that both sides have, in the same order, do not count."""
        ids = [side.completion.token_ids for side in pair.sides]
        weights = differing(*ids)
        chosen, rejected = (
            marked(side, own) for side, own in zip(pair.sides, weights, strict=True)
        )
        return replace(pair, chosen=chosen, rejected=rejected)

    def loss(self, pairs: Pairs) -> Tensor:
        """DPO on the sums so marked, and the divergence on every token of the chosen side.

        The paper's divergence is of whole distributions; this one is its estimate from the token
        that is there, r·ln r - r + 1 with r the anchor's probability over the policy's: never below
        0, and 0, with its gradient, where the two agree.
        """
        # Sarkar and Etemad 2025, arXiv 2504.12083
        logit_B = self.beta * margin(pairs.log_ratios(self.anchor.value))
        tokens = pairs.every_token
        gap_BC = (tokens.anchors[self.anchor.value] - tokens.policy_SBC)[0].clamp(max=MOST_NATS)
        ratio_BC = gap_BC.exp()
        divergence_BC = ratio_BC * gap_BC - ratio_BC + 1
        divergence_B = (divergence_BC * tokens.own_SBC[0]).sum(1)
        preferred_B = dpo_loss(logit_B, self.right(pairs.judged.win_prob_B))
        return preferred_B + self.kl_coef * divergence_B


def differing(chosen: Sequence[int], rejected: Sequence[int]) -> tuple[list[float], list[float]]:
    """1 for each token that is not in a piece that both have, else 0."""
    weights = [1.0] * len(chosen), [1.0] * len(rejected)
    # Without the junk rule, for which tokens are too frequent that are one in a hundred.
    for piece in SequenceMatcher(None, chosen, rejected, autojunk=False).get_matching_blocks():
        for own, start in zip(weights, (piece.a, piece.b), strict=True):
            own[start : start + piece.size] = [0.0] * piece.size
    return weights
