"""A contrastive term beside the loss of comparisons.

Wang et al. 2024 (Secrets of RLHF II, arXiv 2401.06080, its contrastive learning by SimCSE on
preference differences): the model is to tell one pair's difference from another's. There two views
of a pair come of dropout throughout the model; language models of today have none, so that here
each view lacks other numbers of the last hidden states' difference, and one forward pass does.

Dimensions: B pairs of a forward pass, R = 2 rows of each, D numbers of a hidden state.
"""

import torch
from torch import Tensor

from rlhf.config.reward import ContrastConfig
from rlhf.reward.losses import contrastive
from rlhf.seeds import derive_seed


class Contrast:
    """The term of a whole training, whose masks follow from its seed."""

    def __init__(self, config: ContrastConfig, seed: int) -> None:
        self._config = config
        self._generator = torch.Generator().manual_seed(derive_seed(seed, "contrast"))

    def losses(self, states_BRD: Tensor) -> Tensor:
        """Of each pair, `(B,)`, against the others of its forward pass; 0 for one that is alone."""
        difference_BD = states_BRD[:, 0] - states_BRD[:, 1]
        first_BD, second_BD = self._view(difference_BD), self._view(difference_BD)
        loss_B = contrastive(first_BD, second_BD, self._config.temperature)
        return self._config.weight * loss_B

    def _view(self, difference_BD: Tensor) -> Tensor:
        """Drawn on the CPU, so that it is the same wherever the model is."""
        kept_BD = torch.rand(difference_BD.shape, generator=self._generator) >= self._config.dropout
        return difference_BD * kept_BD.to(difference_BD.device)
