"""Log-probabilities of completions under a causal language model.

Dimensions: B rows, P prompt tokens (padded left), C completion tokens (padded right), V vocabulary.
Completions line up in the last C columns, so logits are only ever computed there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from rlhf.records import Tokens

_CHUNK_NUMBERS = 1 << 24
"""Logits that are held in fp32 at once (64 MiB)."""


class PaddedTokens(NamedTuple):
    """Rows ready for a forward pass."""

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    position_ids_BT: Tensor
    completion_mask_BC: Tensor
    weight_BC: Tensor
    """How many times a token's log-probability counts."""


def pad(rows: Sequence[Tokens], device: torch.device | str = "cpu") -> PaddedTokens:
    """Prompts padded on the left and completions on the right; of completions, padding and what a
    tool wrote are masked out, and what is emphasised has its weight."""
    width_P = max(len(row.prompt) for row in rows)
    width_C = max(len(row.completion) for row in rows)
    input_ids = torch.zeros(len(rows), width_P + width_C, dtype=torch.long)
    attention = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        start, end = width_P - len(row.prompt), width_P + len(row.completion)
        input_ids[i, start:end] = torch.tensor([*row.prompt, *row.completion])
        attention[i, start:end] = 1
    mask, weight = map(torch.from_numpy, counted(rows, width_C))
    positions = (attention.cumsum(1) - 1).clamp(min=0)
    return PaddedTokens(*(x.to(device) for x in (input_ids, attention, positions, mask, weight)))


def counted(rows: Sequence[Tokens], width_C: int) -> tuple[Any, Any]:
    """Which completion tokens `(R, C)` have a log-probability, and how many times each counts."""
    has = np.arange(width_C) < np.array([len(row.completion) for row in rows])[:, None]
    weight = np.ones(has.shape, dtype=np.float32)
    for i, row in enumerate(rows):
        for first, last in row.observed:
            has[i, first:last] = False
        for first, last, factor in row.emphasis:
            weight[i, first:last] = factor
    return has, weight


def completion_logprobs(model: torch.nn.Module, padded: PaddedTokens) -> Tensor:
    """Log-probability of every completion token `(B, C)`, fp32 nats, 0.0 where masked out, and as
    many times as it counts."""
    mask_BC = padded.completion_mask_BC
    width_C = mask_BC.shape[1]
    logits_BCV = model(
        input_ids=padded.input_ids_BT,
        attention_mask=padded.attention_mask_BT,
        position_ids=padded.position_ids_BT,
        logits_to_keep=width_C + 1,
        use_cache=False,
    ).logits[:, :-1]
    targets_BC = padded.input_ids_BT[:, -width_C:]
    return token_logprobs(logits_BCV, targets_BC).masked_fill(~mask_BC, 0.0) * padded.weight_BC


def token_logprobs(logits_BCV: Tensor, targets_BC: Tensor) -> Tensor:
    """Log-softmax at the targets `(B, C)` in fp32, a slice of C at a time.

    Under autograd each slice is recomputed in the backward pass, so the fp32 logits of the whole
    batch never exist together.
    """
    batch_B, width_C, vocabulary_V = logits_BCV.shape
    step = max(1, _CHUNK_NUMBERS // (batch_B * vocabulary_V))
    if step >= width_C:
        return _gather(logits_BCV, targets_BC)
    # One split, not many slices: each slice's backward would fill a gradient of the whole batch.
    slices = zip(logits_BCV.split(step, dim=1), targets_BC.split(step, dim=1), strict=True)
    values = [checkpoint(_gather, *both, use_reentrant=False) for both in slices]
    return torch.cat(values, dim=1)


def _gather(logits_BCV: Tensor, targets_BC: Tensor) -> Tensor:
    logits_BCV = logits_BCV.float()
    chosen_BC = logits_BCV.gather(-1, targets_BC.unsqueeze(-1)).squeeze(-1)
    return chosen_BC - logits_BCV.logsumexp(-1)
