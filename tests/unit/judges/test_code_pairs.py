"""Pairs of programs from commits and revisions, and a judge that sees no comments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from reward_command import QUICK, group, record

from rlhf.judges.pair_model import PairModelConfig
from rlhf.judges.programs import code_pairs
from rlhf.judges.programs.answers import with_bare_programs, without_comments
from rlhf.judges.programs.code_pairs import functions

BEFORE = """
class A:
    def f(self, x):
        return x  # once

    def g(self): return 1
def h(x):
    '''Old words.'''
    return x
"""
AFTER = """
class A:
    def f(self, x):
        return 2 * x  # twice

    def g(self):
        # Only a comment.
        return 1
def h(x):
    '''New words.'''
    return x
def new(): pass
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch, capsys):
    """The command; gives its exit code, what it wrote, and what it told."""

    def one(*words: str) -> tuple[int, list[dict], str]:
        out = tmp_path / "out.jsonl"
        monkeypatch.setattr(sys, "argv", ["code_pairs", *words, "--out", str(out)])
        code = 0
        try:
            code_pairs.main()
        except SystemExit as stop:
            assert isinstance(stop.code, int)
            code = stop.code
        rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        told = capsys.readouterr()
        return code, rows, told.out + told.err

    return one


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()

    def git(*words: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)

    git("init", "-q")
    for text, message in ((BEFORE, "Begin"), (AFTER, "Fix f"), ("x = (", "Break all")):
        (folder / "ü m.py").write_text(text)
        git("add", ".")
        git("commit", "-qm", message)
    return folder


def test_a_commit_s_changed_functions_are_pairs_and_its_comments_are_none(run, repository):
    code, rows, told = run(str(repository), "--criterion", "Is it right?")
    assert code == 0 and "1 pairs in " in told
    (row,) = rows
    assert row["chosen"] == "def f(self, x):\n    return 2 * x"
    assert row["rejected"] == "def f(self, x):\n    return x"
    assert row["prompt"] == "Fix f\n\nThe function A.f of ü m.py:"
    assert (row["criterion"], row["source"], len(row["commit"])) == ("Is it right?", "commits", 40)
    assert run(str(repository), "--message", "begin|break")[0] == 2


def test_revisions_whose_program_was_changed_are_pairs(run, tmp_path):
    rows = [
        {"prompt": "Add.", "draft": "def f(x): return x", "revision": "No:\n```python\n"
         "def f(x):\n    # Adds.\n    return x + 1\n```", "criterion": "Is it fast?"},
        {"prompt": "Add.", "draft": "f = 1 # a", "revision": "f = 1 # b"},
        {"prompt": "Add.", "draft": "I cannot.", "revision": "f = 1"},
    ]  # fmt: skip
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, found, _ = run(str(file))
    assert code == 0
    assert found == [
        {
            "prompt": "Add.",
            "chosen": "def f(x):\n    return x + 1",
            "rejected": "def f(x):\n    return x",
            "source": "revisions",
            "criterion": "Is it fast?",
        }
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        ("{", "line 1 is no JSON with texts prompt, draft, revision"),
        ('{"prompt": "?", "draft": "x"}', "line 1 is no JSON with texts"),
        ('{"prompt": "?", "draft": 1, "revision": "x"}', "line 1 is no JSON with texts"),
        ('{"prompt": "?", "draft": "x", "revision": "x # y"}', "has no function that was changed"),
    ],
)
def test_what_cannot_be_read_is_told(run, tmp_path, content, told):
    file = tmp_path / "r.jsonl"
    if content is not None:
        file.write_text(content)
    code, _, error = run(str(file))
    assert code == 2 and error.startswith(f"error: {file}: ") and told in error


def test_what_is_no_repository_is_told_by_git(run, tmp_path):
    code, _, error = run(str(tmp_path))
    assert code == 2 and error.startswith(f"error: {tmp_path}: git says: ")


def test_functions_without_comments():
    assert functions(BEFORE)["h"] == functions(AFTER)["h"] == "def h(x):\n    return x"
    assert functions("def f():\n    'Words alone.'")["f"] == "def f():\n    pass"
    assert functions("x = (") == {} and without_comments("x = (") is None
    fenced = "Yes:\n```python\nx = 1  # one\n```\nand\n```\n# two\n```\n"
    assert with_bare_programs(fenced) == "Yes:\n```python\nx = 1\n```\nand\n```\n# two\n```\n"
    assert with_bare_programs("in words") == "in words"


def test_a_judge_of_code_learns_from_them_and_no_comment_moves_it(command, run, tmp_path):
    rows = [{"prompt": "?", "draft": "b", "revision": "a"}]
    (tmp_path / "r.jsonl").write_text(json.dumps(rows[0]))
    assert run(str(tmp_path / "r.jsonl"), "--criterion", "Is it right?")[0] == 0
    path = tmp_path / "out.jsonl"
    (tmp_path / "out.jsonl").rename(tmp_path / "pairs.jsonl")
    path = tmp_path / "pairs.jsonl"
    columns = ("data.criterion_column=criterion", "data.source_column=source")
    files = (f"data.path={path}", f"data.heldout_path={path}", *columns)
    assert command("kind=pair", *QUICK, *files)[0] == 0
    assert record(tmp_path)["heldout"]["after"]["accuracy_revisions"] == 1
    about = {"criterion": "Is it right?", "strip_comments": True}
    judge = PairModelConfig(path=str(tmp_path / "out"), **about).build()
    bare, commented = judge.judge([group("?", "a", "b"), group("?", "a # It is b!", "# a\nb")])
    assert bare.win_prob == commented.win_prob
    assert bare.win_prob[0][1] > 0.5 and bare.win_prob[0][1] + bare.win_prob[1][0] == 1
    with_all = PairModelConfig(path=str(tmp_path / "out"), criterion="Is it right?").build()
    (moved,) = with_all.judge([group("?", "a # It is b!", "# a\nb")])
    assert moved.win_prob != bare.win_prob
