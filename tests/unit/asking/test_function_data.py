"""data=function: your own prompts, taken one at a time."""

import json
from pathlib import Path

import pytest

from rlhf.asking.sources.base import Wanted
from rlhf.asking.sources.files import FilesConfig
from rlhf.asking.sources.function import FunctionDataConfig
from rlhf.data.rendering import Source
from rlhf.problems import InputError
from rlhf.records import Message

ROWS = [{"q": f"{i}?", "a": f"so #### {i},000", "id": f"q{i}", "more": [i]} for i in range(40)]
COLUMNS = {
    "prompt_column": "q",
    "answer_column": "a",
    "answer_marker": "####",
    "id_column": "id",
    "demonstration_column": "a",
    "heldout_share": 0.3,
}


def config(tmp_path: Path, text: str, **settings) -> FunctionDataConfig:
    (tmp_path / "own.py").write_text(text)
    return FunctionDataConfig(function=f"{tmp_path}/own.py:rows", **settings)


def refused(config: FunctionDataConfig, wanted: Wanted | None = None) -> list[str]:
    with pytest.raises(InputError) as error:
        config.source(wanted or Wanted(), 1)
    assert not any("\n" in problem for problem in error.value.problems)
    return error.value.problems


def without_origin(source: Source) -> list[list]:
    return [
        [(r.id, r.messages, r.answer, r.demonstration, r.whole) for r in rows]
        for rows in (source.train, source.heldout)
    ]


def test_rows_of_a_function_are_those_of_a_file(tmp_path):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    own = config(tmp_path, f"def rows():\n    yield from {ROWS!r}", **COLUMNS)
    file = FilesConfig(path=str(tmp_path / "x.jsonl"), **COLUMNS)
    for wanted in (Wanted(answers=True), Wanted(rows=True)):
        found = own.source(wanted, 1)
        assert without_origin(found) == without_origin(file.source(wanted, 1))
        assert len(found.train) > len(found.heldout) > 0
    assert found.train[0].whole == next(row for row in ROWS if row["id"] == found.train[0].id)
    assert found.train[0].origin.startswith(f"{tmp_path}/own.py:rows row ")


def test_a_function_of_its_own_yields_what_is_held_out(tmp_path):
    text = (
        "def rows(): return [{'prompt': 'a'}, {'prompt': 'b'}]\ndef held(): yield {'prompt': 'c'}"
    )
    own = config(tmp_path, text, heldout_function=f"{tmp_path}/own.py:held")
    source = own.source(Wanted(), 1)
    assert [row.id for row in source.train] == ["1", "2"]
    assert [row.id for row in source.heldout] == ["heldout:1"]


def test_rows_are_taken_one_at_a_time_and_as_many_as_wanted(tmp_path):
    text = (
        "from itertools import count\n"
        "import numpy\n"
        "def rows():\n"
        "    for i in count():\n"
        "        assert i < 50, 'too far'\n"
        "        yield {'prompt': f'{i}', 'a': numpy.int64(i), 'unread': object()}\n"
    )
    own = config(tmp_path, text, max_rows=50, answer_column="a", heldout_share=0.3)
    source = own.source(Wanted(answers=True), 1)
    rows = [*source.train, *source.heldout]
    assert len(rows) == 50 and {row.answer for row in rows} == {str(i) for i in range(50)}
    assert {row.messages for row in rows} == {(Message("user", str(i)),) for i in range(50)}
    own.max_rows = None
    (problem,) = refused(own)
    assert "fails after 50 rows: AssertionError: too far (own.py line 5)" in problem


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("yield {'prompt': 'a'}; yield 3", "own.py:rows: yields a int, not a mapping; 1 rows: 2"),
        (
            "yield {'prompt': ''}; yield {'prompt': 'a'}; yield {'prompt': ' '}",
            "own.py:rows: column 'prompt' is empty; 2 rows: 1, 3",
        ),
        ("yield {'prompt': 'a'}; yield {'x': 1}", "'prompt' is null or missing; 1 rows: 2"),
        ("yield {'promt': 'a'}", "did you mean data.prompt_column=promt?"),
        ("yield {'prompt': object()}", "column 'prompt' is an object of object, not numbers"),
        ("return 3", "gives 3, not rows; let it yield them"),
        ("return 'abc'", "gives 'abc', not rows; let it yield them"),
        ("return {'prompt': 'a'}", "gives {'prompt': 'a'}, not rows; let it yield them"),
        ("return []", "yields no rows"),
        ("raise OSError('gone')", "fails after 0 rows: OSError: gone (own.py line 2)"),
        ("yield {'prompt': 'a'}; exit(1)", "fails after 1 rows: SystemExit: 1 (own.py line 2)"),
    ],
)
def test_a_wrong_row_is_told_with_its_number(tmp_path, body, told):
    (problem,) = refused(config(tmp_path, f"def rows():\n    {body}"))
    assert told in problem and f"{tmp_path}/own.py:rows" in problem


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    own = config(tmp_path, "def rows(n): pass", heldout_function="absent.py:rows")
    problems = refused(own, Wanted(answers=True))
    assert [problem.split(":")[0] for problem in problems] == [
        "data.answer_column=null",
        f"data.function={tmp_path}/own.py",
        "data.heldout_function=absent.py",
    ]


def test_an_object_in_a_column_is_a_fault_where_the_judge_reads_rows(tmp_path):
    own = config(tmp_path, "def rows(): yield {'prompt': 'a', 'x': {1}}")
    (problem,) = refused(own, Wanted(rows=True))
    assert "column 'x' is an object of set, not numbers" in problem and "1 rows: 1" in problem
