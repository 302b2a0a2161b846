"""Whole runs by tree search: real actors, from the command line."""

import json
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import run, start
from letter_models import write_letter_model

from rlhf.storage.store import read, read_metrics
from rlhf.tree.store import SCHEMA, round_files

SMALL = [
    "experiment=steps",
    "num_rounds=2",
    "round.prompts=8",
    "warmup.steps=40",
    "warmup.batch_size=48",
    "eval.num_prompts=16",
    "eval.every=0",
    "tracking=disabled",
    "model.num_layers=1",
    "model.width=64",
    "model.num_heads=2",
    "cluster.threads_per_worker=1",
]


def trees(directory: Path) -> list[dict]:
    return [
        row for f in round_files(directory) for row in pq.read_table(f, schema=SCHEMA).to_pylist()
    ]


def test_a_search_leaves_its_trees_its_pairs_and_their_numbers(tmp_path):
    run(tmp_path / "run", *SMALL)
    found = trees(tmp_path / "run")
    assert len(found) == 16
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    for record in records:
        assert record["tree/num_simulations"] >= 16
        assert record["tree/size"] > 1
        of_round = [tree for tree in found if tree["round"] == record["round"]]
        assert record["rollout/num_tokens"] == sum(tree["num_tokens"] for tree in of_round)
        assert record["preference/count"] == len(
            [r for r in read(tmp_path / "run").to_pylist()
             if r["round"] == record["round"] and r["dropped"] is None]
        )  # fmt: skip
    for tree in found:
        root, *nodes = tree["nodes"]
        assert root["visits"] == tree["num_simulations"]
        assert all(node["step"]["policy_version"] == tree["round"] for node in nodes)
        stopped = [node["step"]["text"] for node in nodes if node["step"]["stopped"]]
        assert all(text.endswith("\n") for text in stopped)
        assert all(node["score"] is not None for node in nodes if node["ended"])


def test_a_run_that_is_killed_in_mid_search_loses_no_finished_tree_and_repeats_none(tmp_path):
    settings = [*SMALL, "round.prompts=48", "round.concurrency=4", "warmup.steps=0", "num_rounds=1"]
    directory = tmp_path / "run"
    killed = start(directory, *settings)
    journal = directory / "trees" / "unfinished_round.jsonl"
    deadline = time.monotonic() + 300
    while not journal.exists() or journal.read_text().count("\n") < 10:
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    *lines, _ = journal.read_text().split("\n")
    finished = [json.loads(line) for line in lines]
    assert 10 <= len(finished) < 48
    # A mark that a search would not make: a tree that has it was not searched again.
    for record in finished:
        record["judge"] = "marked"
    journal.write_text("".join(json.dumps(record) + "\n" for record in finished) + '{"half a li')
    run(directory, *settings)
    found = trees(directory)
    assert len({tree["prompt_id"] for tree in found}) == len(found) == 48
    marked = {tree["prompt_id"] for tree in found if tree["judge"] == "marked"}
    assert marked == {record["prompt_id"] for record in finished}
    assert journal.read_text() == ""


def test_a_trees_answers_become_a_ranked_list(tmp_path):
    run(tmp_path / "run", *SMALL, "algorithm=tpo")
    pairs = [row for row in read(tmp_path / "run").to_pylist() if row["dropped"] is None]
    assert pairs
    for pair in pairs:
        assert 0 <= pair["rejected_score"] < pair["chosen_score"] <= 1
        assert pair["prefix"] == "", "whole answers"
    worths = {(p["prompt_id"], p["round"], p["chosen"]): p["chosen_score"] for p in pairs}
    for pair in pairs:
        same = worths.get((pair["prompt_id"], pair["round"], pair["rejected"]))
        assert same in (None, pair["rejected_score"]), "an answer has one worth in all of its pairs"
    for record in read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]:
        assert record["policy/loss"] > 0 and record["policy/grad_norm"] > 0


