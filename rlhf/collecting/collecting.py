"""Rounds that are being collected, and what is done of them so far."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import partial

from rlhf.collecting.turns import pause
from rlhf.stages import Collector, Outcome


class Collecting:
    """One round; as an iterator, what came of each of its prompts as soon as that is done."""

    def __init__(self, tasks: asyncio.TaskGroup, collector: Collector, round: int) -> None:
        self._done: deque[Outcome] = deque()
        self._more = asyncio.Event()
        self.whole = tasks.create_task(collector.collect(round, self._tell))
        """All of the round."""
        self.whole.add_done_callback(lambda _: self._more.set())

    def _tell(self, outcome: Outcome) -> None:
        self._done.append(outcome)
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Outcome]:
        """Ends as if cancelled where the round comes to nothing: `whole` says why."""
        num_told = 0
        while self._done or not self.whole.done():
            while self._done:
                num_told += 1
                yield self._done.popleft()
                await pause(num_told)
            self._more.clear()
            if not self.whole.done():
                await self._more.wait()
        if self.whole.cancelled() or self.whole.exception():
            raise asyncio.CancelledError
        if not num_told:  # who hears of nothing before has it all at once
            for place, one in enumerate(self.whole.result()):
                yield Outcome(place, one)
                await pause(place)


class Ahead:
    """A run's rounds, of which so many are collected ahead of the one that is learnt from."""

    def __init__(
        self, tasks: asyncio.TaskGroup, collector: Collector, rounds: range, num_ahead: int
    ) -> None:
        self._begin = partial(Collecting, tasks, collector)
        self._left, self._num_ahead = deque(rounds), num_ahead
        self._begun: deque[Collecting] = deque()

    def next(self) -> Collecting:
        """The first round that was not had yet; it is being collected, and those after it."""
        while self._left and len(self._begun) <= self._num_ahead:
            self._begun.append(self._begin(self._left.popleft()))
        return self._begun.popleft()

    def cancel(self) -> None:
        """Gives up what is collected beyond that."""
        for one in self._begun:
            one.whole.cancel()
