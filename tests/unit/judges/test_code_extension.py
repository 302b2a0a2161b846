"""Extended tests tell apart what the first ones cannot, and a right program passes them."""

import gzip
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.judges.programs import __main__ as programs
from rlhf.judges.programs.extension import extended, mutated, new_inputs
from rlhf.judges.programs.running import Runner
from rlhf.judges.programs.tests import Calls, Format, read_tests
from rlhf.problems import InputError

ROW = {
    "prompt": "def largest(values):\n",
    "entry_point": "largest",
    "test": "def check(f):\n    assert f([1, 2, 3]) == 3\n    assert f([4, 5]) == 5\n",
}
RIGHT = "def largest(values): return max(values)"
PLANTED = "def largest(values): return values[-1]"

VALUES = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.none()),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner)
    ),
    max_leaves=10,
)


@given(VALUES, st.integers())
def test_a_mutation_keeps_the_type_and_depends_on_the_seed_alone(value, seed):
    found = mutated(value, random.Random(seed))
    assert type(found) is type(value)
    assert repr(mutated(value, random.Random(seed))) == repr(found)


def test_new_inputs_differ_from_each_other_and_from_those_that_are_there():
    tests = read_tests(ROW, Format.humaneval)
    assert isinstance(tests, Calls)
    found = new_inputs(tests.calls, 30, random.Random(0))
    assert len(found) == len({*found, *(call.given for call in tests.calls)}) - 2 == 30


async def test_a_planted_error_passes_the_first_tests_and_not_the_extended():
    runner = Runner(20, 256, 2, allow_unsafe=False)
    row = await extended(ROW, RIGHT, 30, runner, seed=0)
    assert row is not None
    for program, passes in ((RIGHT, (True, True)), (PLANTED, (True, False))):
        verdicts = [
            await runner.run([program], read_tests(each, Format.humaneval)) for each in (ROW, row)
        ]
        assert tuple(all(verdict.passed or ()) for verdict in verdicts) == passes
    assert "f([])" not in row["test"]  # for which the solution raises
    assert 20 < row["test"].count("assert") <= 32
    assert await extended(ROW, PLANTED.replace("-1", "0"), 30, runner, seed=0) is None


def test_the_command_writes_a_file_that_the_judge_reads(humaneval, tmp_path):
    with gzip.open(humaneval, "rt", encoding="utf-8") as lines:
        rows = [next(lines) for _ in range(4)]
    source, out = tmp_path / "few.jsonl", tmp_path / "more.jsonl"
    source.write_text("".join(rows))
    command = [sys.executable, "-m", "rlhf.judges.programs", str(source)]
    done = subprocess.run(
        [*command, "--out", str(out), "--tests", "5"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    sizes = [
        [read_tests(json.loads(line), Format.auto).size for line in text]
        for text in (rows, out.read_text().splitlines())
    ]
    more = [after - before for before, after in zip(*sizes, strict=True)]
    # The tests of the third are code.
    assert more[2] == 0 and all(1 <= more[i] <= 5 for i in (0, 1, 3))


@pytest.mark.parametrize("words", [("--parallel", "0"), ("--timeout", "0"), ("--tests", "-3")])
def test_what_cannot_be_is_told(words, tmp_path, monkeypatch, capsys):
    name, value = words
    monkeypatch.setattr(sys, "argv", ["programs", "few.jsonl", "--out", "x", f"{name}={value}"])
    with pytest.raises(SystemExit) as ended:
        programs.main()
    assert ended.value.code == 2 and f"argument {name}" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[1, 2]", json.dumps({"test": "", "entry_point": "f"})])
def test_a_file_that_cannot_be_used_is_told(text, tmp_path):
    source = tmp_path / "few.jsonl"
    source.write_text(text)
    command = [sys.executable, "-m", "rlhf.judges.programs", str(source), "--out", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {source}")


def test_a_file_that_unpacks_to_much_is_refused_before_it_has(tmp_path, monkeypatch):
    file = tmp_path / "bomb.jsonl.gz"
    with gzip.open(file, "wb") as packed:
        packed.write(bytes(8 << 20))
    assert file.stat().st_size < 20_000
    monkeypatch.setattr(programs, "MAX_BYTES", 4 << 20)
    with pytest.raises(InputError, match="holds more than 4 MiB"):
        programs._rows(file, "solution")
    file.write_bytes(file.read_bytes()[:-100])
    monkeypatch.setattr(programs, "MAX_BYTES", 16 << 20)
    with pytest.raises(InputError, match="cannot be read as JSON lines"):
        programs._rows(file, "solution")
