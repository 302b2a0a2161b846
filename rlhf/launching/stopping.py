"""A run that is asked to stop ends at a boundary: by SIGTERM, as `ray job stop` and Slurm send it,
by Ctrl-C, or because its terminal is gone."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rlhf.problems import RunFailed, Stopped

Result = TypeVar("Result")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """`rlhf.stages.Stop`: remembers that it came, and wakes who waits for something else."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._asked = asyncio.Event()
        self._tell = tell
        self._cause: RunFailed | None = None
        """What is the matter, if nobody has asked, and the run has to be interrupted."""

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it, those signals are a request to stop rather than the end, but for those that
        whoever started this process has it ignore, as `nohup` does.

        Entered after Ray has been started or joined, which takes SIGTERM for itself.
        """
        loop = asyncio.get_running_loop()
        before = {one: signal.getsignal(one) for one in SIGNALS}
        before = {one: how for one, how in before.items() if how is not signal.SIG_IGN}
        for one in before:
            loop.add_signal_handler(one, self.ask)
        try:
            yield
        finally:
            for one, handler in before.items():
                loop.remove_signal_handler(one)
                signal.signal(one, handler or signal.SIG_DFL)
            if self._asked.is_set():  # whoever asked may be gone, and has nothing to be told
                signal.signal(signal.SIGHUP, lambda *_: None)

    def ask(self) -> None:
        """Asks once more, if it has been asked already, to no effect."""
        if self._cause is not None or not self._asked.is_set():
            self._cause = None
            self._tell("asked to stop: the run ends at the next boundary, with a checkpoint")
        self._asked.set()

    def interrupt(self, cause: RunFailed) -> None:
        """The run is to end at the next boundary too, with a checkpoint, unless it is ending."""
        if not self._asked.is_set():
            self._cause = cause
            self._asked.set()

    def interrupted(self) -> RunFailed | None:
        """Of a run that has ended: why, if nobody has asked for it; it may be gone on with."""
        cause, self._cause = self._cause, None
        if cause is not None:
            self._asked.clear()
        return cause

    async def comes_before(self, task: asyncio.Future) -> bool:
        """Waits for either; a request that has come already comes before anything."""
        if self._asked.is_set():
            return True
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((asked, task), return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        return self._asked.is_set()

    async def unless_asked(self, work: Awaitable[Result]) -> Result:
        """The work's result; raises Stopped, and cancels the work, if the request comes first."""
        task = asyncio.ensure_future(work)
        try:
            if await self.comes_before(task):
                raise Stopped("before its first round")
            return await task
        finally:
            task.cancel()
