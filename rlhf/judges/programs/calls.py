"""One test that is data: a call, and what it is to give; read from an assert."""

import ast
import builtins
import json
from enum import Enum
from typing import Any, NamedTuple

from rlhf.judges.programs.values import decode, encode

MAX_ASSERT_CHARS = 2000
"""Of an assert in an answer; a longer one is no test."""


class Relation(Enum):
    equals = "equals"
    same = "is"
    """One of None, True and False itself."""
    true = "true"
    false = "false"
    listed = "listed"
    """Equal where tuples count as lists, as in JSON, which has no tuples."""


class Call(NamedTuple):
    """One test that is data: a call, and what it is to give."""

    name: str
    given: str
    """JSON of arguments and named arguments, encoded."""
    relation: Relation
    expected: str
    """JSON of the value, encoded; of no meaning where there is none."""


def source(call: Call) -> str:
    """The assert that it was read from, as Python spells it."""
    asked = f"{call.name}({arguments(call.given)})"
    expected = repr(decode(json.loads(call.expected)))
    match call.relation:
        case Relation.true:
            return f"assert {asked}"
        case Relation.false:
            return f"assert not {asked}"
        case Relation.same:
            return f"assert {asked} is {expected}"
        case Relation.equals | Relation.listed:
            return f"assert {asked} == {expected}"


def arguments(given: str) -> str:
    """Of `Call.given`, as they stand in a call."""
    args, named = decode(json.loads(given))
    return ", ".join([*map(repr, args), *(f"{key}={value!r}" for key, value in named.items())])


def own_asserts(text: str) -> list[Call]:
    """The asserts in an answer that are data, a line each; others are no tests."""
    found = []
    for line in text.splitlines():
        if line.startswith("assert ") and len(line) <= MAX_ASSERT_CHARS:
            try:
                (statement,) = ast.parse(line).body
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            if call := call_in(statement):
                found.append(call)
    return found


def call_in(statement: ast.stmt) -> Call | None:
    """An assert that is data, `assert f(ARGUMENTS) == VALUE` and its like; None for any other."""
    if not isinstance(statement, ast.Assert):
        return None
    try:
        match statement.test:
            case ast.Compare(left=ast.Call() as call, ops=[ast.Eq()], comparators=[value]):
                return _as_call(call, Relation.equals, ast.literal_eval(value))
            case ast.Compare(
                left=ast.Call() as call, ops=[ast.Is()], comparators=[ast.Constant(value=value)]
            ) if value is None or isinstance(value, bool):
                return _as_call(call, Relation.same, value)
            case ast.UnaryOp(op=ast.Not(), operand=ast.Call() as call):
                return _as_call(call, Relation.false)
            case ast.Call() as call:
                return _as_call(call, Relation.true)
    except (ValueError, TypeError, RecursionError, MemoryError):  # As `literal_eval` says "no".
        pass
    return None


def _as_call(call: ast.Call, relation: Relation, expected: Any = None) -> Call | None:
    if not isinstance(call.func, ast.Name) or call.func.id in dir(builtins):
        return None
    args = [ast.literal_eval(one) for one in call.args]
    named = {str(one.arg): ast.literal_eval(one.value) for one in call.keywords}
    given = json.dumps([encode(args), encode(named)])
    return Call(call.func.id, given, relation, json.dumps(encode(expected)))
