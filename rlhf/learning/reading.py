"""Log-probabilities of rows under one model, by forward passes over rows that begin alike.

Rows that share a beginning are packed into trees where the model's attention allows it, and padded
side by side where not; the numbers are the same but for rounding.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf.learning.logprobs import completion_logprobs, pad
from rlhf.learning.packing import UNLIMITED, Packing, pack, packed_logprobs
from rlhf.models.batching import Shape, micro_batches
from rlhf.records import Tokens

LARGEST_SHARE = 0.2
"""Of what a prompt does to its completion's log-probabilities, what packing may at most do. A mask
that is not heeded does as much as the prompt itself (a share of 0.5 to 2); rounding does 1e-5 of it
in float32, and up to 0.05 in bfloat16 on a model that knows nothing."""
NO_MASK = (RuntimeError, ValueError, TypeError, IndexError, AttributeError)
"""What models may raise that take no mask of ours."""


class CannotPack(Exception):
    """The model's attention is not that of trees; says why."""


class Unit(NamedTuple):
    """What stays together in one forward pass, by its places, and what it comes to there."""

    places: Sequence[int]
    shape: Shape


@dataclass(frozen=True, slots=True)
class RowReader:
    """One model, and how its rows may share a forward pass."""

    model: Any
    device: torch.device
    packing: Packing | None = None
    """None if rows are padded."""

    def fitting(self, rows: Iterable[Tokens]) -> "RowReader":
        """For these rows: padded if one of them is longer than all tokens see."""
        if self.packing is None or self.packing.fits(rows):
            return self
        return RowReader(self.model, self.device)

    def shape(self, rows: Sequence[Tokens]) -> Shape:
        """What some rows that share a forward pass come to in it."""
        if self.packing is None:
            prompt = max(len(row.prompt) for row in rows)
            return Shape(prompt, max(len(row.completion) for row in rows), len(rows))
        trees = self.packing.trees(rows)
        return Shape(0, max(tree.num_tokens for tree in trees), len(trees))

    def units(self, rows: Sequence[Tokens]) -> list["Unit"]:
        """Rows that belong in one forward pass: those of a tree, or each by itself."""
        if self.packing is None:
            return [Unit((i,), self.shape([row])) for i, row in enumerate(rows)]
        return [Unit(tree.rows, Shape(0, tree.num_tokens)) for tree in self.packing.trees(rows)]

    def logprobs_RC(self, rows: Sequence[Tokens]) -> Tensor:
        """Of every completion token, fp32 nats, in one forward pass; 0.0 where it has none.

        Rows of different lengths go as trees even where none begin alike: a tree's padding sees
        itself, while rows padded the usual way hold tokens that see nothing, of which cuDNN's
        attention (H200, torch 2.11, bfloat16) makes a gradient that is not a number.
        """
        if self.packing is not None:
            trees = self.packing.trees(rows)
            widths = {(len(row.prompt), len(row.completion)) for row in rows}
            if len(trees) < len(rows) or len(widths) > 1:
                return packed_logprobs(self.model, pack(rows, trees, self.device))
        return completion_logprobs(self.model, pad(rows, self.device))

    @torch.no_grad()
    def each(self, rows: Sequence[Tokens], budget_tokens: int) -> list[list[float]]:
        """Of every row its completion tokens', in the order of `rows`, in forward passes of so many
        tokens."""
        reader = self.fitting(rows)
        units = reader.units(rows)
        results: list[list[float]] = [[] for _ in rows]
        for batch in micro_batches([unit.shape for unit in units], budget_tokens):
            indices = [i for unit in batch for i in units[unit].places]
            values_RC = reader.logprobs_RC([rows[i] for i in indices]).tolist()
            for i, values in zip(indices, values_RC, strict=True):
                results[i] = values[: len(rows[i].completion)]
        return results


def row_logprobs(
    model: Any, rows: Sequence[Tokens], micro_batch_tokens: int, device: torch.device
) -> list[list[float]]:
    """Per-token log-probabilities of every row's completion, in the order of `rows`; padded."""
    return RowReader(model, device).each(rows, micro_batch_tokens)


def sum_logprobs(
    model: Any, rows: Sequence[Tokens], micro_batch_tokens: int, device: torch.device
) -> list[float]:
    """Summed log-probability of every row's completion, in the order of `rows`; padded."""
    return [sum(values) for values in row_logprobs(model, rows, micro_batch_tokens, device)]


@torch.no_grad()
def find_packing(model: Any, config: Any, device: torch.device) -> Packing:
    """How rows of this model are packed, found by comparing both ways on a few of them.

    `config`: transformers' own, of the model.

    Raises:
        CannotPack: its attention does not take a mask and positions of ours.
    """
    config = config.get_text_config()
    packing = Packing(config.hidden_size, longest_seen(config))
    rows, others = probe_rows(config.vocab_size, 5), probe_rows(config.vocab_size, 11)
    trees = packing.trees(rows)
    padded = completion_logprobs(model, pad(rows, device))
    elsewhere = completion_logprobs(model, pad(others, device))
    try:
        packed = packed_logprobs(model, pack(rows, trees, device))
    except NO_MASK as error:
        raise CannotPack(f"the model takes no mask of ours ({str(error)[:200]})") from error
    share = ((packed - padded).abs().mean() / (elsewhere - padded).abs().mean()).item()
    if not share <= LARGEST_SHARE:
        raise CannotPack(
            f"packed, its log-probabilities move by {share:.2g} of what another prompt does to them"
        )
    return packing


def longest_seen(config: Any) -> int:
    """Tokens beyond which some layer no longer sees all that came before, by transformers' own
    configuration of the model."""
    config = config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    limits = [UNLIMITED]
    window = getattr(config, "sliding_window", None)
    if window and (not kinds or "sliding_attention" in kinds):
        limits.append(window)
    if chunk := getattr(config, "attention_chunk_size", None):
        limits.append(chunk)
    return min(limits)


def probe_rows(vocabulary: int, step: int) -> list[Tokens]:
    """Two prompts with three answers each, two of which begin alike; prompts differ by `step`, so
    that answers are the same under another prompt."""

    def drawn(start: int, stride: int, count: int) -> tuple[int, ...]:
        return tuple((start + stride * k) % vocabulary for k in range(count))

    rows = []
    for p in range(2):
        prompt = drawn(step + p, step, 6 + p)
        begun = drawn(2 + p, 3, 3)
        rows += [Tokens(prompt, begun + drawn(7 + 4 * a, 5, 2 + a)) for a in range(2)]
        rows.append(Tokens(prompt, drawn(1, 7, 5)))
    return rows
