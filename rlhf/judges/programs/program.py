"""The process of a program, inside the sandbox: it is called, or given input, and says what comes.

It never holds what tests expect. `rlhf.judges.programs.running` hands this file's source to the
sandbox with a call of `main` behind it. Standard library only, and little of that: what is imported
is most of the 25 ms that a process takes.
"""

import atexit
import builtins
import io
import json
import os
import re
import sys
import threading
import types
from collections.abc import Sequence
from typing import Any

from rlhf.judges.programs.values import MOST_BYTES, decode, encode, named, tell


def main(told: dict[str, Any]) -> None:
    """Loads a program, then gives it its calls or inputs; a line of JSON about each, on what is
    standard output at first and out of the way of whatever the program prints."""
    out = os.dup(1)
    os.dup2(2, 1)
    builtins.exit = builtins.quit = sys.exit  # of `site`, which is not imported
    if "inputs" in told:
        _run_inputs(told, out)
    else:
        try:
            space = _load(told)
        except BaseException as error:
            space, broken = {}, named(error)
            tell(told.get("write", out), {"broken": broken})
        else:
            if "read" in told:
                _serve(space, told["read"], told["write"])
            else:
                for name, given in told["calls"]:
                    tell(out, _called(space, name, given))
    # Whatever the program still has running ends here.
    os._exit(0)


def _load(told: dict[str, Any]) -> dict[str, Any]:
    code = chosen(told["texts"], told["name"])
    module = types.ModuleType("program")
    sys.modules["program"] = module
    exec(compile(told["before"], "<before>", "exec"), vars(module))
    exec(code, vars(module))
    return vars(module)


def chosen(texts: Sequence[str], name: str | None) -> types.CodeType:
    """The first of the texts that is Python and, if there is a name, defines it.

    Raises what is wrong with the first text: a SyntaxError, or NameError.
    """
    first: BaseException | None = None
    for text in texts:
        try:
            code = compile(text, "<program>", "exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            first = first or error
        else:
            if name is None or _defines(code, text, name):
                return code
            first = first or NameError(f"{name} is not defined")
    assert first, "no text at all"
    raise first


def _defines(code: types.CodeType, text: str, name: str) -> bool:
    """Whether a function, class or method has the name, or something is assigned to it."""
    inner = [code]
    for each in inner:
        inner += [one for one in each.co_consts if isinstance(one, types.CodeType)]
    if any(one.co_name == name for one in inner):
        return True
    return re.search(rf"^{re.escape(name)}\s*(:[^=]*)?=[^=]", text, re.M) is not None


def _called(space: dict[str, Any], name: str, given: Any) -> dict[str, Any]:
    """What a call gives, or raises, as data."""
    try:
        args, keywords = decode(given)
        function = space.get(name)
        if function is None and "Solution" in space:
            function = getattr(space["Solution"](), name)
        if function is None:
            raise NameError(f"{name} is not defined")
        return {"value": encode(function(*args, **keywords))}
    except BaseException as error:
        return {"error": named(error)}


def _serve(space: dict[str, Any], read: int, write: int) -> None:
    with open(read, "rb", closefd=False) as asked:
        for line in asked:
            name, given = json.loads(line)
            tell(write, _called(space, name, given))


def _run_inputs(told: dict[str, Any], out: int) -> None:
    """The whole program once per input, each time anew, with files as its standard streams."""
    try:
        code = chosen(told["texts"], None)
    except BaseException as error:
        tell(out, {"broken": named(error)})
        return
    for text in told["inputs"]:
        try:
            tell(out, {"value": _printed(code, text)})
        except BaseException as error:
            tell(out, {"error": named(error)})


def _printed(code: types.CodeType, text: str) -> str:
    with open("input", "w", encoding="utf-8") as file:
        file.write(text)
    for handle, name, flags in ((0, "input", os.O_RDONLY), (1, "output", os.O_WRONLY | os.O_CREAT)):
        opened = os.open(name, flags | os.O_TRUNC if handle else flags, 0o600)
        if opened != handle:  # The program may have closed it.
            os.dup2(opened, handle)
            os.close(opened)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    try:
        exec(code, vars(main))
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and not thread.daemon:
                thread.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os.dup2(2, 1)
    with open("output", encoding="utf-8", errors="replace") as file:
        return file.read(MOST_BYTES)
