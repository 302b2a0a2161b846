"""A user's function in a process of its own, which may fail, hang or die without harm to others.

It is not locked in: it may do whatever its user may do. Arguments go there pickled; what it returns
comes back as JSON, so that an answer is numbers, texts, lists and mappings, or refused.
"""

import asyncio
import json
import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from itertools import count
from typing import Any

from rlhf.functions.served import LENGTH, receive, send
from rlhf.functions.source import Adapt, FunctionSource
from rlhf.problems import InputError

START_S = 120.0
"""For the file to be run; it may import large libraries."""
CANCEL_S = 5.0
"""For a call that took too long to let itself be cancelled."""
WATCH_S = 0.5
"""Between two looks whether the process is still there."""
MOST_TOLD = 20
"""Kinds of failures that are written to the log."""

_log = logging.getLogger(__name__)


class FunctionFailed(Exception):
    """One call gave nothing, and why, in one line."""


class FunctionProcess:
    """Calls one function; `async` ones overlap, others wait for each other."""

    def __init__(
        self, source: FunctionSource, adapt: Adapt, timeout_s: float, overlap: int
    ) -> None:
        """`adapt`, in the process itself: such as `taking` what the function is called with;
        `overlap`: calls at a time, of an async function.

        Raises InputError if the function cannot be used.
        """
        self._source = source
        self._adapt = adapt
        self._timeout_s = timeout_s
        self._told: set[str] = set()
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listening: asyncio.Task | None = None
        """As long as the process is up and asked."""
        self._is_up = False
        self._starting: asyncio.Task | None = None
        self._sending = asyncio.Lock()
        self._start()
        self._gate = asyncio.Semaphore(overlap if self._is_async else 1)

    async def call(self, *arguments: Any) -> Any:
        """What the function returns, as JSON has it; raises FunctionFailed where it does not."""
        async with self._gate:
            await self._alive()
            number = next(self._numbers)
            future = self._ask(number, arguments)
            try:
                async with asyncio.timeout(self._timeout_s):
                    reply = await future
            except TimeoutError:
                await self._end_call(number)
                self._tell(why := f"is not done within {self._timeout_s:g} s")
                raise FunctionFailed(why) from None
            except asyncio.CancelledError:
                await self._end_call(number)
                raise
            finally:
                self._waiting.pop(number, None)
        if "error" in reply:
            self._tell(reply["error"], reply.get("traceback", ""))
            raise FunctionFailed(reply["error"])
        return reply["value"]

    def close(self) -> None:
        """Ends the process."""
        if self._listening is not None:
            self._listening.cancel()
            self._listening = None
        self._end()

    def _end(self) -> None:
        """With what it has started."""
        self._is_up = False
        self._socket.close()
        self.kill()
        self._child.wait()

    def kill(self) -> None:
        """Ends it and what it has started, from any thread; what is asked later starts it again.
        Once, since its number may be somebody else's by then."""
        if not self._is_killed:
            self._is_killed = True
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rlhf.functions.served", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._is_killed = False
        self._socket.settimeout(START_S)
        try:
            send(self._socket, pickle.dumps((self._source, self._adapt)))
            told = json.loads(receive(self._socket))
        except TimeoutError:
            self._end()
            why = f"{self._source.file} is not loaded within {START_S:g} s"
            raise self._source.refused(why) from None
        except (EOFError, OSError):
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(CANCEL_S)
            self._end()
            why = f"{self._source.file} ends its process as it is loaded"
            raise self._source.refused(f"{why}, with code {self._child.returncode}") from None
        if "problems" in told:
            self._end()
            raise InputError(told["problems"])
        self._is_async, self._is_up = told["is_async"], True

    async def _alive(self) -> None:
        """Starts the process again if it has ended, and listens to it.

        Raises FunctionFailed where it cannot be started any more.
        """
        is_heard = self._listening is not None and not self._listening.done()
        if is_heard and not self._is_killed:
            return
        if self._starting is None:
            self._starting = asyncio.create_task(self._bring_up())
        # Who started it may be cancelled; others wait for it too.
        if why := await asyncio.shield(self._starting):
            self._tell(why)
            raise FunctionFailed(why)

    async def _bring_up(self) -> str | None:
        """What is wrong, if anything is."""
        try:
            if self._listening is not None:
                # On a busy machine who was killed takes a while to end.
                await asyncio.wait([self._listening], timeout=START_S)
                self._listening.cancel()
                self._listening = None
                await asyncio.to_thread(self._end)
            if not self._is_up:
                await asyncio.to_thread(self._start)
        except InputError as error:
            return f"cannot be started again: {error.problems[0]}"
        finally:
            self._starting = None
        self._socket.setblocking(False)
        self._listening = asyncio.create_task(self._listen())
        return None

    def _ask(self, number: int, arguments: tuple | None) -> asyncio.Future[dict[str, Any]]:
        """Where the reply will be; without arguments, asks for an end of the call."""
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        sending = asyncio.create_task(self._send(pickle.dumps((number, arguments))))
        future.add_done_callback(lambda _: sending.cancel())
        return future

    async def _send(self, message: bytes) -> None:
        async with self._sending:
            # A process that has ended is noticed by who listens to it.
            with suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(
                    self._socket, LENGTH.pack(len(message)) + message
                )

    async def _listen(self) -> None:
        """Hands replies to who waits for them, until the process has ended."""
        reader, writer = await asyncio.open_connection(sock=self._socket.dup())
        reading = asyncio.create_task(self._read(reader))
        try:
            # What it has started may hold its end open for longer than it lives itself.
            while not reading.done() and self._child.poll() is None:
                await asyncio.wait([reading], timeout=WATCH_S)
            await asyncio.wait([reading], timeout=WATCH_S)  # what it said last
            why = {"error": f"ended its process, with code {await self._ended()}"}
            self.kill()
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(why)
        finally:
            reading.cancel()
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                (length,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                reply = json.loads(await reader.readexactly(length))
                future = self._waiting.get(reply["number"])
                if future is not None and not future.done():
                    future.set_result(reply)

    async def _ended(self) -> int:
        try:
            return await asyncio.to_thread(self._child.wait, CANCEL_S)
        except subprocess.TimeoutExpired:  # it has only shut its end
            self.kill()
            return self._child.wait()

    async def _end_call(self, number: int) -> None:
        """A call that took too long; with its process, if nothing else helps."""
        if self._is_async and self._is_up:  # or nobody would answer
            ended = self._ask(number, None)
            done, _ = await asyncio.wait([ended], timeout=CANCEL_S)
            if done:
                return
        self.kill()
        if self._listening is not None:
            await asyncio.wait([self._listening], timeout=CANCEL_S)

    def _tell(self, why: str, trace: str = "") -> None:
        """Every kind of failure once, with where it comes from; at most so many."""
        if why not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(why)
            _log.warning("%s=%s: %s\n%s", self._source.key, self._source.reference, why, trace)