def test_fragments_of_calls_are_searched_for_what_is_hardest(tmp_path):
    overrides = [one for one in SMALL if not one.startswith("experiment")]
    run(tmp_path / "run", "experiment=itool", *overrides)
    found = trees(tmp_path / "run")
    assert len(found) == 16
    steps = [node["step"] for tree in found for node in tree["nodes"][1:]]
    ends = {step["text"][-1] for step in steps if step["stopped"] and not step["observed"]}
    assert ends and ends <= {"+", "=", "\n"}
    (first, *_) = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert first["preference/count"] > 0


@pytest.fixture(scope="module")
def some_of_gsm8k(gsm8k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first rows of each part, as another test reads all of them."""
    folder = tmp_path_factory.mktemp("gsm8k")
    for part in ("train.jsonl", "test.jsonl"):
        rows = (gsm8k / part).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / part).write_text("".join(rows[:500]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("search", ["mcts", "tree_plv", "tpo"])
def test_gsm8k_goes_through(tmp_path, some_of_gsm8k, byte_model, search):
    data = some_of_gsm8k
    common = [
        "data=gsm8k", f"data.path={data}/train.jsonl", f"data.heldout_path={data}/test.jsonl",
        f"model.path={byte_model}", "model.dtype=float32", "rollout=transformers",
        "judge.check=math",
        "rollout.max_prompt_tokens=1024", "rollout.max_completion_tokens=24",
        "eval.num_prompts=4", "num_rounds=1", "round.prompts=4", "tracking=disabled",
        "algorithm.step_tokens=8",
        f"algorithm={search}",
    ]  # fmt: skip
    run(tmp_path / "run", *common)
    found = trees(tmp_path / "run")
    assert len(found) == 4
    answers = [node for tree in found for node in tree["nodes"] if node["ended"]]
    assert answers and {node["score"] for node in answers} == {0.0}, "a random model is never right"
    assert all(tree["answer"] for tree in found)


def test_a_policy_that_judges_its_own_steps_is_asked_by_the_workers_that_sample(
    byte_model, tmp_path
):
    model = write_letter_model(byte_model, tmp_path / "model")
    overrides = [
        "algorithm.value=self_evaluation", f"model.path={model}", "num_rounds=1", "warmup.steps=0",
        "rollout.max_prompt_tokens=1024", "algorithm.num_root_simulations=2",
        "algorithm.num_simulations=1",
    ]  # fmt: skip
    run(tmp_path / "run", *SMALL, *overrides)
    nodes = [node for tree in trees(tmp_path / "run") for node in tree["nodes"][1:]]
    assert nodes and all(0 <= node["confidence"] <= 1 for node in nodes)
    assert len({round(node["confidence"], 6) for node in nodes}) > 8, "the answer is read"
    (record,) = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    confidences = [node["confidence"] for node in nodes]
    assert record["tree/confidence_mean"] == pytest.approx(sum(confidences) / len(confidences))
    assert record["tree/evaluation_failed_rate"] == 0


def test_the_likelier_of_two_letters_that_it_hardly_ever_says_is_no_opinion(tmp_path):
    overrides = [
        "algorithm.value=self_evaluation", "model.vocabulary=bytes", "num_rounds=1",
        "rollout.max_prompt_tokens=1024", "algorithm.num_root_simulations=2",
        "algorithm.num_simulations=1",
    ]  # fmt: skip
    output = run(tmp_path / "run", *SMALL, *overrides)
    nodes = [node for tree in trees(tmp_path / "run") for node in tree["nodes"][1:]]
    assert nodes and all(node["confidence"] is None for node in nodes)
    (record,) = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert record["tree/evaluation_failed_rate"] == 1
    assert "answers with A or B with a probability of only" in output


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algorithm.truncated=drop"], "algorithm.truncated=drop"),
        (["algorithm.stop=[]"], "algorithm.stop=[]"),
        (["algorithm.value=judge"], "set judge=reward_model"),
        (["algorithm.value=self_evaluation"], "'A' is not one token"),
        (["algorithm.search=best_first", "algorithm.value=self_evaluation"], "look-aheads alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_before_anything_starts(tmp_path, overrides, message):
    output = run(tmp_path / "run", *SMALL, *overrides, code=2)
    assert message in output, output
    assert "Traceback" not in output and "starting workers" not in output
