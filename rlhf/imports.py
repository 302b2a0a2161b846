"""Importing large libraries, and ending with them, without what takes seconds of computing."""

import atexit
import gc
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

STARTING = "AGON_WORKER_STARTS"
"""Set for a worker until `actors` is imported: what it imports then is all that it needs."""
WORKER_ENV = {
    # Workers take turns on the same cores: who waits should not keep one busy.
    "OMP_WAIT_POLICY": "passive",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    # What a forward pass has given back the next one takes again, not the system in between: four
    # fifths of a sampling worker's time there, and a seventh of all its time, for at most 256 MiB.
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
}
"""What a worker's libraries read, some of them while they are imported."""


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


@contextmanager
def quick_end() -> Iterator[None]:
    """Around a command, whose process then ends as ever, with everything that was registered to be
    done at its end, but leaves its memory as it is: taking the libraries apart takes a second."""
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, int):
            atexit.register(_end, end.code)
        raise
    atexit.register(_end, 0)


def _end(code: int) -> None:
    """The first to be called, when there are no threads any more."""
    atexit.unregister(_end)
    for one in list(getattr(weakref.finalize, "_registry", ())):
        if (found := one.peek()) and getattr(found[1], "__module__", "") == "torch.library":
            one.atexit = False  # it would take PyTorch's operators apart, one by one
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
