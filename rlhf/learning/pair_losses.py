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
from rlhf.records import Preference, PreferenceBatch, SideTokens, Tokens, rows_of

Memory = Mapping[str, float]
Logprobs = Callable[[Sequence[Tokens]], Tensor]
"""Of rows, per completion token `(R, C)`; of no rows 0, computed by the whole model."""


@dataclass(frozen=True, slots=True)
class _Step:
    """What holds for all pairs of one optimizer step."""

    distance: float
    memory: Memory
    is_first: bool


class PairLosses:
    """One round's, whose sums grow as the losses of its steps are computed."""

    def __init__(
        self,
        objective: ObjectiveConfig,
        batch: PreferenceBatch,
        noise: float,
        device: torch.device,
    ) -> None:
        """`noise`: as in `Peers`."""
        self._objective, self._batch = objective, batch
        self._noise, self._device = noise, device
        self.names = names_for(objective)
        self.sums = torch.zeros(len(self.names) + 1, dtype=torch.float64)
        """Of every number by `names`, times the pair's weight, and of the weights."""
        self.gap = torch.zeros(1, dtype=torch.float64)
        """Largest distance in nats from the `previous` anchor, which before a round's first step is
        the policy itself: anything but 0 is an error in masks or templates."""
        self.noticed: dict[str, Tensor] = {}
        """By name, of the step at hand: the weighted sum over its pairs, and of their weights."""

    def of_step(
        self, memory: Memory, is_first: bool, whole: Sequence[int] = ()
    ) -> Callable[[Logprobs, Sequence[int]], Tensor]:
        """The losses of a step's pairs by their places in the batch, each times its weight, added
        up: a share of the step's loss once it is divided by all their weights.

        `whole`: all of the step's places, where the objective needs whole steps.
        """
        distance = 0.0
        if self._objective.needs_whole_steps:
            pairs = [self._batch.preferences[i] for i in whole]
            anchors = {name: [all[i] for i in whole] for name, all in self._batch.anchors.items()}
            distance = self._objective.statistic(pairs, anchors)
        self.noticed = {name: torch.zeros(2, dtype=torch.float64) for name in memory}
        return partial(self._loss, _Step(distance, memory, is_first))

    def remembered(
        self, memory: Memory, over_ranks: Callable[[Tensor], Sequence[float]]
    ) -> dict[str, float]:
        """The memory after the step at hand, alike on all ranks, over which sums are taken."""
        totals = {name: over_ranks(sums) for name, sums in self.noticed.items()}
        means = {name: total / weight for name, (total, weight) in totals.items()}
        return dict(self._objective.after_step(memory, means))

    def _loss(self, step: _Step, logprobs: Logprobs, places: Sequence[int]) -> Tensor:
        pairs = [self._batch.preferences[i] for i in places]
        if not pairs:
            return logprobs([]).sum()
        given = self._given(step, logprobs, places, pairs)
        loss_B = self._objective.loss(given)
        weight_B = torch.tensor([pair.weight for pair in pairs], device=self._device)
        with torch.no_grad():
            self._add(step, given, loss_B, weight_B)
        return (loss_B * weight_B).sum()

    def _given(
        self, step: _Step, logprobs: Logprobs, places: Sequence[int], pairs: Sequence[Preference]
    ) -> Pairs:
        """What the loss is given of these pairs, by a forward pass over their distinct rows."""
        device, objective = self._device, self._objective
        marked, row_of = rows_of(
            [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        )
        lengths_R = torch.tensor([row.num_own_tokens for row in marked], device=device)
        lengths_L = lengths_R[row_of]
        tokens = None
        if objective.needs_tokens:
            sides = [marked[i] for i in row_of]
            rows, row_of = unique([side.unmarked for side in sides])
            values_LC = logprobs(rows)[row_of]
            weight_LC = _padded([side.weights for side in sides], values_LC)
            sum_L = (values_LC * weight_LC).sum(1)
            tokens = self._tokens(places, sides, values_LC)
        else:
            sum_L = logprobs(marked).sum(1)[row_of]
        policy = PairLogprobs(*sum_L.chunk(2), *lengths_L.chunk(2))
        anchors = {
            name: SideLogprobs(*torch.tensor([all[i] for i in places], device=device).T)
            for name, all in self._batch.anchors.items()
        }
        _, lists = unique([pair.prompt.id for pair in pairs])
        list_B = torch.tensor(lists, device=device)
        side_SB = torch.tensor(row_of, device=device).view(2, -1)
        peers = Peers(list_B, side_SB, step.distance, self._noise)
        return Pairs(policy, anchors, _judged(pairs, peers, device), tokens, step.memory)

    def _tokens(
        self, places: Sequence[int], sides: Sequence[Tokens], values_LC: Tensor
    ) -> TokenLogprobs:
        def of_sides(values_LC: Tensor) -> Tensor:
            return values_LC.view(2, len(places), -1)

        def of_anchor(all: Sequence[SideTokens]) -> Tensor:
            chosen, rejected = zip(*(all[i] for i in places), strict=True)
            return of_sides(_padded([*chosen, *rejected], values_LC))

        own_LC = _padded([side.own for side in sides], values_LC)
        anchors = {name: of_anchor(all) for name, all in self._batch.tokens.items()}
        return TokenLogprobs(of_sides(values_LC), anchors, of_sides(own_LC).bool())

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


def sides_of(pairs: Sequence[Preference]) -> list[Tokens]:
    """The distinct rows of some pairs."""
    return rows_of([side for pair in pairs for side in pair.sides])[0]


def units_of(
    pairs: Sequence[Preference], reader: RowReader, whole: bool, budget_tokens: int
) -> list[Unit]:
    """Pairs that share a forward pass: each by itself, or all of a prompt if those are to stay
    `whole`.

    Where rows are packed, as many of a prompt as the budget allows, since they begin alike.
    """

    @cache
    def unit_of(places: tuple[int, ...]) -> Unit:
        return Unit(places, reader.shape(sides_of([pairs[i] for i in places])))

    def too_large(places: list[int]) -> bool:
        shape = unit_of(tuple(places)).shape
        return len(places) > 1 and shape.num_rows * shape.width > budget_tokens

    if not whole and reader.packing is None:
        return [unit_of((i,)) for i in range(len(pairs))]
    parts = together([pair.prompt.id for pair in pairs])
    if not whole:
        parts = [part for unit in parts for part in halved(unit, too_large)]
    return [unit_of(tuple(part)) for part in parts]


def _padded(values: Sequence[Sequence[float]], like_LC: Tensor) -> Tensor:
    """As wide as the log-probabilities that they belong to, with 0 behind; `(L, C)`."""
    padded = torch.zeros(like_LC.shape, dtype=like_LC.dtype)
    for i, row in enumerate(values):
        padded[i, : len(row)] = torch.tensor(row, dtype=like_LC.dtype)
    return padded.to(like_LC.device)


def _judged(pairs: Sequence[Preference], peers: Peers, device: torch.device) -> Judged:
    columns: Any = zip(
        *(
            (
                pair.win_prob,
                pair.chosen.score,
                pair.rejected.score,
                pair.chosen.completion.mixture,
                pair.rejected.completion.mixture,
            )
            for pair in pairs
        ),
        strict=True,
    )
    return Judged(*(torch.tensor(column, device=device) for column in columns), peers=peers)
