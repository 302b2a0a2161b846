"""How long each stage of a round took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds by stage, as seen from the loop: what overlaps with training costs nothing here."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] = time.perf_counter() - start

    def metrics(self) -> dict[str, float]:
        """`time/<stage>_s` and `time/round_s`, the time since it was made or last asked this; what
        comes from now on counts to the next round."""
        now = time.perf_counter()
        seconds = self._seconds | {"round": now - self._start}
        self._start, self._seconds = now, {}
        return {f"time/{stage}_s": value for stage, value in seconds.items()}
