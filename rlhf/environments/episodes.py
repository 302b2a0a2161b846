"""The other side of a user's environment: the class in its own process, and its open episodes."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from rlhf.functions.source import FunctionSource, is_async, unfit

METHODS = {"reset": ("row",), "step": ("text",)}
RESET, STEP, CLOSE = "reset", "step", "close"


class Lost(Exception):
    """An episode whose process has ended since it began."""


def hosted(source: FunctionSource, made: Callable[..., Any]) -> Callable[..., Any]:
    """What `rlhf.functions.process` calls of such a class; raises InputError if it is none."""
    if not inspect.isclass(made):
        raise source.refused("is a function; an environment is a class with reset and step")
    if (signature := unfit(made, ())) is not None:
        raise source.refused(f"takes {signature}, and is made without arguments")
    for name, parameters in METHODS.items():
        wanted = f"def {name}(self, {', '.join(parameters)})"
        method = getattr(made, name, None)
        if not callable(method):
            raise source.refused(f"has no method {name}; write {wanted}")
        if (signature := unfit(method, ("self", *parameters))) is not None:
            raise source.refused(f"its {name} takes {signature}; write {wanted}")
    methods = [getattr(made, name) for name in (RESET, STEP, CLOSE) if hasattr(made, name)]
    episodes = Episodes(made)
    return AsyncEpisodes(episodes) if any(map(is_async, methods)) else episodes


class Episodes:
    """Objects of the class by the numbers of their episodes."""

    def __init__(self, made: Callable[[], Any]) -> None:
        self._made = made
        self._open: dict[int, Any] = {}

    def __call__(self, method: str, number: int, argument: Any) -> Any:
        """What the method returns; an episode begins with `reset`, and is gone after `close`."""
        if method == RESET:
            self._open[number] = self._made()
        elif number not in self._open and method == STEP:
            raise Lost("its process has ended since the episode began")
        if method == CLOSE:
            close = getattr(self._open.pop(number, None), CLOSE, None)
            return None if close is None else close()
        return getattr(self._open[number], method)(argument)


class AsyncEpisodes:
    """Episodes some of whose methods are `async`."""

    def __init__(self, episodes: Episodes) -> None:
        self._episodes = episodes

    async def __call__(self, method: str, number: int, argument: Any) -> Any:
        found = self._episodes(method, number, argument)
        return await found if isinstance(found, Awaitable) else found
