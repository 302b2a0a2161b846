"""The process of a user's function, as `rlhf.functions.process` starts it: it answers calls."""

import asyncio
import io
import json
import os
import pickle
import queue
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from rlhf.functions.source import FunctionSource, failure, is_async, load
from rlhf.problems import InputError

MAX_REPLY_BYTES = 16 << 20
MAX_PRINTED_CHARS = 1 << 20
LENGTH = struct.Struct("!I")
"""Stands before every message, either way."""


class Bounded(io.TextIOBase):
    """What the function prints, up to a length: it goes to logs, which are on somebody's disk."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._left = MAX_PRINTED_CHARS

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    @property
    def errors(self) -> str | None:
        return self._stream.errors

    def fileno(self) -> int:
        return self._stream.fileno()

    def __getattr__(self, name: str) -> Any:
        """`buffer` and `reconfigure`, which some libraries look for."""
        return getattr(self._stream, name)

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
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int | float):
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


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Unfit("returned a text with half a surrogate pair, which is no character") from None
    return value


def serve(pipe: socket.socket) -> None:
    """Loads the function, and answers calls until its parent is gone."""
    source, adapt = pickle.loads(receive(pipe))
    sys.stdout, sys.stderr = Bounded(sys.stdout), Bounded(sys.stderr)
    try:
        function = adapt(source, load(source))
    except InputError as error:
        cause = error.__cause__
        if cause is not None:
            traceback.print_exception(cause)
        send(pipe, json.dumps({"problems": error.problems}).encode())
        return
    send(pipe, json.dumps({"is_async": is_async(function)}).encode())
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
    send(pipe, message)


def _read(pipe: socket.socket, take: Callable[[tuple[int, tuple | None]], None]) -> None:
    """Takes what the parent sends; without a parent there is nothing left to do."""
    try:
        while True:
            take(pickle.loads(receive(pipe)))
    except (EOFError, OSError):
        os._exit(0)


def send(pipe: socket.socket, message: bytes) -> None:
    pipe.sendall(LENGTH.pack(len(message)) + message)


def receive(pipe: socket.socket) -> bytes:
    (length,) = LENGTH.unpack(_exactly(pipe, LENGTH.size))
    return _exactly(pipe, length)


def _exactly(pipe: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if not (part := pipe.recv(min(size - len(parts), 1 << 20))):
            raise EOFError
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    pipe = socket.socket(fileno=int(sys.argv[1]))
    pipe.set_inheritable(False)  # what the file starts is not to hold our end open
    serve(pipe)
