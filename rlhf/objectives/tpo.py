"""TPO: every better completion of a list over every worse one, by how much that matters.

Tensor names end in their dimensions: B pairs, S the two sides, M distinct completions.
"""

from dataclasses import dataclass
from typing import ClassVar

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor, torch
from rlhf.objectives.pairs import (
    Pairs,
    Peers,
    log_sigmoid,
    margin,
)
from rlhf.ranges import number


@dataclass
class TPOConfig(ObjectiveConfig):
    name: ClassVar[str] = "tpo"
    needs_whole_lists: ClassVar[bool] = True

    beta: float = number(1.0, above=0)
    """Twice the paper's, whose weights of steps are twice those of `algorithm.pairs=ranked`."""
    anchor: Anchor = Anchor.initial

    def loss(self, pairs: Pairs) -> Tensor:
        """A pair of unequal worth v weighs |2^v - 2^v'|·|1/ln(1+τ) - 1/ln(1+τ')|.

        τ is the rank of a completion in its list, from 1, by how much the policy favours it now.
        Those that rounding alone may set apart are equals, and of equals the one that comes first
        is ahead. No gradient passes through ranks.
        """
        ratios = pairs.log_ratios(self.anchor.value)
        peers = pairs.judged.others
        # Rounding errors of tokens are independent: those of a sum grow with its length's root.
        tokens_SB = torch.stack((pairs.policy.chosen_tokens_B, pairs.policy.rejected_tokens_B))
        rank_SB = ranks(ratios.both_SB.detach(), peers.noise * tokens_SB.sqrt(), peers)
        gain_B = torch.exp2(pairs.judged.scores_SB).diff(dim=0)[0].abs()
        discount_B = (1 / torch.log(1 + rank_SB)).diff(dim=0)[0].abs()
        # Liao et al. 2024, arXiv 2410.12854, the preference list ranking loss (LambdaLoss)
        return -gain_B * discount_B * log_sigmoid(self.beta * margin(ratios))


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
