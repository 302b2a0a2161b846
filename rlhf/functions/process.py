"""A user's function in a process of its own, which may fail, hang or die without harm to others.

It is not locked in: it may do whatever its user may do. Arguments go there pickled; what it returns
comes back as JSON, so that an answer is numbers, texts, lists and mappings, or refused.
"""

import asyncio
import inspect
import io
import json
import logging
import os
import pickle
import queue
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any, TextIO

from rlhf.functions.source import FunctionSource, failure, load
from rlhf.problems import InputError

START_S = 120.0
"""For the file to be run; it may import large libraries."""
CANCEL_S = 5.0
"""For a call that took too long to let itself be cancelled."""
MAX_REPLY_BYTES = 16 << 20
MAX_PRINTED_CHARS = 1 << 20
_LENGTH = struct.Struct("!I")

_log = logging.getLogger(__name__)


class FunctionFailed(Exception):
    """One call gave nothing, and why, in one line."""


Adapt = Callable[[FunctionSource, Callable[..., Any]], Callable[..., Any]]
"""Makes what is called of what the file has; raises InputError if that cannot be used."""


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
        self._overlap = overlap
        self._told: set[str] = set()
        self._numbers = count()
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._listening: asyncio.Task | None = None
        self._starting = asyncio.Lock()
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
        self._socket.close()
        self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "rlhf.functions.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._socket.settimeout(START_S)
        try:
            _send(self._socket, pickle.dumps((self._source, self._adapt)))
            told = json.loads(_receive(self._socket))
        except TimeoutError:
            self.close()
            why = f"{self._source.file} is not loaded within {START_S:g} s"
            raise self._source.refused(why) from None
        except (EOFError, OSError):
            self.close()
            why = f"{self._source.file} ends its process as it is loaded"
            raise self._source.refused(f"{why}, with code {self._child.returncode}") from None
        if "problems" in told:
            self.close()
            raise InputError(told["problems"])
        self._is_async = told["is_async"]

    async def _alive(self) -> None:
        """Starts the process again if it has ended, and listens to it."""
        async with self._starting:
            if self._listening is not None and self._listening.done():
                self._listening = None
                self._socket.close()
                await asyncio.to_thread(self._start)
            if self._listening is None:
                self._socket.setblocking(False)
                self._listening = asyncio.create_task(self._listen())

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
                    self._socket, _LENGTH.pack(len(message)) + message
                )

    async def _listen(self) -> None:
        """Hands replies to who waits for them, until the process has ended."""
        reader, writer = await asyncio.open_connection(sock=self._socket.dup())
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                reply = json.loads(await reader.readexactly(length))
                future = self._waiting.get(reply["number"])
                if future is not None and not future.done():
                    future.set_result(reply)
        except (asyncio.IncompleteReadError, OSError):
            why = {"error": f"ended its process, with code {await self._ended()}"}
            for future in self._waiting.values():
                if not future.done():
                    future.set_result(why)
        finally:
            writer.close()

    async def _ended(self) -> int:
        try:
            return await asyncio.to_thread(self._child.wait, CANCEL_S)
        except subprocess.TimeoutExpired:  # it has only shut its end
            self._child.kill()
            return self._child.wait()

    async def _end_call(self, number: int) -> None:
        """A call that took too long; with its process, if nothing else helps."""
        if self._is_async:
            ended = self._ask(number, None)
            done, _ = await asyncio.wait([ended], timeout=CANCEL_S)
            if done:
                return
        self._child.kill()
        if self._listening is not None:
            await asyncio.wait([self._listening], timeout=CANCEL_S)

    def _tell(self, why: str, trace: str = "") -> None:
        """Every kind of failure once, with where it comes from."""
        if why not in self._told:
            self._told.add(why)
            _log.warning("%s=%s: %s\n%s", self._source.key, self._source.reference, why, trace)


# --- the process itself ------------------------------------------------------------------------


class Bounded(io.TextIOBase):
    """What the function prints, up to a length: it goes to logs, which are on somebody's disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = MAX_PRINTED_CHARS

    def write(self, text: str) -> int:
        if self._left > 0:
            self._stream.write(text[: self._left])
            self._left -= len(text)
            if self._left <= 0:
                self._stream.write("\n... what it prints from here on is left out\n")
            self._stream.flush()
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class Unfit(TypeError):
    """The function returned what no answer can be."""


def plain(value: Any) -> Any:
    """As JSON has it; arrays and tensors become lists. Raises Unfit for what cannot."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if callable(tolist := getattr(value, "tolist", None)):
        return plain(tolist())
    raise Unfit(
        f"returned an object of {type(value).__name__}, not numbers, texts, lists or mappings"
    )


