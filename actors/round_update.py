"""One round's update on one rank, begun before all of the round's preferences are there.

A round's first optimizer step has its first pairs, in their order. Its gradient is a sum over them,
which is divided by their weights as the step is taken, so it is added up portion by portion as
these come. What shares a micro-batch follows from the portions alone, and never from when they
came.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlhf.config.models import LOGPROB_NOISE
from rlhf.learning.pair_losses import Losses, PairLosses, units_of
from rlhf.learning.reading import RowReader
from rlhf.learning.schedules import learning_rate, step_progress
from rlhf.models.batching import optimizer_steps, rank_micro_batches, surely_first
from rlhf.records import Columns, Tokens
from rlhf.seeds import derive_seed
from rlhf.stages import Metrics


class MicroBatch(NamedTuple):
    """What one forward pass is over."""

    reader: RowReader
    columns: Columns


class RoundUpdate:
    """Of all ranks, each has the same portions, and meets the others at each micro-batch."""

    def __init__(
        self,
        plan: Any,
        round: int,
        engine: Any,
        reader: RowReader,
        rank: tuple[int, int],
        memory: Mapping[str, float],
    ) -> None:
        """`plan`: a `PolicyPlan`; `rank`: which of how many; `memory`: the objective's."""
        self._plan, self._round, self._engine, self._reader = plan, round, engine, reader
        self._rank, self._num_ranks = rank
        self.memory = dict(memory)
        """The objective's, of the steps so far."""
        self.random_state = random_state()
        """As it was before any of this."""
        self._portions: list[Columns] = []
        self._ends = [0]
        """Pairs after so many portions."""
        self._num_begun = 0
        """Portions whose gradient is added up already."""
        self._losses = PairLosses(plan.objective, LOGPROB_NOISE[plan.dtype], engine.device)
        whole = plan.objective.needs_whole_steps
        self._first = None if whole else self._losses.of_step(self.memory, True)
        """Losses of the first step's pairs, if they can be had before all are there."""

    def add(self, portion: Columns) -> None:
        """A portion that is not the last; adds up what is in the first step for certain."""
        self._take(portion)
        if self._first is None:
            return
        certain = surely_first(self._ends[-1], self._plan.policy.batch_size)
        begun = self._num_begun
        for one, end in zip(self._portions[begun:], self._ends[begun + 1 :], strict=True):
            if end > certain:
                break
            self._engine.accumulate(self._micro_batches(one), _loss_of(self._first))
            self._num_begun += 1

    def finish(self, portion: Columns, told: Callable[[bool], None]) -> Metrics:
        """With the last portion; metrics are weighted means over pairs and steps. `told` hears of
        each step whether it was applied."""
        self._take(portion)
        plan, round = self._plan, self._round
        seed = derive_seed(plan.seed, "order", round)
        columns = Columns.joined(self._portions)
        prompts = columns.pairs.prompt_B.tolist()
        epochs = plan.epochs if round else plan.first_epochs
        whole = plan.objective.needs_whole_lists
        steps = optimizer_steps(prompts, plan.policy.batch_size, epochs, seed, whole, in_order=True)
        norms, skipped, rate = [], 0, 0.0
        for k, places in enumerate(steps):
            done = step_progress(plan.policy, round, plan.num_rounds, k, len(steps))
            rate = learning_rate(plan.policy, done)
            result = self._step(columns.at(places), rate, is_first=k == 0)
            skipped += not result.applied
            norms += [result.grad_norm] if result.applied else []
            told(result.applied)
            if result.applied and self.memory:
                self.memory = self._losses.remembered(self.memory, self._over_ranks)
        if not steps:
            return {"policy/num_steps": 0.0}
        counts = {"policy/num_steps": float(len(steps)), "policy/skipped_steps": float(skipped)}
        return self._means(norms) | counts | {"policy/lr": rate}

    def _take(self, portion: Columns) -> None:
        self._portions.append(portion)
        self._ends.append(self._ends[-1] + len(portion))

    def _step(self, step: Columns, rate: float, is_first: bool) -> Any:
        if is_first and self._first is not None:
            losses, micro_batches = self._first, self._rest_of_first(step)
        else:
            losses = self._losses.of_step(self.memory, is_first, step)
            micro_batches = self._micro_batches(step)
        weight = sum(step.pairs.weight_B.tolist())
        # Nothing may be left of a first step, and a step ends with a backward pass of all ranks.
        micro_batches = micro_batches or [MicroBatch(self._reader, step.at([]))]
        return self._engine.step(micro_batches, _loss_of(losses), rate, weight)

    def _rest_of_first(self, step: Columns) -> list[MicroBatch]:
        """Of its pairs, which are the round's first, those that are not begun, by portions."""
        ends = [min(end, len(step)) for end in self._ends[self._num_begun :]]
        parts = (range(start, end) for start, end in pairwise(ends) if start < end)
        return [one for part in parts for one in self._micro_batches(step.at(part))]

    def _micro_batches(self, columns: Columns) -> list[MicroBatch]:
        """This rank's, as many as any rank's."""
        reader = self._reader.fitting(columns.read)
        plan = self._plan
        whole, budget = plan.objective.needs_whole_lists, plan.policy.micro_batch_tokens
        units = units_of(columns, reader, whole, budget)
        ranks = rank_micro_batches([unit.shape for unit in units], budget, self._num_ranks)
        return [
            MicroBatch(reader, columns.at([i for unit in batch for i in units[unit].places]))
            for batch in ranks[self._rank]
        ]

    def _means(self, norms: Sequence[float]) -> Metrics:
        *values, weight = self._over_ranks(self._losses.sums)
        names = self._losses.names
        means = {
            f"policy/{name}": value / weight for name, value in zip(names, values, strict=True)
        }
        if norms:
            means["policy/grad_norm"] = sum(norms) / len(norms)
        if "previous" in self._portions[0].anchors:
            (gap,) = self._over_ranks(self._losses.gap, torch.distributed.ReduceOp.MAX)
            means["policy/anchor_gap"] = gap
        return means

    def _over_ranks(self, values: Tensor, how: Any = torch.distributed.ReduceOp.SUM) -> list[float]:
        return over_ranks(values, self._engine.device, how)


def _loss_of(losses: Losses) -> Callable[[MicroBatch], Tensor]:
    def loss(micro_batch: MicroBatch) -> Tensor:
        reader, columns = micro_batch
        return losses(partial(logprobs_RC, reader), columns)

    return loss


def over_ranks(
    values: Tensor, device: torch.device, how: Any = torch.distributed.ReduceOp.SUM
) -> list[float]:
    """The sums of all ranks' values, or what else is to be made of them; the same on every rank."""
    values = values.to(device)
    torch.distributed.all_reduce(values, how)
    return values.tolist()


def logprobs_RC(reader: RowReader, rows: Sequence[Tokens]) -> Tensor:
    """Zero, but computed by all the model's layers, for a rank that has no rows."""
    if not rows:
        return reader.logprobs_RC([Tokens((0,), (0,))]) * 0.0
    return reader.logprobs_RC(rows)


def random_state() -> dict[str, Tensor]:
    """torch's, by device."""
    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
