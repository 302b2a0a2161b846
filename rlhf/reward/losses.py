"""Losses of models that are to judge: scores or embeddings in, one number per row out.

Tensor names end in their dimensions: B rows, L labels, D numbers of a preference embedding (even),
S steps of all rows together. A loss is to be minimised, and comes unreduced, so that its caller can
weight the rows. `σ` of a difference of scores is a probability.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize

from rlhf.judges.gpm import skew_score, unit


def bradley_terry(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor | float = 0.0) -> Tensor:
    """The chosen side's score is to exceed the other by more than a margin."""
    # Ouyang et al. 2022, arXiv 2203.02155, Eq. 1; with a margin Touvron et al. 2023 (Llama 2),
    # arXiv 2307.09288, Eq. 2
    return -logsigmoid(chosen_B - rejected_B - margin_B)


def scaled_bradley_terry(chosen_B: Tensor, rejected_B: Tensor, margin_B: Tensor) -> Tensor:
    """A comparison counts as often as its margin says."""
    # Wang et al. 2024 (HelpSteer2-Preference), arXiv 2410.01257, "Scaled Bradley-Terry"
    return -margin_B * logsigmoid(chosen_B - rejected_B)


def steps(chosen_S: Tensor, rejected_S: Tensor, num_steps: Sequence[int]) -> Tensor:
    """After every step the chosen side's score is to exceed the other; a row's steps are summed.

    `num_steps` of each row, in order; scores are those at the last token of a step.
    """
    # He et al. 2024 (Tree-PLV), arXiv 2407.00390: -Σ_i log σ(r(x, y⁺_1:i) - r(x, y⁻_1:i)), from
    # the step in which the two sides part. Their code averages over tokens, padding included.
    loss_S = -logsigmoid(chosen_S - rejected_S)
    return torch.stack([loss.sum() for loss in loss_S.split(list(num_steps))])


def regression(score_B: Tensor, target_B: Tensor) -> Tensor:
    """The squared distance of a score from what it is to be."""
    return (score_B - target_B).square()


def attributes(score_BL: Tensor, target_BL: Tensor) -> Tensor:
    """The mean squared distance over the attributes that are known; targets are nan for others."""
    # Wang et al. 2024 (HelpSteer2), arXiv 2406.08673, Section 4.1
    known_BL = ~target_BL.isnan()
    distance_BL = (score_BL - target_BL.nan_to_num()).square() * known_BL
    return distance_BL.sum(-1) / known_BL.sum(-1)


def votes(chosen_BL: Tensor, rejected_BL: Tensor, vote_BL: Tensor) -> Tensor:
    """The mean over the criteria that somebody voted by of how far each label's comparison is from
    its vote; votes are probabilities of the chosen side, nan where they are unknown."""
    known_BL = ~vote_BL.isnan()
    vote_BL = vote_BL.nan_to_num()
    ahead_BL = chosen_BL - rejected_BL
    loss_BL = -vote_BL * logsigmoid(ahead_BL) - (1 - vote_BL) * logsigmoid(-ahead_BL)
    return (loss_BL * known_BL).sum(-1) / known_BL.sum(-1)


def soft(loss_B: Tensor, opposite_B: Tensor, label_B: Tensor) -> Tensor:
    """A comparison of which the label is right with a probability alone; `opposite_B`: the losses
    with the sides exchanged."""
    return label_B * loss_B + (1 - label_B) * opposite_B


def contrastive(first_BD: Tensor, second_BD: Tensor, temperature: float) -> Tensor:
    """Each row's first view is to be nearer to its own second view than to those of other rows."""
    # Gao et al. 2021 (SimCSE), arXiv 2104.08821, Eq. 1; nearness is the cosine
    nearness_BB = normalize(first_BD, dim=-1) @ normalize(second_BD, dim=-1).T
    own_B = torch.arange(len(first_BD), device=first_BD.device)
    return cross_entropy(nearness_BB / temperature, own_B, reduction="none")


def pair(chosen_first_B: Tensor, rejected_first_B: Tensor) -> Tensor:
    """Cross-entropy of the logit of preferring what is read first, averaged over both orders."""
    # Jiang et al. 2023 (LLM-Blender, PairRM), arXiv 2306.02561
    return -(logsigmoid(chosen_first_B) + logsigmoid(-rejected_first_B)) / 2


def gpm(chosen_BD: Tensor, rejected_BD: Tensor, temperature: float) -> Tensor:
    """The score of the two sides' unit embeddings is to favour the chosen one."""
    score_B = skew_score(unit(chosen_BD), unit(rejected_BD))
    # Zhang et al. 2024 (GPM), arXiv 2410.02197
    return -logsigmoid(score_B / temperature)
