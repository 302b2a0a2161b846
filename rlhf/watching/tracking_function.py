"""A user's function that is called with every line of metrics, beside everything else."""

import asyncio
import queue
import threading
from collections.abc import Callable, Mapping

from rlhf.functions.process import FunctionFailed, FunctionProcess
from rlhf.functions.source import read_source, taking
from rlhf.problems import InputError

PARAMETERS = ("round", "metrics")
KEY = "tracking.function"
CALL_S = 30.0
"""For one call."""
LAST_S = 60.0
"""For all that are waiting when the run ends."""
MOST_WAITING = 100
"""Lines that wait for a slow function; those beyond are left out."""


def start(reference: str) -> FunctionProcess:
    """Raises InputError if the function cannot be used."""
    return FunctionProcess(read_source(KEY, reference), taking(*PARAMETERS), CALL_S, overlap=1)


class FunctionTracker:
    """Calls `def log(round, metrics)`, plain or async, in a process of its own, line after line.

    Training waits for it only at its end, and goes on whatever happens to it: the first failure is
    told once.
    """

    def __init__(self, reference: str | None, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._failure: str | None = None
        """The first one; set by the thread, told by whoever calls."""
        self._told = False
        self._is_over = False
        self._thread: threading.Thread | None = None
        if reference is None:
            return
        try:
            self._process = start(reference)
        except InputError as error:  # it had worked before the run began
            self._tell(error.problems[0])
            return
        self._lines: queue.Queue[tuple[int, dict[str, float]] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def log(self, round: int, metrics: Mapping[str, float]) -> None:
        if self._thread is None:
            return
        if self._lines.qsize() < MOST_WAITING:
            self._lines.put((round, dict(metrics)))
        else:
            self._tell(f"{MOST_WAITING} lines wait for it, and further ones are left out")
        if self._failure:
            self._tell(self._failure)

    def close(self) -> None:
        """Waits a while for the last calls; later calls do nothing."""
        if self._thread is None:
            return
        self._lines.put(None)
        self._thread.join(LAST_S)
        if self._thread.is_alive():
            self._tell(f"the last lines are not taken within {LAST_S:g} s")
            self._is_over = True
            self._process.kill()
            self._thread.join(CALL_S)
        elif self._failure:
            self._tell(self._failure)
        self._thread = None

    def _work(self) -> None:
        with asyncio.Runner() as loop:
            while (line := self._lines.get()) is not None and not self._is_over:
                try:
                    loop.run(self._process.call(*line))
                except FunctionFailed as error:
                    self._failure = self._failure or str(error)
            self._process.close()

    def _tell(self, why: str) -> None:
        if not self._told:
            self._told = True
            self._warn(f"warning: {KEY}: {why}; training goes on")
