"""`python -m rlhf.feedback` writes everything, or tells what is wrong and writes nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.config.data import LabelSource
from rlhf.conversations.pairs import is_heldout
from rlhf.data.preference_files import PreferenceFilesConfig, read_examples
from rlhf.feedback.__main__ import run
from rlhf.feedback.config import FeedbackConfig
from rlhf.problems import InputError
from rlhf.records import Message

ROOT = Path(__file__).parents[3]


def row(number: int, **labels):
    texts = ["q", f"bad {number}\n", "That's wrong.", f"good {number}", "Thanks!"]
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)
    ]
    if labels.get("labelled", True):
        messages[2] |= {"satisfied": False, "dissatisfied": True}
        messages[4] |= {"satisfied": number % 2 == 0, "dissatisfied": False}
    return {"id": f"c{number}", "messages": messages}


def log(tmp_path, *rows) -> str:
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def refusal(config: FeedbackConfig) -> list[str]:
    with pytest.raises(InputError) as caught:
        run(config)
    return caught.value.problems


@pytest.fixture
def made(tmp_path):
    misplaced = {"messages": [{"role": "user", "content": "q", "dissatisfied": True}]}
    path = log(tmp_path, *map(row, range(40)), misplaced)
    rest = {"path": path, "heldout_share": 0.3}
    return FeedbackConfig(out=str(tmp_path / "out"), label=LabelSource.rules, **rest)


def test_what_is_written(made, capsys):
    run(made)
    out = Path(made.out)
    train, heldout = (lines(out / f"complaints.{side}.jsonl") for side in ("train", "heldout"))
    assert len(train) + len(heldout) == 40 and heldout
    assert not any(is_heldout(line["conversation_id"], 0.3) for line in train)
    assert all(is_heldout(line["conversation_id"], 0.3) for line in heldout)
    assert {line["row"]: line["reply"] for line in train + heldout} == {
        n + 1: f"bad {n}\n" for n in range(40)
    }
    assert {(line["label_source"], line["reason"]) for line in train} == {("rules", "wrong")}
    for side, of in (("train", train), ("heldout", heldout)):
        praises = lines(out / f"praises.{side}.jsonl")
        told = [(line["conversation_id"], line["reply"], line["praise"]) for line in praises]
        ids = [line["conversation_id"] for line in of]
        assert told == [(id, f"good {id[1:]}", "Thanks!") for id in ids]
    for pairs, of in (("seed_pairs.jsonl", train), ("seed_pairs.heldout.jsonl", heldout)):
        assert [pair["id"] for pair in lines(out / pairs)] == [line["id"] for line in of]
    assert f"{made.path} row 41: a label with no reply before it" in capsys.readouterr().out


def test_the_summary(made):
    run(made)
    summary = json.loads((Path(made.out) / "summary.json").read_text())
    assert (summary["rows"], summary["label_source"]) == (41, "rules")
    conversations = summary["conversations"]
    assert (conversations["read"], conversations["kept"]) == (41, 40)
    assert conversations["dropped"] == {"label_without_reply": 1}
    assert conversations["dropped_at"] == {"label_without_reply": [f"{made.path} row 41"]}
    assert summary["turns"]["dissatisfied"] == summary["turns"]["satisfied"] == 40
    assert summary["agreement"]["dissatisfied"]["kappa"] == 1
    # Every second thanks is given as neither: p_o = 3/4, p_e = 1/2.
    satisfied = summary["agreement"]["satisfied"]
    assert (satisfied["precision"], satisfied["recall"], satisfied["kappa"]) == (0.5, 1, 0.5)
    assert sum(n for name, n in summary["written"].items() if "complaints" in name) == 40
    assert sum(n for name, n in summary["written"].items() if "praises" in name) == 40
    assert all(n == len(lines(Path(made.out) / name)) > 0 for name, n in summary["written"].items())
    assert summary["throughput"]["conversations_per_s"] > 0


def test_given_labels_are_not_compared(made):
    made.label = LabelSource.given
    run(made)
    summary = json.loads((Path(made.out) / "summary.json").read_text())
    assert summary["agreement"] is None
    for kind, num in (("complaints", 40), ("praises", 20), ("seed", 20)):
        assert sum(n for name, n in summary["written"].items() if kind in name) == num


def test_seed_pairs_train_a_reward_model(made):
    run(made)
    path = f"{made.out}/seed_pairs.jsonl"
    examples = read_examples(PreferenceFilesConfig(path=path, heldout_path=path)).train
    assert examples[0].messages == (Message("user", "q"),)
    number = lines(Path(path))[0]["row"] - 1
    assert examples[0].texts == (f"good {number}", f"bad {number}\n")


@pytest.mark.parametrize(
    "rows, told",
    [
        ([], "it has no conversations"),
        ([{"messages": []}], "all 1 conversations drop out: no_messages (1)"),
        ([row(1, labelled=False)], "has a label for the reply before it; add"),
        ([row(1), {"messages": 1}], "`messages` must be a list of messages, not 1; 1 rows: 2"),
    ],
)
def test_a_log_of_no_use_leaves_nothing_behind(tmp_path, rows, told):
    config = FeedbackConfig(path=log(tmp_path, *rows), out=str(tmp_path / "out"))
    (problem,) = refusal(config)
    assert told in problem
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_what_is_wrong_with_the_configuration(made, tmp_path):
    made.heldout_share, made.out = 1.0, str(tmp_path)
    assert refusal(made) == [
        "heldout_share=1.0: must be below 1",
        f"out={tmp_path}: there is something already; choose another, or move it away",
    ]


def test_the_command(tmp_path):
    def command(*overrides: str):
        words = [*overrides, f"hydra.run.dir={tmp_path}/hydra", "label=rules"]
        return subprocess.run(
            [sys.executable, "-m", "rlhf.feedback", *words],
            capture_output=True,
            text=True,
            timeout=120,
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "100"},
        )

    path = log(tmp_path, row(1), row(2, labelled=False))
    done = command(f"path={path}", f"out={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "conversations 2 | complaints 2" in done.stdout
    assert (tmp_path / "out" / "summary.json").exists()
    (tmp_path / "log.jsonl").write_text("oops")
    refused = command(f"path={path}", f"out={tmp_path}/again")
    assert refused.returncode == 2 and "not JSON" in refused.stderr
    assert "Traceback" not in refused.stderr and not (tmp_path / "again").exists()
