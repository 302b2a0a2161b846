"""A round as it comes: no later than it can, and to an end however it ends."""

import asyncio
from contextlib import suppress

import pytest

from rlhf.collecting.collecting import Collecting
from rlhf.records import Collected, Prompt
from rlhf.stages import Outcome, Tell, nobody

ONES = [Collected(Prompt(id, (), (1,)), (), None, (), ()) for id in "abcd"]
# The one in the second place fails.
EARLY = [Outcome(2, ONES[1]), Outcome(0, ONES[0])]
LATE = [Outcome(4, ONES[3]), Outcome(1, None), Outcome(3, ONES[2])]


class Telling:
    """Tells of two, and ends when it is let go on and has told of the others, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.goes_on = asyncio.Event()
        self.error = error

    async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
        assert round == 7
        tell(EARLY[0])
        await asyncio.sleep(0)
        tell(EARLY[1])
        await self.goes_on.wait()
        if self.error is not None:
            raise self.error
        for one in LATE:
            tell(one)
        return ONES


async def listen(collecting: Collecting, heard: list[Outcome], collector: Telling) -> None:
    async for one in collecting:
        heard.append(one)
        if len(heard) == 2:
            assert not collecting.whole.done()
            collector.goes_on.set()


async def test_prompts_are_heard_of_as_they_are_done_and_each_once():
    collector, heard = Telling(), []
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        collecting = Collecting(tasks, collector, 7)
        await listen(collecting, heard, collector)
        assert collecting.whole.result() is ONES
        later = [one async for one in collecting]
    assert heard == [*EARLY, *LATE] and later[len(heard) :] == []


async def test_a_round_that_nobody_tells_of_is_heard_of_at_its_end():
    class Silent(Telling):
        async def collect(self, round: int, tell: Tell = nobody) -> list[Collected]:
            return ONES

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        collecting = Collecting(tasks, Silent(), 7)
        assert [one async for one in collecting] == list(enumerate(ONES))


async def test_who_listens_to_a_round_that_fails_ends_and_the_failure_is_told_once():
    collector, heard = Telling(ValueError("broken")), []
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
            collecting = Collecting(tasks, collector, 7)
            listening = tasks.create_task(listen(collecting, heard, collector))
    assert caught.value.exceptions == (collector.error,)
    assert heard == EARLY and listening.cancelled()


async def test_who_listens_to_a_round_that_is_cancelled_ends():
    collector, heard = Telling(), []
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        collecting = Collecting(tasks, collector, 7)
        listening = tasks.create_task(listen(collecting, heard, collector))
        while len(heard) < 2:
            await asyncio.sleep(0)
        collecting.whole.cancel()
        with suppress(asyncio.CancelledError):
            await listening
    assert listening.cancelled() and heard == EARLY
