"""The losses of a round's optimizer steps on one rank, and what is added up of their pairs.

Dimensions: B pairs, S the two sides, L the sides of all pairs, chosen before rejected, R distinct
rows, C completion tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from rlhf.diagnostics import TrainedPairs, names_for, pair_metrics
from rlhf.learning.reading import RowReader, Unit
from rlhf.models.batching import halved, together, unique
from rlhf.objectives import Judged, PairLogprobs, Pairs, Peers, SideLogprobs
from rlhf.objectives.base import ObjectiveConfig
from rlhf.objectives.tokens import TokenLogprobs
from rlhf.records import Columns, Tokens

Memory = Mapping[str, float]
Logprobs = Callable[[Sequence[Tokens]], Tensor]
"""Of rows, per completion token `(R, C)`; of no rows 0, computed by the whole model."""
Losses = Callable[[Logprobs, Columns], Tensor]
"""Of some pairs, each times its weight, added up: a share of their step's loss once it is divided
by the weights of all its pairs."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What holds for all pairs of one optimizer step."""

    distance: float
    memory: Memory
    is_first: bool


class PairLosses:
    """One round's, whose sums grow as the losses of its steps are computed."""

    def __init__(self, objective: ObjectiveConfig, noise: float, device: torch.device) -> None:
        """`noise`: as in `Peers`."""
        self._objective, self._noise, self._device = objective, noise, device
        self.names = names_for(objective)
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64)
        """Of every number by `names`, times the pair's weight, and of the weights."""
        self.gap = torch.zeros(1, dtype=torch.float64)
        """Largest distance in nats from the `previous` anchor, which before a round's first step is
        the policy itself: anything but 0 is an error in masks or templates."""
        self.noticed: dict[str, Tensor] = {}
        """By name, of the step at hand: the weighted sum over its pairs, and of their weights."""

    def of_step(self, memory: Memory, is_first: bool, step: Columns | None = None) -> Losses:
        """Those of a step's pairs, however they are split.

        `step`: all of its pairs, for an objective that needs whole steps.
        """
        distance = 0.0
        if self._objective.needs_whole_steps:
            assert step is not None
            distance = self._objective.statistic(step)
        self.noticed = {name: torch.zeros(2, dtype=torch.float64) for name in memory}
        return partial(self._loss, _Step(distance, memory, is_first))

    def remembered(
        self, memory: Memory, over_ranks: Callable[[Tensor], Sequence[float]]
    ) -> dict[str, float]:
        """The memory after the step at hand, alike on all ranks, over which sums are taken."""
        totals = {name: over_ranks(sums) for name, sums in self.noticed.items()}
        means = {name: total / weight for name, (total, weight) in totals.items()}
        return dict(self._objective.after_step(memory, means))

    def _loss(self, step: _Step, logprobs: Logprobs, columns: Columns) -> Tensor:
        if not len(columns):
            return logprobs([]).sum()
        given = self._given(step, logprobs, columns)
        loss_B = self._objective.loss(given)
        weight_B = self._there(columns.pairs.weight_B)
        with torch.no_grad():
            self._add(step, given, loss_B, weight_B)
        return (loss_B * weight_B).sum()

    def _given(self, step: _Step, logprobs: Logprobs, columns: Columns) -> Pairs:
        """What the loss is given of these pairs, by a forward pass over their distinct rows."""
        device, pairs = self._device, columns.pairs
        places, row_of = unique(pairs.row_BS.T.ravel().tolist())
        marked = [columns.rows[place] for place in places]
        lengths_R = torch.tensor([row.num_own_tokens for row in marked], device=device)
        lengths_L = lengths_R[row_of]
        tokens = None
        if self._objective.needs_tokens:
            sides = [marked[i] for i in row_of]
            rows, read_of = unique([row.unmarked for row in marked])
            known = {
                name: [values[places[i]] for i in row_of] for name, values in columns.tokens.items()
            }
            row_of = [read_of[i] for i in row_of]
            values_LC = logprobs(rows)[row_of]
            weight_LC = _padded([side.weights for side in sides], values_LC)
            sum_L = (values_LC * weight_LC).sum(1)
            tokens = _tokens(sides, values_LC, known)
        else:
            sum_L = logprobs(marked).sum(1)[row_of]
        policy = PairLogprobs(*sum_L.chunk(2), *lengths_L.chunk(2))
        anchors = {
            name: SideLogprobs(*self._there(values_BS.T))
            for name, values_BS in columns.anchors.items()
        }
        _, lists = unique(pairs.prompt_B.tolist())
        list_B = torch.tensor(lists, device=device)
        # Two prompts of the same tokens may have the same answer, and a side is of one list.
        _, sides = unique(list(zip(lists * 2, row_of, strict=True)))
        side_SB = torch.tensor(sides, device=device).view(2, -1)
        peers = Peers(list_B, side_SB, step.distance, self._noise)
        judged = Judged(
            self._there(pairs.win_prob_B),
            *self._there(pairs.score_BS.T),
            *self._there(pairs.mixture_BS.T),
            peers=peers,
        )
        return Pairs(policy, anchors, judged, tokens, step.memory)

    def _there(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _add(self, step: _Step, given: Pairs, loss_B: Tensor, weight_B: Tensor) -> None:
        if step.is_first and "previous" in given.anchors:
            ratios = given.log_ratios("previous")
            furthest = torch.cat([ratios.chosen_B, ratios.rejected_B]).abs().max()
            self.gap.clamp_(min=furthest.item())
        ones_B = torch.ones_like(loss_B)
        trained = TrainedPairs(self._objective, loss_B, given)
        numbers = [*pair_metrics(trained).values(), ones_B]
        # Each by itself: a matrix product rounds a row by how many others there are.
        self.sums.add_(torch.stack([(number_B * weight_B).sum() for number_B in numbers]).cpu())
        for name, number_B in self._objective.noticed(given).items():
            both = [(number_B * weight_B).sum(), weight_B.sum()]
            self.noticed[name].add_(torch.stack(both).cpu())


def units_of(columns: Columns, reader: RowReader, whole: bool, budget_tokens: int) -> list[Unit]:
    """Pairs that share a forward pass: each by itself, or all of a prompt if those are to stay
    `whole`.

    Where rows are packed, as many of a prompt as the budget allows, since they begin alike.
    """
    row_BS = columns.pairs.row_BS.tolist()

    @cache
    def unit_of(places: tuple[int, ...]) -> Unit:
        rows = dict.fromkeys(row for i in places for row in row_BS[i])
        return Unit(places, reader.shape([columns.rows[row] for row in rows]))

    def too_large(places: list[int]) -> bool:
        shape = unit_of(tuple(places)).shape
        return len(places) > 1 and shape.num_rows * shape.width > budget_tokens

    if not whole and reader.packing is None:
        return [unit_of((i,)) for i in range(len(columns))]
    parts = together(columns.pairs.prompt_B.tolist())
    if not whole:
        parts = [part for unit in parts for part in halved(unit, too_large)]
    return [unit_of(tuple(part)) for part in parts]


def _tokens(
    sides: Sequence[Tokens], values_LC: Tensor, anchors: Mapping[str, Sequence[Sequence[float]]]
) -> TokenLogprobs:
    def of_sides(values_LC: Tensor) -> Tensor:
        return values_LC.view(2, len(sides) // 2, -1)

    own_LC = _padded([side.own for side in sides], values_LC)
    others = {name: of_sides(_padded(values, values_LC)) for name, values in anchors.items()}
    return TokenLogprobs(of_sides(values_LC), others, of_sides(own_LC).bool())


def _padded(values: Sequence[Sequence[float]], like_LC: Tensor) -> Tensor:
    """As wide as the log-probabilities that they belong to, with 0 behind; `(L, C)`."""
    padded = torch.zeros(like_LC.shape, dtype=like_LC.dtype)
    for i, row in enumerate(values):
        padded[i, : len(row)] = torch.tensor(row, dtype=like_LC.dtype)
    return padded.to(like_LC.device)
