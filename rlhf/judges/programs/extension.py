"""More tests from few: inputs are mutated by type, and a reference solution says what is right.

After EvalPlus (Liu et al. 2023, arXiv 2305.01210), of which this is the mutation alone.
"""

import ast
import json
import random
from collections.abc import Mapping
from typing import Any

from rlhf.judges.programs.answers import programs
from rlhf.judges.programs.calls import Call, Relation, arguments
from rlhf.judges.programs.running import Runner
from rlhf.judges.programs.tests import Calls, Format, read_tests
from rlhf.judges.programs.values import decode, encode

TRIES = 20
"""Mutations per new input that is wanted, before no more are looked for."""
LETTERS = "abcXYZ019 .,-()"
LONGEST = 50
"""Of what a mutation makes longer."""


def mutated(value: Any, rng: random.Random) -> Any:
    """A value of the same type that differs a little, or not at all where its type has no other.

    Numbers move by one or change sign; of texts and lists something is left out, doubled or
    changed; of other containers the elements change.
    """
    match value:
        case bool():
            return rng.random() < 0.5
        case int():
            return rng.choice([value - 1, value + 1, -value])
        case float():
            return rng.choice([value - 1, value + 1, -value, value / 2])
        case str():
            return _respelled(value, rng)
        case list():
            return _rearranged(value, rng)
        case tuple():
            return tuple(_one_changed(list(value), rng))
        case dict():
            return dict(zip(value, _one_changed(list(value.values()), rng), strict=True))
    return value


def _respelled(text: str, rng: random.Random) -> str:
    place = rng.randrange(len(text) + 1)
    before, after = text[:place], text[place:]
    longer = before + rng.choice([*text, *LETTERS]) + after
    return rng.choice([before + after[1:], longer[:LONGEST], before + after[::-1]])


def _rearranged(values: list[Any], rng: random.Random) -> list[Any]:
    if not values:
        return values
    place = rng.randrange(len(values))
    match rng.randrange(3):
        case 0:
            return values[:place] + values[place + 1 :]
        case 1:
            return [*values[:place], mutated(values[place], rng), *values[place:]][:LONGEST]
    return _one_changed(values, rng)


def _one_changed(values: list[Any], rng: random.Random) -> list[Any]:
    if not values:
        return values
    place = rng.randrange(len(values))
    return [*values[:place], mutated(values[place], rng), *values[place + 1 :]]


def new_inputs(calls: tuple[Call, ...], num_new: int, rng: random.Random) -> list[str]:
    """Arguments as `Call.given`, each a mutation of one of those that are there or found before."""
    known = {call.given: None for call in calls}
    for _ in range(TRIES * num_new):
        if len(known) == len(calls) + num_new:
            break
        args, named = decode(json.loads(rng.choice(list(known))))
        if args:
            known[json.dumps([encode(_one_changed(args, rng)), encode(named)])] = None
    return [given for given in known if given not in {call.given for call in calls}]


async def extended(
    row: Mapping[str, Any], solution: str, num_new: int, runner: Runner, seed: int
) -> dict[str, Any] | None:
    """A row of HumanEval's form with up to `num_new` more tests in its `test`; None if its tests
    are code, or its solution does not pass them.

    Inputs for which the solution raises, takes too long or gives what is no exact data, such as
    fractions, are left out.
    """
    tests = read_tests(row, Format.humaneval)
    if not isinstance(tests, Calls):
        return None
    texts = programs(solution, str(row.get("prompt") or ""), tests.name)
    verdict = await runner.run(texts, tests)
    if verdict.passed is None or not all(verdict.passed):
        return None
    found = new_inputs(tests.calls, num_new, random.Random(seed))
    name, argument = str(row["entry_point"]), _argument(str(row["test"]))
    asked = tuple(Call(name, given, Relation.true, "null") for given in found)
    values = await runner.values(texts, Calls(asked, name, tests.before))
    more = [
        f"assert {argument}({arguments(given)}) == {value!r}"
        for given, value in zip(found, values, strict=False)
        if _is_exact(value)
    ]
    return {**row, "test": _with(str(row["test"]), more)}


def _check(tree: ast.Module) -> ast.FunctionDef:
    functions = [one for one in tree.body if isinstance(one, ast.FunctionDef)]
    return next(one for one in functions if one.name == "check")


def _argument(test: str) -> str:
    """What `check` calls the program."""
    return _check(ast.parse(test)).args.args[0].arg


def _with(test: str, more: list[str]) -> str:
    """The same with more asserts at the end of `check`."""
    tree = ast.parse(test)
    _check(tree).body += ast.parse("\n".join(more)).body
    return ast.unparse(tree) + "\n"


def _is_exact(value: Any) -> bool:
    if isinstance(value, list | tuple | set | frozenset):
        return bool(value or not isinstance(value, set | frozenset)) and all(map(_is_exact, value))
    if isinstance(value, dict):
        return all(_is_exact(each) for pair in value.items() for each in pair)
    return value is None or isinstance(value, bool | int | str | bytes)
