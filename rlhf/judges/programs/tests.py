"""Tests as data files have them, in one of three kinds: calls, code that asserts, inputs."""

import ast
import builtins
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from rlhf.judges.programs.calls import Call, Relation, call_in
from rlhf.judges.programs.script import asserts
from rlhf.judges.programs.values import encode

GIVEN = """
from typing import *
from collections import Counter, OrderedDict, defaultdict, deque
from functools import cache, lru_cache, reduce
from heapq import *
from itertools import accumulate, combinations, permutations, product
import bisect, collections, functools, heapq, itertools, math, random, re, string
"""
"""What functions of APPS and TACO use without importing it, as their sites have it."""


class Format(Enum):
    auto = "auto"
    """By the row's columns: the first of the following that has its own."""
    humaneval = "humaneval"
    """`test` defines `check(candidate)`, `entry_point` names the function, `prompt` begins it."""
    asserts = "asserts"
    """`test_list` is a list of asserts, after `test_setup_code` if there is one; as in MBPP."""
    stdio = "stdio"
    """`input_output` has `inputs` and `outputs`, of a function if it has `fn_name`; as in APPS and
    TACO."""
    answers = "answers"
    """The policy's own: each answer's asserts judge the whole group; `entry_point` may name the
    function."""
    written = "written"
    """The policy's own, for which it is asked apart from the programs; `entry_point` likewise."""

    @property
    def are_the_policy_s(self) -> bool:
        return self in (Format.answers, Format.written)


@dataclass(frozen=True)
class Calls:
    """Tests that are data alone."""

    calls: tuple[Call, ...]
    name: str | None
    """The function that the program has to define."""
    before: str = ""
    """What runs before the program, in its process."""

    @property
    def size(self) -> int:
        return len(self.calls)


@dataclass(frozen=True)
class Script:
    """Tests that are code, run in a process of their own."""

    source: str
    names: tuple[str, ...]
    """The functions of the program that they call; `check` is handed the first."""
    check: str | None
    """The function that runs the tests; they run as they are read if it is None."""
    name: str | None
    before: str = ""
    """What runs before the program in its process."""
    setup: str = ""
    """What runs before the tests in theirs."""

    @property
    def size(self) -> int:
        return len(asserts(ast.parse(self.source)))


@dataclass(frozen=True)
class Inputs:
    """What whole programs read, and are to print."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    name: None = None
    before: str = ""

    @property
    def size(self) -> int:
        return len(self.inputs)


Tests = Calls | Script | Inputs


class Unreadable(Exception):
    """A row has no tests that can be used; its text is the end of a sentence about the row."""


def read_tests(row: Mapping[str, Any], format: Format) -> Tests:
    """A row's tests; raises Unreadable."""
    if format is Format.auto:
        wanted = {
            Format.humaneval: ("test", "entry_point"),
            Format.asserts: ("test_list",),
            Format.stdio: ("input_output",),
        }
        present = [
            one for one, names in wanted.items() if all(row.get(n) is not None for n in names)
        ]
        if not present:
            names = "; ".join(" and ".join(columns) for columns in wanted.values())
            raise Unreadable(f"has no columns of tests; give one of: {names}")
        format = present[0]
    reader = {
        Format.humaneval: _humaneval,
        Format.asserts: _asserts,
        Format.stdio: _input_output,
    }[format]
    tests = reader(row)
    if not tests.size:
        raise Unreadable("has an empty list of tests")
    return tests


def _text(row: Mapping[str, Any], column: str, default: str | None = None) -> str:
    value = row.get(column)
    if value is None and default is not None:
        return default
    if value is None:
        raise Unreadable(f"lacks the column {column!r}")
    if not isinstance(value, str):
        raise Unreadable(f"has no text in {column!r} but {type(value).__name__}")
    return value


def _parsed(source: str, column: str) -> ast.Module:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unreadable(f"has no Python in {column!r} ({error})") from error


