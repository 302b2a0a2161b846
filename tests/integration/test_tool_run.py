"""A whole run whose policy calls a calculator: real actors, from the command line."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from commands import run
from transformers import AutoTokenizer

from rlhf.records import Completion, Message, Prompt
from rlhf.storage.store import read, read_metrics
from rlhf.tree.nodes import Tree
from rlhf.tree.store import SCHEMA, round_files

NARROW = [
    "model.num_layers=2",
    "model.width=64",
    "model.num_heads=2",
    "cluster.threads_per_worker=1",
]
"""Enough to learn to call, in a third of the time."""

SMALL = [
    "experiment=calculator",
    "num_rounds=2",
    "round.prompts=16",
    "warmup.steps=150",
    "warmup.batch_size=24",
    "eval.num_prompts=16",
    "eval.every=0",
    "tracking=disabled",
    *NARROW,
]

IN_STEPS = [
    "experiment=steps",
    "tools=calculator",
    "data.calculator=true",
    'model.words=["<<",">>"]',
    "num_rounds=2",
    "round.prompts=8",
    "algorithm.num_root_simulations=4",
    "algorithm.num_simulations=2",
    "rollout.max_completion_tokens=32",
    "warmup.steps=150",
    "warmup.batch_size=24",
    "eval.num_prompts=16",
    "eval.every=0",
    "tracking=disabled",
    *NARROW,
]


def results(text: str) -> list[tuple[str, str]]:
    """Every call in a text, and what was answered; the policy may write `<<1+2>>` too, a call that
    it has not made."""
    calls = (part.partition(">>")[0] for part in text.split("<<")[1:] if ">>" in part)
    return [(call.partition("=")[0], call.partition("=")[2]) for call in calls if "=" in call]


@pytest.fixture(scope="module")
def by_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the previous policy as its anchor: M-DPO."""
    directory = tmp_path_factory.mktemp("calculator") / "run"
    run(directory, *SMALL, "objective=dpo", "objective.anchor=previous")
    return directory


@pytest.fixture
def by_answers(by_pairs: Path, tmp_path: Path) -> Path:
    """M-KTO, which begins where the other began, and need not learn that once more."""
    begun = [f"model.path={by_pairs / 'initial_policy'}", "warmup.steps=0"]
    run(tmp_path / "run", *SMALL, *begun, "objective=kto", "objective.anchor=previous")
    return tmp_path / "run"


@pytest.mark.parametrize("trained", ["by_pairs", "by_answers"])
def test_calls_are_answered_and_the_policys_own_words_are_trained_on(
    trained: str, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(trained)
    rows = read(directory).to_pylist()
    texts = [row[side] for row in rows for side in ("chosen", "rejected") if row[side]]
    answered = [one for text in texts for one in results(text)]
    assert_right(answered, end="")
    for record in read_metrics(directory / "metrics.jsonl")[1:]:
        assert record["weights/logprob_gap"] < 1e-3
        assert record["policy/anchor_gap"] < 1e-4, "both see the same tokens"


def test_a_search_answers_the_calls_of_its_steps(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    run(directory, *IN_STEPS)
    tables = [pq.read_table(file, schema=SCHEMA) for file in round_files(directory)]
    rows = [row for table in tables for row in table.to_pylist()]
    trees = [Tree.from_record(row, Prompt("", (Message("user", ""),), (0,))) for row in rows]
    assert len(trees) == 16
    tokenizer = AutoTokenizer.from_pretrained(directory / "model")
    written = [one for tree in trees for node in tree.nodes[1:]
               for one in observed(tree.answer(node), tokenizer)]  # fmt: skip
    assert_right(written, end=">>")
    steps = [node.step for tree in trees for node in tree.nodes[1:] if node.step]
    assert any(step.observed and step.stopped for step in steps), "a step goes on after a call"
    records = read_metrics(directory / "metrics.jsonl")[1:]
    assert sum(record["preference/count"] for record in records)
    for record in records:
        assert record["weights/logprob_gap"] < 1e-3
        of_round = [row["num_tokens"] for row in rows if row["round"] == record["round"]]
        assert record["rollout/num_tokens"] == sum(of_round)


def observed(answer: Completion, tokenizer) -> list[tuple[str, str]]:
    """What a tool wrote and was not cut, each with the call before it."""
    found = []
    for start, end in answer.observed:
        if answer.truncated and end == len(answer.token_ids):
            continue
        assert all(nats == 0 for nats in answer.logprobs[start:end])
        before, closes, rest = tokenizer.decode(answer.token_ids[:start]).rpartition("=")
        assert closes and not rest
        found.append((before.rpartition("<<")[2], tokenizer.decode(answer.token_ids[start:end])))
    return found


def assert_right(answered: list[tuple[str, str]], end: str) -> None:
    """Every call for a plain sum; a policy that has learnt little calls for other things too."""
    sums = [(call, said) for call, said in answered if re.fullmatch(r"[1-9]\d*(\+[1-9]\d*)*", call)]
    assert sums
    for call, said in sums:
        assert said == f"{sum(map(int, call.split('+')))}{end}", call
