"""A round's preferences on their way to the policy, while the rest of the round is collected.

They go in portions, each as many prompts, in their order, as fill one forward pass of every rank:
anchors are asked about a portion, and its gradient is added up, as soon as it is there. What is in
a portion follows from the prompts alone, so that nothing depends on when they came.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass

from rlhf.collecting.turns import pause
from rlhf.learning.anchors import Anchors, Read
from rlhf.models.batching import Shape
from rlhf.records import Collected, PreferenceBatch
from rlhf.stages import Outcome, Policy


@dataclass(frozen=True, slots=True)
class Portions:
    """Of what the policy learns from, with what its objective compares it with."""

    anchors: Anchors
    policy: Policy
    portion_tokens: int
    """Of all ranks' forward passes."""
    packs: bool = True
    """Each token that completions share counts once."""

    async def prepare(self, round: int, outcomes: AsyncIterable[Outcome]) -> PreferenceBatch:
        """The last of a round's preferences, whose prompts may be done in any order; those before
        it the policy has then."""
        portion: list[Read] = []
        whole, before = Shape(0, 0, 0), None
        async with asyncio.TaskGroup() as tasks:
            async for one, own in self._in_order(outcomes):
                wider = whole.beside(own)
                if whole.num_rows and wider.num_rows * wider.width > self.portion_tokens:
                    handed = self._hand_on(tasks, round, portion, before)
                    before = tasks.create_task(handed)
                    portion, wider = [], own
                portion.append(one)
                whole = wider
            last = tasks.create_task(self.anchors.attach(round, portion))
        return last.result()

    async def _in_order(
        self, outcomes: AsyncIterable[Outcome]
    ) -> AsyncIterator[tuple[Read, Shape]]:
        """Each that came to something, as soon as it and all before it are there; read and measured
        when it comes, so that little is left to do once the last is there."""
        come: dict[int, tuple[Read, Shape] | None] = {}
        turn = 0
        async for place, one in outcomes:
            come[place] = one and (self.anchors.read(one), self._shape(one))
            while turn in come:
                if (found := come.pop(turn)) is not None:
                    yield found
                turn += 1
                await pause(turn)

    async def _hand_on(
        self,
        tasks: asyncio.TaskGroup,
        round: int,
        portion: Sequence[Read],
        before: asyncio.Task[None] | None,
    ) -> None:
        """After the one before, which need not be done with: the policy takes them in order."""
        batch = await self.anchors.attach(round, portion)
        if before is not None:
            await before
        tasks.create_task(self.policy.accumulate(batch))

    def _shape(self, one: Collected) -> Shape:
        """About what a prompt's pairs come to in a forward pass; nothing without pairs."""
        sides = {
            (side.prompt.token_ids, id(side.completion)): side
            for pair in one.preferences
            for side in pair.sides
        }
        if not sides:
            return Shape(0, 0, 0)
        completions = [len(side.completion.token_ids) for side in sides.values()]
        prompts = {side.prompt.token_ids for side in sides.values()}
        if self.packs:
            return Shape(0, sum(map(len, prompts)) + sum(completions))
        return Shape(max(map(len, prompts)), max(completions), len(sides))