def taking(*parameters: str) -> Adapt:
    """The function as it is, if it can be called with so many arguments, by position."""
    return partial(_taking, parameters)


def _taking(
    parameters: tuple[str, ...], source: FunctionSource, function: Callable[..., Any]
) -> Callable[..., Any]:
    if (signature := unfit(function, parameters)) is not None:
        wanted = f"({', '.join(parameters)})"
        raise source.refused(
            f"takes {signature}, and is called with {wanted}; write def {source.name}{wanted}"
        )
    return function


def unfit(function: Callable[..., Any], parameters: tuple[str, ...]) -> str | None:
    """What the function takes, if it cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C nobody knows
        return None
    try:
        signature.bind(*parameters)
    except TypeError:
        return str(signature)
    return None


def is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  an object's, which may be async
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def serve(pipe: socket.socket) -> None:
    """Loads the function, and answers calls until its parent is gone."""
    source, adapt = pickle.loads(_receive(pipe))
    sys.stdout, sys.stderr = Bounded(sys.stdout), Bounded(sys.stderr)
    try:
        function = adapt(source, load(source))
    except InputError as error:
        cause = error.__cause__
        if cause is not None:
            traceback.print_exception(cause)
        _send(pipe, json.dumps({"problems": error.problems}).encode())
        return
    _send(pipe, json.dumps({"is_async": is_async(function)}).encode())
    calls: queue.SimpleQueue[tuple[int, tuple | None]] = queue.SimpleQueue()
    if is_async(function):
        asyncio.run(_serve_async(pipe, source, function))
    else:
        threading.Thread(target=_read, args=(pipe, calls.put), daemon=True).start()
        while True:
            number, arguments = calls.get()
            assert arguments is not None
            try:
                reply = {"value": plain(function(*arguments))}
            except Exception as error:  # the stranger's; told to who asked, with its place
                reply = _failed(error, source)
            _reply(pipe, number, reply)


async def _serve_async(
    pipe: socket.socket, source: FunctionSource, function: Callable[..., Any]
) -> None:
    loop, running = asyncio.get_running_loop(), {}

    async def one(number: int, arguments: tuple) -> None:
        try:
            reply = {"value": plain(await function(*arguments))}
        except asyncio.CancelledError:
            reply = {"error": "was cancelled"}
        except Exception as error:  # as above
            reply = _failed(error, source)
        del running[number]
        _reply(pipe, number, reply)

    def take(call: tuple[int, tuple | None]) -> None:
        number, arguments = call
        if arguments is not None:
            running[number] = asyncio.ensure_future(one(number, arguments))
        elif number in running:
            running[number].cancel()
        else:
            _reply(pipe, number, {"error": "was over"})

    threading.Thread(
        target=_read, args=(pipe, lambda call: loop.call_soon_threadsafe(take, call)), daemon=True
    ).start()
    await asyncio.Event().wait()


def _failed(error: Exception, source: FunctionSource) -> dict[str, str]:
    if isinstance(error, Unfit):
        return {"error": str(error)}
    return {
        "error": failure(error, source.file),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _reply(pipe: socket.socket, number: int, reply: dict[str, Any]) -> None:
    try:
        message = json.dumps({"number": number, **reply}).encode()
    except (ValueError, RecursionError) as error:
        message = json.dumps({"number": number, "error": f"returned no answer: {error}"}).encode()
    if len(message) > MAX_REPLY_BYTES:
        why = f"returned {len(message)} bytes, and {MAX_REPLY_BYTES} are read at most"
        message = json.dumps({"number": number, "error": why}).encode()
    _send(pipe, message)


def _read(pipe: socket.socket, take: Callable[[tuple[int, tuple | None]], None]) -> None:
    """Takes what the parent sends; without a parent there is nothing left to do."""
    try:
        while True:
            take(pickle.loads(_receive(pipe)))
    except (EOFError, OSError):
        os._exit(0)


def _send(pipe: socket.socket, message: bytes) -> None:
    pipe.sendall(_LENGTH.pack(len(message)) + message)


def _receive(pipe: socket.socket) -> bytes:
    (length,) = _LENGTH.unpack(_exactly(pipe, _LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if not (part := pipe.recv(min(size - len(parts), 1 << 20))):
            raise EOFError
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
