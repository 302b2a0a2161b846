"""Completions while they are sampled: those of a prompt share its keys and values.

A line is a row of the cache: a prompt and, behind it, tokens of its completions, one of each a
step. Each token sees the prompt and those of its own completion. Where that is of no use, or the
model's attention takes no mask of ours, every completion has a line to itself.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from actors.cache import roomy_cache
from rlhf.learning.reading import LARGEST_SHARE, NO_MASK

PROMPT, NOBODY = 0, -1
"""Whose a token of a line is; those of its k-th completion have k, from 1."""
LARGEST_PART = 1 / 3
"""Of the keys that lines of their own would hold. A step reads each key once, and compares it with
the tokens of all completions: with more keys, and few completions, that takes as long."""


class Branches:
    """R = prompts x `num_each` completions, A of which go on; L lines of T tokens."""

    def __init__(
        self,
        models: Sequence[Any],
        prompts: Sequence[Sequence[int]],
        num_each: int,
        shares: bool,
        device: torch.device,
    ) -> None:
        """All `models` read the same. `shares`: completions of a prompt share a line."""
        self._models, self._shares = models, shares
        self._caches = [roomy_cache() for _ in models]
        self._ids_LT, self._owner_LT = _left_padded(prompts, device)
        self._num_each = num_each
        number_R = torch.arange(len(prompts) * num_each, device=device)
        self._line_A = number_R // num_each if shares else number_R
        self._owner_A = number_R % num_each + 1 if shares else torch.ones_like(number_R)
        length_L = (self._owner_LT == PROMPT).sum(1)
        self._position_A = length_L.repeat_interleave(num_each)

    def begin(self) -> list[Tensor]:
        """Reads each prompt once; the models' logits of every completion's first token."""
        is_there_LT = (self._owner_LT == PROMPT).long()
        found = [
            model(
                input_ids=self._ids_LT,
                attention_mask=is_there_LT,
                position_ids=(is_there_LT.cumsum(1) - 1).clamp(min=0),
                past_key_values=cache,
                logits_to_keep=1,
            ).logits[:, -1]
            for model, cache in zip(self._models, self._caches, strict=True)
        ]
        if not self._shares and self._num_each > 1:
            self._owner_LT = self._owner_LT.repeat_interleave(self._num_each, 0)
            for cache in self._caches:
                cache.batch_repeat_interleave(self._num_each)
        return [logits_LV.repeat_interleave(self._num_each, 0) for logits_LV in found]

    def keep(self, left: Tensor) -> None:
        """Only these go on, by their places among those that did."""
        self._owner_A, self._position_A = self._owner_A[left], self._position_A[left]
        lines, self._line_A = self._line_A[left].unique(return_inverse=True)
        if len(lines) < len(self._owner_LT):
            self._owner_LT = self._owner_LT[lines]
            for cache in self._caches:
                cache.batch_select_indices(lines)

    def step(self, token_A: Tensor) -> list[Tensor]:
        """Reads a token more of each; the models' logits of the next."""
        num_L = torch.bincount(self._line_A, minlength=len(self._owner_LT))
        before_L = num_L.cumsum(0) - num_L
        slot_A = torch.arange(len(token_A), device=token_A.device) - before_L[self._line_A]
        shape, places = (len(num_L), int(num_L.max())), (self._line_A, slot_A)

        def in_lines(value_A: Tensor, otherwise: int) -> Tensor:
            return value_A.new_full(shape, otherwise).index_put_(places, value_A)

        owner_LW = in_lines(self._owner_A, NOBODY)
        self._owner_LT = torch.cat([self._owner_LT, owner_LW], 1)
        found = [
            model(
                input_ids=in_lines(token_A, 0),
                attention_mask=self._seen_by(owner_LW),
                position_ids=in_lines(self._position_A, 0),
                past_key_values=cache,
            ).logits[places]
            for model, cache in zip(self._models, self._caches, strict=True)
        ]
        self._position_A = self._position_A + 1
        return found

    def _seen_by(self, owner_LW: Tensor) -> Tensor:
        """What is nobody's sees the same as padding, and the prompt, lest it see nothing."""
        if not self._shares:
            return (self._owner_LT != NOBODY).long()
        owner_L1T = self._owner_LT[:, None]
        return ((owner_L1T == PROMPT) | (owner_L1T == owner_LW[:, :, None]))[:, None]


def sharing_pays(lengths: Sequence[int], limit: int, num_each: int) -> bool:
    """For prompts of so many tokens, and completions of at most `limit`."""
    shared = sum(lengths) + len(lengths) * num_each * limit
    alone = num_each * (sum(lengths) + len(lengths) * limit)
    return shared <= LARGEST_PART * alone


@torch.inference_mode()
def can_share(model: Any, vocabulary: int, device: torch.device) -> bool:
    """Whether the model's logits are the same either way, found on a few tokens."""

    def logprobs(shares: bool, first: int) -> Tensor:
        prompts = [[(first + 5 * k + p) % vocabulary for k in range(5 + p)] for p in range(2)]
        tokens = torch.arange(6, device=device) % vocabulary
        branches = Branches([model], prompts, 3, shares, device)
        found = [*branches.begin(), *branches.step(tokens)]
        branches.keep(left := torch.tensor([0, 2, 4], device=device))
        for k in range(3):
            found += branches.step((tokens[left] * 3 + 2 * k) % vocabulary)
        return torch.cat(found).float().log_softmax(-1)

    alone, elsewhere = logprobs(False, 1), logprobs(False, 4)
    try:
        shared = logprobs(True, 1)
    except NO_MASK:
        return False
    share = (shared - alone).abs().mean() / (elsewhere - alone).abs().mean()
    return bool(share <= LARGEST_SHARE)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids, and whose they are."""
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    owner = torch.full_like(ids, NOBODY)
    for line, prompt in enumerate(prompts):
        ids[line, width - len(prompt) :] = torch.tensor(prompt)
        owner[line, width - len(prompt) :] = PROMPT
    return ids.to(device), owner.to(device)
