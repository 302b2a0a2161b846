"""Much work in small portions, so that the event loop is free for others in between."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

PORTION = 128
"""Coroutines that are begun, or woken, before the event loop turns to others."""

Result = TypeVar("Result")


class Turns:
    """Lets so many callers through in one turn of the event loop, and the rest in later ones."""

    def __init__(self, portion: int = PORTION) -> None:
        self._portion = portion
        self._left = portion

    async def next(self) -> None:
        """Returns at once, unless many have been let through in this turn."""
        while self._left == 0:
            await asyncio.sleep(0)
        if self._left == self._portion:
            asyncio.get_running_loop().call_soon(self._renew)
        self._left -= 1

    def _renew(self) -> None:
        self._left = self._portion


async def pause(num_done: int) -> None:
    """In a loop over many things, of which so many are done: others have their turn after each
    portion."""
    if num_done % PORTION == 0:
        await asyncio.sleep(0)


async def begun(
    group: asyncio.TaskGroup, work: Iterable[Coroutine[Any, Any, Result]]
) -> list[asyncio.Task[Result]]:
    """A task of the group for each, in order; they begin a portion at a time."""
    tasks: list[asyncio.Task[Result]] = []
    await _begin(group.create_task, work, tasks)
    return tasks


async def all_of(work: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """As `asyncio.gather`, but they begin a portion at a time."""
    tasks: list[asyncio.Task[Result]] = []
    try:
        await _begin(asyncio.create_task, work, tasks)
        return await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        raise


async def let_go(items: list) -> None:
    """Empties a list, of whose items nobody else knows, a portion at a time; then looks for
    garbage, while there is little to look through."""
    while items:
        del items[-PORTION:]
        await asyncio.sleep(0)
    gc.collect()


async def _begin(create: Callable, work: Iterable[Coroutine], tasks: list[asyncio.Task]) -> None:
    for one in work:
        tasks.append(create(one))
        await pause(len(tasks))
