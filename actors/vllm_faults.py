"""Why vLLM's processes failed: what they log of an error, brought to the process that started them.

To that process vLLM says that an engine failed and to see above, where nobody is who could.
"""

import logging
import os
import tempfile
from pathlib import Path

from rlhf.problems import one_line

VARIABLE = "AGON_VLLM_FAULTS"
"""Names the file of faults, to vLLM's processes."""

_POINTERS = ("root cause", "stack trace")
"""What an error says that only speaks of another one."""


class EngineFailed(Exception):
    """vLLM's engine did not start, or ended while it served; says why."""


class Faults:
    """The errors that processes log which this one starts from now on; nothing is left of it."""

    def __init__(self) -> None:
        descriptor, name = tempfile.mkstemp(prefix="agon_vllm_")
        self._file = os.fdopen(descriptor)
        self._path = Path(name)
        os.environ[VARIABLE] = name

    def hide(self) -> None:
        """Once all of them have begun, and hold the file open, it needs no name."""
        del os.environ[VARIABLE]
        self._path.unlink()

    def named(self, what: str, error: Exception) -> EngineFailed:
        """The error to raise in place of vLLM's: by the last one of its processes that does not
        only speak of another, or without such, its own.
        """
        self._file.seek(0)
        told = [one_line(error), *(line.strip() for line in self._file)]
        cause = next((line for line in reversed(told) if not _is_pointer(line)), told[0])
        return EngineFailed(f"{what}: {cause}")


def _is_pointer(line: str) -> bool:
    return not line or any(words in line.lower() for words in _POINTERS)


def listen() -> None:
    """Tells of this process's errors from now on, if it is one of vLLM's."""
    name = os.environ.get(VARIABLE)
    if name is not None and Path(name).exists():
        logging.getLogger("vllm").addHandler(_Teller(name))


class _Teller(logging.FileHandler):
    """Writes one line for each exception that is logged."""

    def __init__(self, path: str) -> None:
        super().__init__(path, mode="a", encoding="utf-8")
        self.setLevel(logging.ERROR)
        self.addFilter(lambda record: bool(record.exc_info and record.exc_info[1]))

    def format(self, record: logging.LogRecord) -> str:
        assert record.exc_info and record.exc_info[1]
        return one_line(record.exc_info[1])
