"""A round that is being collected, and what is done of it so far."""

import asyncio
from collections.abc import AsyncIterator

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