def _humaneval(row: Mapping[str, Any]) -> Tests:
    source, name = _text(row, "test"), _text(row, "entry_point")
    prompt = _text(row, "prompt", "")
    try:
        ast.parse(prompt)
    except SyntaxError:
        prompt = ""  # It begins a function in words, or leaves it open.
    functions = [n for n in _parsed(source, "test").body if isinstance(n, ast.FunctionDef)]
    check = next((one for one in functions if one.name == "check"), None)
    if check is None or not check.args.args:
        raise Unreadable("defines no check(candidate) in 'test'")
    stated = [one for one in check.body if not _always_holds(one)]
    calls = [call_in(one) for one in stated]
    if all(calls) and {call.name for call in calls if call} == {check.args.args[0].arg}:
        data = tuple(call._replace(name=name) for call in calls if call)
        return Calls(data, name, prompt)
    return Script(source, (name,), "check", name, prompt, prompt)


def _always_holds(statement: ast.stmt) -> bool:
    """As `assert True, "This prints if the assert fails"`, of which that file has many."""
    return isinstance(statement, ast.Assert) and ast.unparse(statement.test) == "True"


def _asserts(row: Mapping[str, Any]) -> Tests:
    listed = row.get("test_list")
    if isinstance(listed, str):
        listed = [listed]
    if not isinstance(listed, Sequence) or not all(isinstance(one, str) for one in listed):
        raise Unreadable("lacks a list of texts in the column 'test_list'")
    imports = row.get("test_imports") or []
    setup = "\n".join([*imports, _text(row, "test_setup_code", "")])
    source = "\n".join(listed)
    tree, name = _parsed(source, "test_list"), row.get("entry_point")
    calls = [call_in(one) for one in tree.body]
    if all(calls):
        data = tuple(call for call in calls if call)
        return Calls(data, name or _only({call.name for call in data}))
    names = _unknown(tree, _parsed(setup, "test_setup_code"))
    if not names:
        raise Unreadable("has tests in 'test_list' that call no function")
    return Script(source, tuple(sorted(names)), None, name or _only(names), "", setup)


def _only(names: set[str]) -> str | None:
    return next(iter(names)) if len(names) == 1 else None


def _unknown(tree: ast.Module, setup: ast.Module) -> set[str]:
    """Names that tests call, and that neither they, their setup nor Python define."""
    called, known = set(), set(dir(builtins))
    for node in (*ast.walk(tree), *ast.walk(setup)):
        match node:
            case ast.Call(func=ast.Name(id=name)):
                called.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name):
                known.add(name)
            case ast.ClassDef(name=name) | ast.arg(arg=name):
                known.add(name)
            case ast.alias(name=name, asname=alias):
                known.add(alias or name.partition(".")[0])
    return called - known


def _input_output(row: Mapping[str, Any]) -> Tests:
    value = row.get("input_output")
    try:
        told = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise Unreadable(f"has no JSON in 'input_output' ({error})") from error
    if not isinstance(told, Mapping):
        raise Unreadable("lacks the column 'input_output', an object with inputs and outputs")
    inputs, outputs = told.get("inputs"), told.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise Unreadable("lacks the lists inputs and outputs in 'input_output'")
    if len(inputs) != len(outputs):
        raise Unreadable(f"has {len(inputs)} inputs but {len(outputs)} outputs in 'input_output'")
    if name := told.get("fn_name"):
        return Calls(tuple(_function_calls(name, inputs, outputs)), name, GIVEN)
    return Inputs(tuple(map(_lines, inputs)), tuple(map(_lines, outputs)))


def _function_calls(name: str, inputs: list[Any], outputs: list[Any]) -> Iterator[Call]:
    if not all(isinstance(given, list) for given in inputs):
        raise Unreadable("has an input of a function in 'input_output' that is no list")
    # APPS puts what a function gives into a list.
    if all(isinstance(value, list) and len(value) == 1 for value in outputs):
        outputs = [value for (value,) in outputs]
    for given, value in zip(inputs, outputs, strict=True):
        text = json.dumps([encode(given), encode({})])
        yield Call(name, text, Relation.listed, json.dumps(encode(value)))


def _lines(value: Any) -> str:
    """Some files have lists of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
