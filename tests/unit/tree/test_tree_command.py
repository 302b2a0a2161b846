"""`python -m rlhf.tree`: which trees are found, and what is said of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from sample_trees import collected, grown, prompt, small, write_run

from rlhf.tree import __main__ as command
from rlhf.tree.nodes import Tree
from rlhf.tree.store import TreeStore


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path)
    return tmp_path


class Shown(str):
    """What the command printed."""

    code: int
    errors: list[str]


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("COLUMNS", "120")

    def show(*arguments: object) -> Shown:
        monkeypatch.setattr(sys, "argv", ["tree", *map(str, arguments)])
        code = 0
        try:
            command.main()
        except SystemExit as exit:
            code = exit.code
        printed = capsys.readouterr()
        shown = Shown(printed.out)
        shown.code, shown.errors = int(code or 0), printed.err.splitlines()
        return shown

    return show


def row(shown: str, start: str) -> list[str]:
    """The words of the first line that begins so, tree lines and marks aside."""
    lines = (line.strip("│├└─ ▶").split() for line in shown.splitlines())
    return next(line for line in lines if line and line[0] == start)


def test_the_trees_of_a_run_are_listed_newest_first(run, show):
    shown = show(run)
    lines = [line.split() for line in shown.splitlines() if "✓ 46" in line]
    found = [(line[0], line[1]) for line in lines]
    assert found == [
        ("now", "9+9"),
        ("1", "12+34"),
        ("1", "11+22"),
        ("0", "12+34"),
        ("0", "1+2"),
    ]
    # Nodes, depth, simulations, whole answers, share right, tokens, best answer.
    assert lines[1][-8:] == ["5", "2", "12", "2", "50%", "99", "✓", "46"]
    assert "what is 11+22?" in shown and "5 of 5 trees." in shown
    assert shown.rstrip().endswith(f"python -m rlhf.tree {run} 9+9")


def test_the_list_is_short_unless_all_is_asked_for(run, show, monkeypatch):
    monkeypatch.setattr(command, "LISTED", 2)
    assert "2 of 5 trees;" in show(run)
    assert "5 of 5 trees." in show(run, "--all")
    shown = show(run, "--round", 0)
    assert "2 of 2 trees." in shown and "11+22" not in shown
    assert shown.rstrip().endswith(f"python -m rlhf.tree {run} 12+34 --round 0")
    assert "1 of 1 trees." in show(run, "--round", "unfinished")


def test_a_tree_is_shown_with_its_numbers(run, show):
    shown = show(run, "12+34")
    assert row(shown, "round") == ["round", "1"]
    assert row(shown, "answer") == ["answer", "46"]
    for fact in ("5 nodes", "12 simulations", "2 whole answers", "50% right", "99 tokens"):
        assert fact in shown.replace("\n        ", " ")
    assert "25% of 40 prompt tokens cached" in shown.replace("\n        ", " ")
    titles = next(line for line in shown.splitlines() if line.startswith("step"))
    assert titles.split() == ["step", "N", "Q", "P", "v", "judge", "drawn", "pair"]
    assert row(shown, "12+34↵") == ["12+34↵", "9", "0.75", "0.92", "–"]
    assert row(shown, "46") == ["46", "8", "1.00", "0.92", "1.00", "✓", "+1"]
    assert row(shown, "47") == ["47", "1", "−1.00", "0.92", "−1.00", "✗", "−1"]
    # What a terminal or rich would obey is shown as it is; the duplicates are counted.
    assert row(shown, r"\x1b[31m[bold]13⇥")[1:] == ["0", "−0.50", "0.92", "–", "×3"]
    assert "├─ ▶ 12+34↵" in shown and "│  ├─ ▶ 46" in shown and "│  └─   47" in shown


def test_the_pairs_that_a_tree_gave_are_shown(run, show):
    shown = show(run, "12+34", "--round", 0)
    assert row(shown, "round") == ["round", "0"]
    assert row(shown, "1") == ["1", "2.00", "0.88", "12+34↵", "46", "47"]
    assert "1 pair" in shown
    assert "pair" not in show(run, "9+9")


def test_numbers_stand_in_columns(run, show, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = show(run, "12+34")
    lines = shown.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("step"))
    ends = {line.index(".") for line in lines[first + 1 :]}
    assert len(ends) == 1 and all(len(line.rstrip()) <= 80 for line in lines)


@pytest.mark.parametrize("wanted", ["what is 1+2?", "IS  1+2", "1+2", "s 1+2"])
def test_a_prompt_is_found_by_id_or_text(run, show, wanted):
    assert row(show(run, wanted), "prompt") == ["prompt", "1+2"]


def test_options_may_stand_before_the_prompt(run, show):
    assert row(show(run, "--round", "1", "12+34"), "round") == ["round", "1"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["what is"], "'what is': is part of 4 prompts; give more of it, or an id: 9+9, 12+34"),
        (["2", "--round", "0"], "'2': is part of 2 prompts; give more of it, or an id: 12+34, 1+2"),
        (["12+43"], "is of such a prompt; near it: 12+34"),
        (["What was 12 + 34?"], "is of such a prompt; near it: 12+34"),
        (["--round", "7"], "--round 7: has no trees"),
        (["1+2", "--round", "1"], "no tree of round 1 is of such a prompt; rounds that have one"),
        (["--out", "x.png"], "name a prompt as well"),
        (["12+34", "--out", "x.gif"], "must end in .png, .svg or .pdf"),
        (["12+34", "--out", "no/where/x.svg"], "there is no directory"),
        (["12+34", "--depth", "-1"], "must be at least 0"),
        (["--round", "last"], "last: must be a number or unfinished"),
    ],
)
def test_bad_input_is_told_without_a_traceback(run, show, arguments, problem):
    shown = show(run, *arguments)
    assert shown.code == 2 and problem in shown.errors[-1] and not shown


def test_a_run_without_trees_is_told(tmp_path, show):
    assert "no such directory" in show(tmp_path / "none").errors[0]
    shown = show(tmp_path)
    assert shown.code == 2 and "no search trees" in shown.errors[0]


@pytest.mark.parametrize("name", ["round_000009.parquet", "unfinished_round.jsonl"])
def test_a_file_that_is_broken_is_told(run, show, name):
    (run / "trees" / name).write_text("not this\n")
    shown = show(run)
    assert shown.code == 2 and name in shown.errors[0] and "cannot be read" in shown.errors[0]


def test_an_unfinished_round_is_shown(run, show):
    shown = show(run, "9+9")
    assert "not over yet" in shown and row(shown, "46")[5] == "✓"


def test_a_journal_that_repeats_a_finished_round_is_passed_over(run, show):
    """A run that dies between the two files leaves its trees in both."""
    TreeStore(run, 0).add(small("11+22", seed=1))
    assert "5 of 5 trees." in show(run)


def test_a_cut_last_line_of_the_journal_is_passed_over(run, show):
    with (run / "trees" / "unfinished_round.jsonl").open("a") as file:
        file.write('{"prompt_id": "9+8", "see')
    assert "5 of 5 trees." in show(run)


def test_of_many_siblings_the_least_visited_are_left_out(tmp_path, show):
    tree = Tree.planted(prompt("wide"), 0)
    for number in range(12):
        grown(tree, tree.root, f"step-{number}", visits=number, q=0.0)
    TreeStore(tmp_path, 0).prepare(0, [collected(tree)])()
    shown = show(tmp_path, "wide")
    assert [n for n in range(12) if f"step-{n} " in shown] == [6, 7, 8, 9, 10, 11]
    assert "… 6 more" in shown and "6 left out" in shown
    assert all(f"step-{n} " in show(tmp_path, "wide", "--all") for n in range(12))


def test_what_is_deeper_is_left_out(run, show):
    shown = show(run, "12+34", "--depth", 1)
    assert "… 2 more" in shown and row(shown, "12+34↵")
    assert "… 4 more" in show(run, "12+34", "--depth", 0)


def test_a_deep_tree_fits_into_the_terminal(tmp_path, show, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tree = Tree.planted(prompt("deep"), 0)
    node = tree.root
    for _ in range(20):
        node = grown(tree, node, "a step of many words\n", 1, 0.5, on_path=True)
    TreeStore(tmp_path, 0).prepare(0, [collected(tree)])()
    lines = show(tmp_path, "deep").splitlines()
    assert sum("0.50" in line for line in lines) == 20
    assert max(len(line.rstrip()) for line in lines) <= 80


def test_a_picture_is_written(run, show):
    shown = show(run, "12+34", "--out", run / "tree.PNG")
    assert shown.split() == ["wrote", str(run / "tree.PNG")] and (run / "tree.PNG").stat().st_size
    (run / "taken.svg").mkdir()
    shown = show(run, "12+34", "--out", run / "taken.svg")
    assert shown.code == 2 and "taken.svg: cannot be written: Is a directory" in shown.errors[0]


def test_the_command_needs_neither_torch_nor_ray(run):
    """So it answers at once."""
    code = "import sys, rlhf.tree.__main__ as m; m.main(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & {"torch", "ray", "transformers", "hydra", "matplotlib"}
