"""`python -m faulty OVERRIDE...`: `python -m rlhf`, whose workers raise what they are told to.

A file `CLASS.METHOD` in the folder that FAULTS names says what: the first worker of that class of
which that method is called takes the file, and raises.
"""

import functools
import inspect
import os
import runpy
from pathlib import Path
from typing import Any

FOLDER = "FAULTS"
RAISE, MEMORY = "raise", "memory"
TEXT = "what nobody foresaw"
METHODS = ("serve", "load_weights", "update", "put_weights", "save")


def faulty(actor: type) -> type:
    """The same actor, under the same name."""
    methods = {name: _wrapped(actor, name) for name in METHODS if hasattr(actor, name)}
    return type(actor.__name__, (actor,), methods)


def _wrapped(actor: type, name: str) -> Any:
    method = getattr(actor, name)
    key = f"{actor.__name__}.{name}"
    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def generates(self: Any, *arguments: Any) -> Any:
            strike(key)
            async for one in method(self, *arguments):
                yield one

        return generates
    if inspect.iscoroutinefunction(method):

        @functools.wraps(method)
        async def waits(self: Any, *arguments: Any) -> Any:
            strike(key)
            return await method(self, *arguments)

        return waits

    @functools.wraps(method)
    def computes(self: Any, *arguments: Any) -> Any:
        strike(key)
        return method(self, *arguments)

    return computes


def strike(key: str) -> None:
    file = Path(os.environ[FOLDER]) / key
    try:
        how = file.read_text()
        file.unlink()  # of several workers, one
    except FileNotFoundError:
        return
    if how == MEMORY:
        bytearray(1 << 62)  # more than any machine has
    raise LookupError(TEXT)


if __name__ == "__main__":
    from rlhf.launching import assembly, judging

    assembly.RolloutWorker = faulty(assembly.RolloutWorker)
    assembly.ReferenceWorker = faulty(assembly.ReferenceWorker)
    assembly.PolicyRank = faulty(assembly.PolicyRank)
    judging.JudgeWorker = faulty(judging.JudgeWorker)
    runpy.run_module("rlhf", run_name="__main__")
