"""Whole runs that learn from what users said: real actors, from the command line."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import run

from rlhf.toys.users import write_log

SMALL = [
    "experiment=users",
    "num_rounds=3",
    "round.prompts=24",
    "warmup.steps=30",
    "eval.num_prompts=24",
    "eval.every=0",
    "tracking=disabled",
    "model.num_layers=1",
    "model.width=64",
    "model.num_heads=2",
    "cluster.threads_per_worker=1",
]
LOGGED = -1


def preferences(directory: Path) -> list[dict]:
    files = sorted((directory / "preferences").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of a log of 300 conversations."""
    folder = tmp_path_factory.mktemp("feedback")
    write_log(folder / "day1.jsonl", 300, seed=1)
    arguments = [f"path={folder / 'day1.jsonl'}", f"out={folder / 'complaints'}", "label=rules"]
    feedback(folder, *arguments)
    return folder / "complaints"


def feedback(folder: Path, *arguments: str) -> None:
    from rlhf.config.data import LabelSource
    from rlhf.feedback.__main__ import run as extract
    from rlhf.feedback.config import FeedbackConfig

    given = dict(argument.split("=", 1) for argument in arguments)
    extract(FeedbackConfig(given["path"], given["out"], LabelSource(given["label"])))


def test_drift_trains_on_bare_prompts_with_the_logs_own_replies(complaints, tmp_path):
    feed = tmp_path / "feed"
    feed.mkdir()
    write_log(feed / "day2.jsonl", 12, seed=2)
    (feed / "broken.jsonl").write_text("not json\n")
    output = run(
        tmp_path / "run",
        *SMALL,
        "data=feedback",
        f"data.path={complaints}",
        f"data.feed={feed}",
        "data.label=rules",
        "data.instruction=once more:",
        "warmup.steps=0",
        "judge=none",
    )
    assert "broken.jsonl is passed over until it changes" in output
    by_id = logged_replies(complaints) | arrived(tmp_path / "run")
    rows = [row for row in preferences(tmp_path / "run") if row["round"] > 0]
    assert len(rows) == 48
    for row in rows:
        assert row["rejected"] == by_id[row["prompt_id"]]["reply"]
        assert row["prompt"] == by_id[row["prompt_id"]]["history"][-1]["content"]
        assert row["rejected_policy_version"] == LOGGED
        assert row["chosen_policy_version"] == row["round"]
        assert row["judge"] == "user"


def logged_replies(complaints: Path) -> dict[str, dict]:
    lines = (complaints / "complaints.train.jsonl").read_text().splitlines()
    return {record["id"]: record for record in map(json.loads, lines)}


def arrived(directory: Path) -> dict[str, dict]:
    """Complaints of the feed, each conversation in one round, with file and row."""
    lines = [json.loads(line) for line in (directory / "feed.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [1, 2]
    rounds: dict[str, set[int]] = {}
    found = {}
    for line in lines:
        for record in line["complaints"]:
            rounds.setdefault(record["conversation_id"], set()).add(line["round"])
            assert record["file"].endswith("day2.jsonl") and record["row"] >= 1
            found[record["id"]] = record
    assert found and all(len(numbers) == 1 for numbers in rounds.values())
    return found


@pytest.mark.parametrize(
    "algorithm, chosen, rejected",
    [("iterative_dpo", True, True), ("spin", False, True)],
)
def test_simulated_users_are_asked_before_and_after(tmp_path, algorithm, chosen, rejected):
    """`chosen`, `rejected`: whether that side is sampled afresh."""
    directory = tmp_path / "run"
    run(directory, *SMALL, f"algorithm={algorithm}", "num_rounds=2", "data.num_heldout=24",
        "data.num_conversations=500")  # fmt: skip
    summary = json.loads((directory / "summary.json").read_text())
    for when in ("before", "after"):
        assert 0 <= summary["eval"][when]["satisfied_rate"] <= summary["eval"][when]["best_of_n"]
    seeds, last = [json.loads(line) for line in (directory / "metrics.jsonl").open()][1:]
    assert "rollout/num_completions" in seeds and seeds["rollout/num_completions"] == 0
    assert last["rollout/num_completions"] == 24 * (chosen + rejected)
    diagnostics = {"policy/grad_norm", "policy/dpo_weight", "policy/rejected_logprob"}
    assert diagnostics | {"preference/similarity"} <= last.keys()
    assert seeds["policy/num_steps"] % 3 == 0, "three epochs of the log's own pairs"
    rows = [row for row in preferences(directory) if row["round"] == 1]
    for row in rows:
        assert (row["chosen_policy_version"] == 1) is chosen
        assert (row["rejected_policy_version"] == 1) is rejected
