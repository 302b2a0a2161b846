"""The process of tests that are code, inside the sandbox: it calls a program through two pipes.

Nothing of the program's runs in it; what the program gives arrives as plain data.
`rlhf.judges.programs.running` hands this file's source to the sandbox with a call of `main` behind
it. Standard library only.
"""

import ast
import builtins
import json
import os
import sys
import types
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from rlhf.judges.programs.values import (
    MOST_BYTES,
    Opaque,
    decode,
    encode,
    named,
    tell,
    write_all,
)


class Gone(BaseException):
    """The program cannot be called, or has ended."""


class Unfit(BaseException):
    """The tests, not the program, are at fault."""


class Tests:
    """Calls a program through pipes, and remembers which asserts held."""

    def __init__(self, read: int, write: int, num_asserts: int) -> None:
        self._answers = open(read, "rb", closefd=False)  # noqa: SIM115
        self._write = write
        self.called = False
        self.passed: list[bool | None] = [None] * num_asserts
        self.reason = ""

    def stub(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            return self._ask(name, args, keywords)

        return call

    def _ask(self, name: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        given = [encode(list(args)), encode(keywords)]
        line = json.dumps([name, given])
        if '{"object": ' in line:
            if _has_opaque([args, keywords]):  # the program's own doing, which fails the test
                raise TypeError(f"{name} is given what the program gave, which is no data")
            raise Unfit(f"they give {name} something that is no data")
        self.called = True
        # One that has ended may have said why.
        with suppress(BrokenPipeError):
            write_all(self._write, line.encode() + b"\n")
        answer = self._answers.readline(MOST_BYTES + 1)
        if not answer.endswith(b"\n"):
            raise Gone("the program ended early" if len(answer) <= MOST_BYTES else "too much")
        try:
            told = json.loads(answer)
            if "broken" in told:
                raise Gone(": ".join(map(str, told["broken"])))
            if "value" in told:
                return decode(told["value"])
            kind, text = map(str, told["error"])
        except (ValueError, TypeError, KeyError, RecursionError):
            raise Gone("the program gave something that is no value") from None
        raise _raised(kind, text)

    def held(self, place: int) -> None:
        self.passed[place] = self.passed[place] is not False

    def failed(self, place: int, error: Exception) -> None:
        told = ": ".join(part for part in named(error) if part)
        if not self.called:
            raise Unfit(told)
        self.passed[place] = False
        self.reason = self.reason or f"test {place + 1}: {told}"


def _has_opaque(value: Any) -> bool:
    """Whether an object that the program gave, and that is no data, is in it."""
    if isinstance(value, dict):
        return _has_opaque([*value.keys(), *value.values()])
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_has_opaque, value))
    return isinstance(value, Opaque)


def _raised(kind: str, text: str) -> Exception:
    """What the program has raised, if the tests may catch it; an end of an iteration would end
    their own loops, and pass for a test that held."""
    found = getattr(builtins, kind, None)
    ends = (StopIteration, StopAsyncIteration)
    if isinstance(found, type) and issubclass(found, Exception) and not issubclass(found, ends):
        try:
            return found(text)
        except TypeError:  # It takes more than a text.
            pass
    return RuntimeError(f"{kind}: {text}")


def main(told: dict[str, Any]) -> None:
    """Runs tests that are code; one line of JSON with what became of each of their asserts."""
    out = os.dup(1)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    found = Tests(told["read"], told["write"], told["num_asserts"])
    complete, fault = False, None
    try:
        _run_tests(told, found)
        complete = True
        if not found.called:
            fault = "they never call the program"
    except Unfit as error:
        fault = str(error)
    except Gone as error:
        found.reason = found.reason or str(error)
    except BaseException as error:
        kind, text = named(error)
        if found.called:
            found.reason = found.reason or f"{kind}: {text}"
        else:
            fault = f"{kind}: {text}"
    # After an early end, what was not reached is not passed.
    passed = [complete if one is None else one for one in found.passed]
    tell(out, {"fault": fault, "passed": passed, "reason": found.reason})
    os._exit(0)


def _run_tests(told: dict[str, Any], found: Tests) -> None:
    module = types.ModuleType("tests")
    sys.modules["tests"] = module
    space = vars(module)
    exec(compile(told["before"], "<before>", "exec"), space)
    for name in told["names"]:
        space[name] = found.stub(name)
    space |= {"_agon_held": found.held, "_agon_failed": found.failed, "_agon_error": Exception}
    exec(compile(recorded(told["source"]), "<tests>", "exec"), space)
    if told["check"] is not None:
        space[told["check"]](found.stub(told["names"][0]))


def asserts(tree: ast.AST) -> list[ast.Assert]:
    """In the order in which they stand."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def recorded(source: str) -> ast.Module:
    """Tests in which an assert that fails is remembered, and does not end them."""
    tree = ast.parse(source)
    places = {id(node): place for place, node in enumerate(asserts(tree))}

    class Recording(ast.NodeTransformer):
        def visit_Assert(self, node: ast.Assert) -> ast.stmt:
            place = places[id(node)]
            (attempt,) = ast.parse(
                "try: pass\n"
                f"except _agon_error as _agon_caught: _agon_failed({place}, _agon_caught)\n"
                f"else: _agon_held({place})"
            ).body
            assert isinstance(attempt, ast.Try)
            attempt.body = [node]
            return attempt

    return ast.fix_missing_locations(Recording().visit(tree))
