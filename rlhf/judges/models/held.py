"""Models that judges of one worker share, instead of each loading its own."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_HELD: ContextVar[dict[Hashable, Any] | None] = ContextVar("held", default=None)


@contextmanager
def one_of_each() -> Iterator[None]:
    """Within it, what is asked for again is what was loaded first."""
    before = _HELD.set({})
    try:
        yield
    finally:
        _HELD.reset(before)


def held(key: Hashable, load: Callable[[], Any]) -> Any:
    """What `load` gives; `key`: what it depends on."""
    known = _HELD.get()
    if known is None:
        return load()
    if key not in known:
        known[key] = load()
    return known[key]
