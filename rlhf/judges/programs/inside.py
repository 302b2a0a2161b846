"""What runs inside the sandbox: a program that is called, and tests that call one elsewhere.

`rlhf.judges.programs.running` hands this file's source to the sandbox with a call of `main` behind
it. The process of a program never holds what its tests expect: it gets arguments, or standard
input, and gives back values as data. Where tests are code, they run in a process of their own, and
reach the program through two pipes. Standard library only.
"""

import atexit
import builtins
import io
import itertools
import json
import os
import re
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # 6 ms of the 20 that a program's process takes, which does without
    import ast

MOST_BYTES = 4 << 20
"""Of one value as data."""
MOST_ITEMS = 100_000
"""Of an iterator, which may never end."""
_MANY = 1000
_SMALL = 10**15
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


# --- values as data ------------------------------------------------------------------------------


class Opaque:
    """In place of an object that is no data; equal to nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}, which is no data>"

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is neither true nor false")


def encode(value: Any) -> Any:
    """A value of Python's own types as what JSON can say; see `decode`."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, int):
        return int(value) if -_SMALL < value < _SMALL else {"int": hex(value)}
    if isinstance(value, list):
        return [encode(each) for each in value]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encode(each) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, Iterator):
        return {"iterator": [encode(each) for each in itertools.islice(value, MOST_ITEMS)]}
    return {"object": type(value).__name__}


def decode(data: Any) -> Any:
    """What `encode` said, in Python's own types alone; raises ValueError or TypeError for what it
    cannot have said."""
    if isinstance(data, list):
        return [decode(each) for each in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("not a value")
    ((kind, body),) = data.items()
    if kind == "int":
        return int(body, 16)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_apart(kind, [decode(each) for each in body]))
    if kind == "dict":
        pairs = [(decode(key), decode(each)) for key, each in body]
        _apart(kind, [key for key, _ in pairs])
        return dict(pairs)
    if kind == "iterator":
        return iter([decode(each) for each in body])
    if kind == "object":
        return Opaque(str(body)[:50])
    plain: dict[str, Callable[[], Any]] = {
        "bytes": lambda: bytes.fromhex(body),
        "complex": lambda: complex(*body),
        "range": lambda: range(*map(decode, body)),
    }
    if kind not in plain:
        raise ValueError("not a value")
    return plain[kind]()


def _apart(kind: str, keys: list[Any]) -> list[Any]:
    """The keys; those made to collide would take a set or dict of them hours."""
    if kind != "tuple" and len(keys) > _MANY and 2 * len({hash(key) for key in keys}) < len(keys):
        raise ValueError("too many keys of one hash")
    return keys


# --- the program ---------------------------------------------------------------------------------


def program(told: dict[str, Any]) -> None:
    """Loads a program, then gives it its calls or inputs; a line of JSON about each, on what is
    standard output at first and out of the way of whatever the program prints."""
    out = os.dup(1)
    os.dup2(2, 1)
    if "inputs" in told:
        _run_inputs(told, out)
    else:
        try:
            space = _load(told)
        except BaseException as error:
            space, broken = {}, _named(error)
            _tell(told.get("write", out), {"broken": broken})
        else:
            if "read" in told:
                _serve(space, told["read"], told["write"])
            else:
                for name, given in told["calls"]:
                    _tell(out, _called(space, name, given))
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

    Raises the first text's SyntaxError, or NameError.
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
    raise first or NameError(f"{name} is not defined")


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
        args, named = decode(given)
        function = space.get(name)
        if function is None and "Solution" in space:
            function = getattr(space["Solution"](), name)
        if function is None:
            raise NameError(f"{name} is not defined")
        return {"value": encode(function(*args, **named))}
    except BaseException as error:
        return {"error": _named(error)}


def _named(error: BaseException) -> list[str]:
    try:
        text = str(error)
    except BaseException:
        text = ""
    return [type(error).__name__[:100], text[:1000]]


def _serve(space: dict[str, Any], read: int, write: int) -> None:
    with open(read, "rb", closefd=False) as asked:
        for line in asked:
            name, given = json.loads(line)
            _tell(write, _called(space, name, given))


def _tell(handle: int, what: dict[str, Any]) -> None:
    try:
        line = json.dumps(what)
    except (ValueError, RecursionError) as error:
        line = json.dumps({"error": _named(error)})
    _write_all(handle, line.encode() + b"\n")


def _write_all(handle: int, text: bytes) -> None:
    left = memoryview(text)
    while left:
        left = left[os.write(handle, left) :]


def _run_inputs(told: dict[str, Any], out: int) -> None:
    """The whole program once per input, each time anew, with files as its standard streams."""
    try:
        code = chosen(told["texts"], None)
    except BaseException as error:
        _tell(out, {"broken": _named(error)})
        return
    for text in told["inputs"]:
        try:
            _tell(out, {"value": _printed(code, text)})
        except BaseException as error:
            _tell(out, {"error": _named(error)})


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


# --- the tests, where they are code --------------------------------------------------------------


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
        def call(*args: Any, **named: Any) -> Any:
            return self._ask(name, args, named)

        return call

    def _ask(self, name: str, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = [encode(list(args)), encode(named)]
        line = json.dumps([name, given])
        if '{"object": ' in line:
            raise Unfit(f"they give {name} something that is no data")
        self.called = True
        try:
            _write_all(self._write, line.encode() + b"\n")
        except BrokenPipeError:
            raise Gone("the program ended early") from None
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
        told = ": ".join(part for part in _named(error) if part)
        if not self.called:
            raise Unfit(told)
        self.passed[place] = False
        self.reason = self.reason or f"test {place + 1}: {told}"


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


def tests(told: dict[str, Any]) -> None:
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
        kind, text = _named(error)
        if found.called:
            found.reason = found.reason or f"{kind}: {text}"
        else:
            fault = f"{kind}: {text}"
    # After an early end, what was not reached is not passed.
    passed = [complete if one is None else one for one in found.passed]
    _tell(out, {"fault": fault, "passed": passed, "reason": found.reason})
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


def asserts(tree: "ast.AST") -> "list[ast.Assert]":
    """In the order in which they stand."""
    import ast

    found = [node for node in ast.walk(tree) if isinstance(node, ast.Assert)]
    return sorted(found, key=lambda node: (node.lineno, node.col_offset))


def recorded(source: str) -> "ast.Module":
    """Tests in which an assert that fails is remembered, and does not end them."""
    import ast

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


def main(task: str, payload: str) -> None:
    """Does one of the two things that a process is for."""
    {"program": program, "tests": tests}[task](json.loads(payload))
