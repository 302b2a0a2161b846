"""Standard output and error that outlast the terminal or pipe behind them.

Once that is gone, every write to it fails, and a run of hours would end of a line that nobody
reads, before it could keep what it has.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TextIO, TypeVar

Result = TypeVar("Result")
_GONE = (errno.EIO, errno.EPIPE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""There is somebody to read it, and no room for it just now."""


def outlast_terminal() -> None:
    """From now on, a write to what is gone is dropped, and means the same as its SIGHUP to a run
    that listens. A stream that was closed from the start is None, and stays so."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)


def _lasting(stream: Any) -> Any:
    return stream if stream is None or isinstance(stream, _Lasting) else _Lasting(stream)


class _Lasting:
    """A stream that writes to nowhere once there is nobody to read it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return self._lastingly(lambda: self._stream.write(text), len(text))

    def flush(self) -> None:
        self._lastingly(self._stream.flush, None)

    def _lastingly(self, act: Callable[[], Result], dropped: Result) -> Result:
        try:
            return act()
        except OSError as error:
            if error.errno in _FULL:
                return dropped
            if error.errno not in _GONE:
                raise
        self._give_up()
        return act()

    def _give_up(self) -> None:
        """For both streams, if they lead to the same place: it is told of once."""
        gone = os.fstat(self._stream.fileno())
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):
                if os.path.samestat(os.fstat(stream.fileno()), gone):
                    os.dup2(nowhere, stream.fileno())
        finally:
            os.close(nowhere)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_DFL:
            os.kill(os.getpid(), signal.SIGHUP)
