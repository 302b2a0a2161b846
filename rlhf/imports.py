"""Importing large libraries without looking for garbage among what they make."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager

STARTING = "AGON_WORKER_STARTS"
"""Set for a worker until `actors` is imported: what it imports then is all that it needs."""


@contextmanager
def many() -> Iterator[None]:
    """Around the imports of a process that is about to work."""
    begin()
    try:
        yield
    finally:
        end()
        atexit.register(gc.unfreeze)  # or some libraries tell people that they leak


def begin() -> None:
    gc.disable()


def end() -> None:
    """Modules stay for as long as the process, and looking through a million objects of theirs,
    again and again, takes a second."""
    if not gc.get_freeze_count():  # once: what a run leaves is garbage
        gc.freeze()
    gc.enable()
