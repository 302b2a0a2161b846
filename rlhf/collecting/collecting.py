"""Rounds that are being collected, and what is done of them so far."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from functools import partial

from rlhf.collecting.turns import pause
from rlhf.records import Collected
from rlhf.stages import Collector


class Collecting:
    """One round; as an iterator, its prompts in order, each as soon as all before it are done."""

    def __init__(self, tasks: asyncio.TaskGroup, collector: Collector, round: int) -> None:
        self._done: list[Collected] = []
        self._more = asyncio.Event()
        self.whole = tasks.create_task(collector.collect(round, self._tell))
        """All of the round."""
        self.whole.add_done_callback(lambda _: self._more.set())

    def _tell(self, one: Collected) -> None:
        self._done.append(one)
        self._more.set()

    async def __aiter__(self) -> AsyncIterator[Collected]:
        """Ends as if cancelled where the round comes to nothing: `whole` says why."""
        told = 0
        while not self.whole.done():
            self._more.clear()
            for one in self._done[told:]:
                told += 1
                yield one
                await pause(told)
            await self._more.wait()
        if self.whole.cancelled() or self.whole.exception():
            raise asyncio.CancelledError
        for one in self.whole.result()[told:]:
            told += 1
            yield one
            await pause(told)


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
