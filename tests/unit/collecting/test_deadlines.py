"""Deadlines of many tasks: each has its own, as `asyncio.timeout` would give it."""

import asyncio

import pytest

from rlhf.collecting.deadlines import Deadlines


async def waits(deadlines: Deadlines, begins_s: float) -> float:
    """Begins after so long, and waits for what never comes; returns how long."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(begins_s)
    began = loop.time()
    with pytest.raises(TimeoutError), deadlines:
        await asyncio.Event().wait()
    await asyncio.sleep(0)  # it goes on as if nothing had been
    return loop.time() - began


async def is_quick(deadlines: Deadlines, begins_s: float) -> None:
    await asyncio.sleep(begins_s)
    with deadlines:
        pass


async def test_each_has_as_long_from_where_it_began():
    deadlines = Deadlines(0.1)
    work = [waits(deadlines, 0), is_quick(deadlines, 0), waits(deadlines, 0.05)]
    work += [is_quick(deadlines, 0.05), waits(deadlines, 0.15), waits(deadlines, 0.15)]
    async with asyncio.timeout(60):
        took = await asyncio.gather(*work)
    assert all(one >= 0.099 for one in took if one is not None)
    assert not deadlines._due and deadlines._timer is None


async def test_who_is_cancelled_by_others_is_cancelled():
    task = asyncio.create_task(waits(Deadlines(60), 0))
    for _ in range(3):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_where_both_come_in_one_turn_the_others_have_the_last_word():
    deadlines = Deadlines(60)
    task = asyncio.create_task(waits(deadlines, 0))
    for _ in range(3):
        await asyncio.sleep(0)
    deadlines._due[task] = 0.0  # however busy the machine is, it ends in this turn and not before
    deadlines._look()
    task.cancel()
    assert task.cancelling() == 2
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_is_told_as_it_is_and_nobody_is_held_when_all_are_done():
    deadlines = Deadlines(60)
    with pytest.raises(ValueError, match="broken"), deadlines:
        raise ValueError("broken")
    assert not deadlines._due and deadlines._timer is None
