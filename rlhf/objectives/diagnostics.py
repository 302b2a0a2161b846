"""What is logged of the pairs that a policy is trained on."""

from typing import TypeGuard

import torch
from torch import Tensor

from rlhf.config.objectives import DPOConfig, ObjectiveConfig, RDPOConfig
from rlhf.objectives import anchors_needed, implicit_margin
from rlhf.objectives.pairs import Anchors, PairLogprobs, log_ratios, per_token

PAIR_METRICS = (
    "loss",
    "margin",
    "accuracy",
    "chosen_logratio",
    "rejected_logratio",
    "kl",
    "chosen_logprob",
    "rejected_logprob",
    "dpo_weight",
)


def has_dpo_weight(objective: ObjectiveConfig) -> TypeGuard[DPOConfig | RDPOConfig]:
    return isinstance(objective, DPOConfig | RDPOConfig)


def pair_metrics(
    objective: ObjectiveConfig, loss_B: Tensor, policy: PairLogprobs, anchors: Anchors
) -> list[Tensor]:
    """One number per pair for each of PAIR_METRICS, in that order.

    Log-ratios are to the first anchor, or to nothing if the objective has none; `kl` is their mean
    over both sides, an estimate where both are samples of the policy. Log-probabilities are per
    token. `dpo_weight` is σ(-β·margin), which scales a pair's gradient in plain DPO; 0 for other
    objectives.
    """
    margin_B = implicit_margin(objective, policy, anchors)
    needed = anchors_needed(objective)
    chosen_B, rejected_B = policy.chosen_B, policy.rejected_B
    if needed:
        ratios = log_ratios(policy, anchors[needed[0]])
        chosen_B, rejected_B = ratios.chosen_B, ratios.rejected_B
    accuracy_B = (margin_B > 0).to(loss_B.dtype)
    weight_B = torch.zeros_like(margin_B)
    if has_dpo_weight(objective):
        weight_B = torch.sigmoid(-objective.beta * margin_B)
    each = per_token(policy, policy)
    kl_B = (chosen_B + rejected_B) / 2
    drawn = [chosen_B, rejected_B, kl_B, each.chosen_B, each.rejected_B]
    return [loss_B, margin_B, accuracy_B, *drawn, weight_B]
