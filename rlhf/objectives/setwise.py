"""Losses that look beyond a pair: at other completions of its prompt, or of the whole step.

Tensor names end in their dimensions: B pairs, S the two sides, chosen before rejected, M distinct
completions. Log-probabilities and log-ratios are nats, summed over a completion's tokens. A loss is
to be minimised, and comes unreduced, so that its caller can weight the pairs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from rlhf.config.objectives import KTOConfig, TPOConfig
from rlhf.objectives.pairs import Anchors, Judged, PairLogprobs, Peers, log_ratios, margin
from rlhf.records import LOGGED, Preference, SidePair


def kto(config: KTOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """KTO: a good completion is to exceed, and a bad one to fall below, the policy's own distance.

    Either side is on its own, and a pair's loss is the mean of its two, from 0 to 1. With the
    policy's own words alone, without those of tools, it is M-KTO.
    """
    ratios = log_ratios(policy, anchors[config.anchor.value])
    z = _peers(judged).distance
    good_B = torch.sigmoid(config.beta * (ratios.chosen_B - z))
    bad_B = torch.sigmoid(config.beta * (z - ratios.rejected_B))
    # Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8, both λ 1; Xiong et al. 2024, arXiv
    # 2409.02392, M-KTO
    return 1 - (good_B + bad_B) / 2


def distance_from_anchor(
    config: KTOConfig, pairs: Sequence[Preference], anchors: Mapping[str, Sequence[SidePair]]
) -> float:
    """KTO's z: mean nats by which the policy that drew a step's completions favours them.

    The paper estimates KL(policy‖anchor) with completions of other prompts, for want of fresh ones;
    here the sides are the policy's own. Those that it did not draw do not count. Never below 0.
    """
    favours = [
        before - anchor
        for pair, previous, at_anchor in zip(
            pairs, anchors[config.previous.value], anchors[config.anchor.value], strict=True
        )
        for side, before, anchor in zip(
            (pair.chosen, pair.rejected), previous, at_anchor, strict=True
        )
        if side.policy_version != LOGGED and not side.mixture
    ]
    return max(0.0, sum(favours) / len(favours)) if favours else 0.0


def tpo(config: TPOConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged) -> Tensor:
    """TPO: every better completion of a list over every worse one, by how much that matters.

    A pair of unequal worth v weighs |2^v - 2^v'|·|1/ln(1+τ) - 1/ln(1+τ')|, where τ is the rank of a
    completion in its list, from 1, by how much the policy favours it now. Those that rounding alone
    may set apart are equals, and of equals the one that comes first is ahead. No gradient passes
    through ranks.
    """
    ratios = log_ratios(policy, anchors[config.anchor.value])
    peers = _peers(judged)
    # Rounding errors of tokens are independent, so those of a sum grow with the root of its length.
    tokens_SB = torch.stack((policy.chosen_tokens_B, policy.rejected_tokens_B))
    rank_SB = ranks(ratios.both_SB.detach(), peers.noise * tokens_SB.sqrt(), peers)
    gain_B = torch.exp2(judged.scores_SB).diff(dim=0)[0].abs()
    discount_B = (1 / torch.log(1 + rank_SB)).diff(dim=0)[0].abs()
    # Liao et al. 2024, arXiv 2410.12854, the preference list ranking loss (LambdaLoss)
    return -gain_B * discount_B * logsigmoid(config.beta * margin(ratios))


def ranks(favour_SB: Tensor, noise_SB: Tensor, peers: Peers) -> Tensor:
    """Each side's place among the completions of its prompt, from 1, the most favoured first.

    Neighbours in that order who are no further apart than their two noises are equals.
    """
    side_SB = peers.side_SB
    num_sides = int(side_SB.max()) + 1
    favour_M = favour_SB.new_zeros(num_sides).index_put((side_SB,), favour_SB)
    noise_M = favour_SB.new_zeros(num_sides).index_put((side_SB,), noise_SB.to(favour_SB.dtype))
    list_M = side_SB.new_zeros(num_sides).index_put((side_SB,), peers.list_B.expand_as(side_SB))
    level_M = _levels(favour_M, noise_M, list_M)
    place_M = torch.arange(num_sides, device=side_SB.device)
    is_ahead_MM = level_M[None] < level_M[:, None]
    is_first_MM = (level_M[None] == level_M[:, None]) & (place_M[None] < place_M[:, None])
    is_peer_MM = list_M[None] == list_M[:, None]
    rank_M = 1 + (is_peer_MM & (is_ahead_MM | is_first_MM)).sum(1)
    return rank_M[side_SB].to(favour_SB.dtype)


def _levels(favour_M: Tensor, noise_M: Tensor, list_M: Tensor) -> Tensor:
    """Equals have one number, and who is favoured less has a higher one within its list."""
    # Unlike a grid, which sets apart even the nearest where they are on either side of a line.
    order_M = favour_M.argsort(descending=True, stable=True)
    order_M = order_M[list_M[order_M].argsort(stable=True)]
    gap = -favour_M[order_M].diff()
    reach = noise_M[order_M][1:] + noise_M[order_M][:-1]
    begins = (gap > reach) | (list_M[order_M].diff() != 0)
    level_M = torch.zeros_like(list_M)
    level_M[order_M[1:]] = begins.cumsum(0)
    return level_M


def _peers(judged: Judged) -> Peers:
    if judged.peers is None:
        raise ValueError("this loss looks beyond its pairs, and is not told of any peers")
    return judged.peers
