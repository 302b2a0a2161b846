"""What is logged of the pairs that a policy is trained on."""

import torch
from torch import Tensor

from rlhf.objectives import ObjectiveConfig
from rlhf.objectives.pairs import Anchors, PairLogprobs, log_ratios, margin, per_token

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
    needed = objective.anchors
    chosen_B, rejected_B = policy.chosen_B, policy.rejected_B
    if needed:
        ratios = log_ratios(policy, anchors[needed[0]])
        chosen_B, rejected_B = ratios.chosen_B, ratios.rejected_B
    accuracy_B = (margin_B > 0).to(loss_B.dtype)
    weight_B = torch.zeros_like(margin_B)
    if objective.has_dpo_weight:
        weight_B = torch.sigmoid(-objective.beta * margin_B)  # type: ignore[attr-defined]
    each = per_token(policy, policy)
    kl_B = (chosen_B + rejected_B) / 2
    drawn = [chosen_B, rejected_B, kl_B, each.chosen_B, each.rejected_B]
    return [loss_B, margin_B, accuracy_B, *drawn, weight_B]


def implicit_margin(objective: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """How far the policy is on the chosen side, in summed nats, `(B,)`, without gradient.

    The difference of the log-ratios to the objective's first anchor, or of the log-probabilities
    if it has none; before β and per pair, not per token, so that objectives can be compared.
    `policy/margin` is its mean, and `policy/accuracy` the share that is above 0.
    """
    needed = objective.anchors
    sides = log_ratios(policy, anchors[needed[0]]) if needed else policy
    return margin(sides).detach()
