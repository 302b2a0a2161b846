"""A user's file becomes a module of its own wherever it is to run."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.functions.source import callable_with, load, read_source, reading_once
from rlhf.launching.fingerprints import fingerprints, require_same
from rlhf.problems import InputError

KEY = "judge.function"


def written(file: Path, text: str) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return f"{file}:f"


def test_two_files_of_one_name_are_two_modules(tmp_path):
    references = [
        written(tmp_path / place / "same.py", f"def f(): return {place!r}") for place in "ab"
    ]
    one, other = (load(read_source(KEY, reference)) for reference in references)
    assert (one(), other()) == ("a", "b")
    changed = load(read_source(KEY, written(tmp_path / "a" / "same.py", "def f(): return 'c'")))
    assert (one(), changed()) == ("a", "c")


def test_what_lies_beside_a_file_can_be_imported(tmp_path):
    written(tmp_path / "beside_a_reward.py", "VALUE = 7")
    reference = written(
        tmp_path / "x.py", "import beside_a_reward\ndef f(): return beside_a_reward.VALUE"
    )
    assert load(read_source(KEY, reference))() == 7


def test_a_module_of_a_package_imports_relative_to_it(tmp_path, monkeypatch):
    written(tmp_path / "some_package" / "__init__.py", "def f(): return 'package'")
    written(tmp_path / "some_package" / "inner.py", "VALUE = 3")
    written(tmp_path / "some_package" / "x.py", "from .inner import VALUE\ndef f(): return VALUE")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    source = read_source(KEY, "some_package.x:f")
    assert load(source)() == 3
    assert load(read_source(KEY, "some_package:f"))() == "package"


def test_the_text_travels_and_the_file_need_not_be_there(tmp_path):
    reference = written(tmp_path / "x.py", "def f(): return __file__")
    sent = pickle.dumps(read_source(KEY, reference))
    (tmp_path / "x.py").unlink()
    assert load(pickle.loads(sent))() == str(tmp_path / "x.py")


def test_finding_a_function_runs_nothing(tmp_path):
    reference = written(tmp_path / "x.py", "raise SystemExit(9)\ndef f(): pass")
    assert read_source(KEY, reference).name == "f"


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("rewards.py", "names no function; write rewards.py:NAME"),
        ("score", "names no function; write rewards.py:NAME"),
        ("rewards.py:a b", "names no function; write rewards.py:NAME"),
        ("absent.py:f", "there is no file absent.py"),
        ("absent_package.x:f", "there is no module absent_package.x, nor as a file; write"),
        ("math:sqrt", "there is no module math"),
    ],
)
def test_what_names_nothing_is_told(reference, told):
    with pytest.raises(InputError) as refused:
        read_source(KEY, reference)
    (problem,) = refused.value.problems
    assert problem.startswith(f"{KEY}={reference}: {told}")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:", "x.py line 1: invalid syntax"),
        ("f = '\0'", "null bytes"),
        ("import nothing_of_this_name\n", "nothing_of_this_name' (x.py line 1)"),
        ("\nraise SystemExit(3)", "SystemExit: 3 (x.py line 2)"),
        ("def g(): pass\ndef ff(): pass", "x.py has no f; did you mean ff? there is g, ff"),
        ("_a = 1", "x.py has no f; it defines nothing"),
        ("f = 3", "is a int, not a function"),
        ("def f(a): pass", "takes (a), and is called with (); write def f()"),
    ],
)
def test_what_cannot_be_called_is_told_in_one_line(tmp_path, text, told):
    reference = written(tmp_path / "x.py", text)
    with pytest.raises(InputError) as refused:
        callable_with(read_source(KEY, reference), ())
    (problem,) = refused.value.problems
    assert problem.startswith(f"{KEY}={reference}: ") and told in problem and "\n" not in problem


def test_another_text_is_another_function_and_refused_when_resumed(tmp_path):
    reference = written(tmp_path / "x.py", "def f(): return 1")
    config = {"judge": {"function": reference}, "data": {"heldout_function": reference}}
    before, version = fingerprints(config), read_source(KEY, reference).version
    assert before.keys() == {KEY, "data.heldout_function"}
    require_same(tmp_path, before, [], resumes=False)
    written(tmp_path / "x.py", "def f(): return 2")
    assert read_source(KEY, reference).version != version
    with pytest.raises(InputError, match=r"run\.allow_changed=\[judge\.function\]"):
        require_same(tmp_path, fingerprints(config), ["data.heldout_function"], resumes=True)
    require_same(tmp_path, fingerprints(config), [KEY, "data.heldout_function"], resumes=True)


def test_while_a_run_starts_a_file_is_read_once(tmp_path):
    """Checks, rehearsal, fingerprint and what workers get are of one text."""
    reference = written(tmp_path / "x.py", "def f(): return 1")
    config = {"judge": {"function": reference}}
    before, outside = fingerprints(config), read_source(KEY, reference)
    with reading_once():
        first = read_source(KEY, reference)
        written(tmp_path / "x.py", "def f(: broken while it starts")
        with reading_once():
            again = read_source("algorithm.function", reference)
        assert first == outside and again.text == first.text and load(again)() == 1
        assert fingerprints(config) == before
    written(tmp_path / "x.py", "def f(): return 2")
    assert load(read_source(KEY, reference))() == 2 and fingerprints(config) != before


def test_a_traceback_shows_the_user_s_line(tmp_path):
    reference = written(tmp_path / "x.py", "def f():\n    return 1 / 0  # here")
    code = f"from rlhf.functions.source import *\nload(read_source('k', {reference!r}))()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "return 1 / 0  # here" in done.stderr
