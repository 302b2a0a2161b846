"""ORPO: imitate the chosen side, and raise its odds above the rejected one's; no anchor."""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.late import Tensor, torch
from rlhf.objectives.pairs import (
    Pairs,
    SideLogprobs,
    chosen_nll_per_token,
    log_sigmoid,
    margin,
    per_token,
)
from rlhf.ranges import number

_SURE = -1e-7
"""Nats per token above which the odds would be infinite."""


@dataclass
class ORPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "orpo"
    takes_certain_labels: ClassVar[bool] = True

    odds_coef: float = number(0.1, at_least=0)
    """Weight of the odds beside the chosen side's NLL, the paper's λ."""

    def loss(self, pairs: Pairs) -> Tensor:
        """The chosen side's NLL per token, and the log-sigmoid of how much its log-odds lead.

        A side's probability is the geometric mean of its tokens'. The paper's code has the prompt
        in the NLL too; here only what the policy wrote.
        """
        each = per_token(pairs.policy, pairs.policy)
        odds = SideLogprobs(_log_odds(each.chosen_B), _log_odds(each.rejected_B))
        # Hong et al. 2024, arXiv 2403.07691, Eq. 6 and 7
        return chosen_nll_per_token(pairs.policy) - self.odds_coef * log_sigmoid(margin(odds))


def _log_odds(logprob_B: Tensor) -> Tensor:
    below_B = logprob_B.clamp(max=_SURE)
    return below_B - torch.log(-torch.expm1(below_B))
