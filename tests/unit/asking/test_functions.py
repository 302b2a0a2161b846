"""Generated functions: distinct, held-out ones disjoint, and their tests agree with their words."""

import pytest

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.functions import FunctionsConfig, function_rows
from rlhf.problems import InputError


def fails(program: str, tests: list[str]) -> bool:
    space: dict = {}
    exec(program, space)
    try:
        for test in tests:
            exec(test, space)
    except AssertionError:
        return True
    return False


def test_demonstrations_pass_and_those_with_errors_are_as_many_as_asked_for():
    train, heldout = function_rows(FunctionsConfig(num_prompts=500, num_heldout=100), seed=3)
    assert (len(train), len(heldout)) == (500, 100)
    assert len({row.id for row in (*train, *heldout)}) == 600
    assert [row.id for row in train if fails(row.demonstration, row.whole["test_list"])] == []
    wrong = FunctionsConfig(num_prompts=500, num_heldout=100, error_rate=0.2)
    shown, _ = function_rows(wrong, seed=3)
    assert [row.whole for row in shown] == [row.whole for row in train]
    share = sum(fails(row.demonstration, row.whole["test_list"]) for row in shown) / 500
    assert share == pytest.approx(1 - 0.8**3, abs=0.06)


def test_a_row_as_it_stands():
    config = FunctionsConfig(num_steps=[2], num_prompts=1700, num_heldout=100)
    rows = {row.id: row for part in function_rows(config, seed=0) for row in part}
    assert len(rows) == 1800
    row = rows["take a add b times 3"]
    assert row.messages[0].content == "take a add b times 3\n"
    assert row.demonstration == "def f(a,b): return (a+b)*3"
    assert rows["take b times b minus 2"].demonstration == "def f(a,b): return b*b-2"
    assert row.whole["entry_point"] == "f" and len(row.whole["test_list"]) == 4


@pytest.mark.parametrize(
    "keys, told",
    [
        ({"num_steps": [1]}, "there are 60 functions of 1 steps, not 6256"),
        ({"num_steps": []}, "must be different numbers"),
        ({"num_steps": [0, 2]}, "must be different numbers"),
    ],
)
def test_what_there_is_not_is_told(keys, told):
    with pytest.raises(InputError, match=told):
        FunctionsConfig(**keys).source(Wanted(), 0)
