"""Wrong input ends every command with 2 and a line of ours per problem, and with nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import forked
import pytest

ROOT = Path(__file__).parents[2]
ENV = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}


def told(directory: Path, *words: str) -> list[str]:
    """The lines on stderr."""
    process = forked.run(*words, cwd=directory, env=ENV)
    assert process.returncode == 2, process.stderr
    return process.stderr.splitlines()


def problems(directory: Path, *words: str) -> list[str]:
    lines = told(directory, *words)
    assert all(line.startswith("error: ") for line in lines), lines
    return [line.removeprefix("error: ").split(":")[0] for line in lines]


@pytest.mark.parametrize(
    "words, keys",
    [
        (["rlhf"], ["data.path", "model.path"]),
        (["rlhf", "x.jsonl"], ["x.jsonl"]),
        (["rlhf", "objective=dppo"], ["objective=dppo"]),
        (["rlhf", "experiment=demo", "num_rounds=0", "seed=-1"], ["num_rounds=0", "seed=-1"]),
        (["rlhf", "model.path=", "data.path="], ["model.path=", "data.path="]),
        (["rlhf", "experiment=demo", "objective=dpo,ipo"], ["objective=dpo,ipo"]),
        (["rlhf", "experiment=demo", "hydra.run.dir=file/x"], ["hydra.run.dir"]),
        (["rlhf", "-m", "experiment=demo", "objective=dpo,ippo"], ["objective=ippo"]),
        (["rlhf", "-m", "experiment=demo", "seed=1,2", "run.dir=ü#"], ["run.dir=ü#"]),
        (["rlhf.evaluate", "run="], ["run="]),
        (["rlhf.evaluate", "run=ü (1)", "data.path=#"], ["run={}/ü (1)"]),
        (["rlhf.reward", "model.path=m", "data.path=a#b"], ["model.path=m", "data.path=a#b"]),
        (["rlhf.reward", "kind=pair", "output="], ["data.path"]),
        (["rlhf.feedback", "path=a&b", "out=c d"], ["path=a&b"]),
        (["rlhf.feedback", "path=x", "out=o", "label=llm"], ["judge.path, judge.endpoint"]),
    ],
)
def test_wrong_input_is_told_in_lines_of_ours_alone(tmp_path, words, keys):
    (tmp_path / "file").touch()
    found = problems(tmp_path, *words)
    assert found[: len(keys)] == [key.format(tmp_path) for key in keys]


def test_a_documented_line_works_as_it_is_typed_in_a_shell(tmp_path):
    (tmp_path / "ü#.jsonl").write_text('{"prompt": "1+1=", "answer": "#### 2"}\n{"prompt": ""}\n')
    line = (
        f"{sys.executable} -m rlhf --dry-run model=tiny rollout=transformers data.path=ü#.jsonl "
        'data.answer_column=answer data.answer_marker="####"'
    )
    process = subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=ENV,
    )
    assert process.returncode == 2
    assert process.stderr.splitlines() == [
        "error: ü#.jsonl: column 'prompt' is empty; 1 rows: 2",
        "error: ü#.jsonl: column 'answer' is null or missing; 1 rows: 2",
    ]


@pytest.mark.parametrize(
    ("group", "text", "why"),
    [
        ("judge", "def f(prompt, completions, row): return 1", "returned 1, not a list of 2"),
        ("objective", "def f(pairs): return 1", "returned 1, not a tensor of a loss per pair"),
    ],
)
def test_a_function_of_one_s_own_is_tried_before_anything_starts(tmp_path, group, text, why):
    (tmp_path / "own.py").write_text(text)
    words = ["experiment=demo", f"{group}=function", f"{group}.function=own.py:f"]
    (line,) = told(tmp_path, "rlhf", "run.dir=run", *words)
    assert line.startswith(f"error: {group}.function=own.py:f: ") and why in line
