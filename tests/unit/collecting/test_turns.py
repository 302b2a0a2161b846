"""Much work in portions: everyone has a turn, in order, and the event loop in between."""

import asyncio

import pytest

from rlhf.collecting.turns import PORTION, Turns, all_of, begun, let_go

NUM = 3 * PORTION + 7


class Ticks:
    """How often the event loop came round."""

    def __init__(self) -> None:
        self.count = 0
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.count += 1


async def test_no_more_begin_in_one_turn_than_a_portion():
    ticks, begins = Ticks(), []

    async def one(i):
        begins.append((ticks.count, i))
        return i

    assert await all_of(map(one, range(NUM))) == list(range(NUM))
    async with asyncio.TaskGroup() as group:
        tasks = await begun(group, map(one, range(NUM)))
    assert [task.result() for task in tasks] == list(range(NUM))
    assert [i for _, i in begins] == 2 * list(range(NUM))
    turns = [turn for turn, _ in begins]
    assert max(map(turns.count, turns)) == PORTION


async def test_the_first_failure_is_raised_as_it_is():
    async def one(i):
        if i == 5:
            raise ValueError("the fifth")

    with pytest.raises(ValueError, match="the fifth"):
        await all_of(map(one, range(NUM)))


async def test_who_is_cancelled_cancels_what_has_begun():
    cancelled = []

    async def one(i):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(i)
            raise

    asking = asyncio.create_task(all_of(map(one, range(NUM))))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.wait([asking])
    await asyncio.sleep(0)
    assert sorted(cancelled) == list(range(NUM))


async def test_many_callers_are_let_through_a_portion_at_a_time_in_order():
    turns, passed = Turns(3), []
    ticks = Ticks()

    async def caller(name):
        for _ in range(4):
            await turns.next()
            passed.append((ticks.count, name))

    await asyncio.gather(*map(caller, "abc"))
    assert sorted(name for _, name in passed) == sorted("abc" * 4)
    counts = [turn for turn, _ in passed]
    assert max(map(counts.count, counts)) == 3


async def test_a_list_is_let_go_of_in_portions():
    ticks, items = Ticks(), list(range(NUM))
    await let_go(items)
    assert items == [] and ticks.count >= NUM // PORTION
