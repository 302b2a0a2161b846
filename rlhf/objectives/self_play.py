"""Losses of policies that play against themselves: what is judged comes as win probabilities.

Tensor names end in their dimensions: B pairs, S the two sides, chosen before rejected.
Log-probabilities and log-ratios are nats, summed over a completion's tokens: divided by its length
they would no longer lead to the game's solution. A loss is to be minimised, and comes unreduced,
so that its caller can weight the pairs. But for VPO's offline term, exchanging the sides together
with what is known of them changes no loss: only P says which side is the better one.
"""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.config.objectives import (
    GPOConfig,
    INPOConfig,
    NashMDConfig,
    Optimism,
    SPPOConfig,
    Target,
    VPOConfig,
    XPOConfig,
)
from rlhf.objectives.pairs import Anchors, Judged, PairLogprobs, SideLogprobs, log_ratios, margin


def sppo(config: SPPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """SPPO: either side's log-ratio is drawn, on its own, to `step_size`·(P - 1/2).

    P is the side's score, or its probability of winning within the pair.
    """
    ratio_SB = log_ratios(policy, anchors[config.anchor.value]).both_SB
    win_prob_SB = judged.scores_SB if config.target is Target.mean else judged.wins_SB
    # Wu et al. 2024, arXiv 2405.00675, Algorithm 1: 1/2 stands for the log-partition over η
    return (ratio_SB - config.step_size * (win_prob_SB - 0.5)).square().sum(0) / 2


def inpo(config: INPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """INPO: the margin over a blend of two anchors is drawn to `step_size`·(P - 1/2).

    The blend has tau·`step_size` of the initial policy and the rest of the previous one. A margin
    beyond the target is pulled back.
    """
    initial_B = margin(log_ratios(policy, anchors[config.initial.value]))
    previous_B = margin(log_ratios(policy, anchors[config.previous.value]))
    # Weights that sum to 1 can be put on the log-ratios: the policy's own gap comes out once.
    share = config.tau * config.step_size
    margin_B = share * initial_B + (1 - share) * previous_B
    # Zhang et al. 2024, arXiv 2407.00617, Algorithm 1, whose 1/η is the step size; P for its label
    return (margin_B - config.step_size * (judged.win_prob_B - 0.5)).square()


def gpo(config: GPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """GPO: either side's log-ratio is drawn, on its own, to `step_size`·score, within limits.

    The score is the side's mean log-odds of winning.
    """
    ratio_SB = log_ratios(policy, anchors[config.anchor.value]).both_SB
    # A sharp preference model asks for 10,000 nats where a completion has a few hundred.
    target_SB = (config.step_size * judged.scores_SB).clamp(-config.max_target, config.max_target)
    # Zhang et al. 2024, arXiv 2410.02197, GPO; log-odds are skew, so nothing is to be subtracted
    return (ratio_SB - target_SB).square().sum(0) / 2


def nash_md(config: NashMDConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """Nash-MD's policy gradient: a side of the policy's own against whatever it met.

    Its value means little; its gradient is that of -P(side wins) + τ·KL, with 1/2 as baseline.
    Mean over the policy's own sides; 0 where it has none.
    """
    ratio_SB = log_ratios(policy, anchors[config.anchor.value]).both_SB
    # The whole completion's log-ratio, not each token's own: a token answers also for the KL of
    # the tokens that follow it.
    weight_SB = (judged.wins_SB - 0.5 - config.tau * ratio_SB).detach()
    # Munos et al. 2023, arXiv 2312.00886, Nash-MD-PG
    return _mean_over(judged.mixtures_SB == 0, -weight_SB * policy.both_SB)


def xpo(config: XPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """XPO: DPO, and the initial policy's completions are to lose log-probability.

    It is DPO alone where the initial policy drew neither side, and where that completion's
    log-ratio is beyond `max_log_ratio`.
    """
    anchor = anchors[config.anchor.value]
    ratios = log_ratios(policy, anchor)
    # Without a bound a completion could be driven down for ever.
    bounded_SB = ratios.both_SB.clamp(-config.max_log_ratio, config.max_log_ratio)
    explored_B = _mean_over(judged.mixtures_SB == 1, bounded_SB + anchor.both_SB)
    # Xie et al. 2024, arXiv 2405.21046, Algorithm 1
    return _dpo(config.beta, ratios, judged) + config.alpha * explored_B


def vpo(config: VPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """VPO: DPO, and the initial policy's completions lose (online), or chosen ones gain (offline).

    Online it is XPO with α·β for α, but for a constant.
    """
    ratios = log_ratios(policy, anchors[config.anchor.value])
    bounded_SB = ratios.both_SB.clamp(-config.max_log_ratio, config.max_log_ratio)
    # Cen et al. 2024, arXiv 2405.19320, Algorithm 1 (online) and 2 (offline)
    if config.optimism is Optimism.online:
        value_B = _mean_over(judged.mixtures_SB == 1, bounded_SB)
    else:
        value_B = -bounded_SB[0]
    return _dpo(config.beta, ratios, judged) + config.alpha * config.beta * value_B


def _dpo(beta: float, ratios: SideLogprobs, judged: Judged) -> Tensor:
    """DPO's loss, on average over a label that is drawn with the win probability."""
    logit_B = beta * margin(ratios)
    win_prob_B = judged.win_prob_B
    return -win_prob_B * logsigmoid(logit_B) - (1 - win_prob_B) * logsigmoid(-logit_B)


def _mean_over(counts_SB: Tensor, value_SB: Tensor) -> Tensor:
    """Mean over the sides that count, `(B,)`; 0 where neither does."""
    kept_SB = torch.where(counts_SB, value_SB, 0.0)
    return kept_SB.sum(0) / counts_SB.sum(0).clamp(min=1)
