"""The same deadline for each of thousands of tasks, at little cost for each."""

import asyncio
from types import TracebackType


class TooLate(TimeoutError):
    """A deadline has passed, and not one of what was done within it; says which."""


class Deadlines:
    """What is done within it is to be done within so many seconds, or raises TooLate.

    As `asyncio.timeout`, which has a timer for each and takes a fifth of what it costs to ask a
    prompt; here tasks stand in the order in which they began, and the first alone has one.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._due: dict[asyncio.Task, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        due = self._loop.time() + self._seconds
        self._due[self._current()] = due
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._look)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task = self._current()
        in_time = self._due.pop(task, None) is not None
        if self._timer is not None and not self._due:
            self._timer.cancel()
            self._timer = None
        # Of two that cancel it, it may be for the other to say what comes of it.
        if not in_time and task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise TooLate(f"not done within {self._seconds:g} s") from error

    def _look(self) -> None:
        self._timer = None
        while self._due:
            task, due = next(iter(self._due.items()))
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self._look)
                return
            del self._due[task]
            task.cancel()

    def _current(self) -> asyncio.Task:
        task = asyncio.current_task(self._loop)
        assert task is not None
        return task
