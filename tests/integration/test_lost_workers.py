"""Workers that are killed in the middle of a run, which goes on to its end by itself."""

import time
from pathlib import Path

import pytest
from commands import SMALL, finish, kill_worker, start, untimed, weights, workers
from forked import Forked

from rlhf.storage.store import read, read_metrics

pytestmark = pytest.mark.faults
LONG = [
    *SMALL,
    "warmup.steps=200",
    "num_rounds=32",
    "run.checkpoint_every=7",
    "eval.every=20",
    # So that a round's first prompts are trained on while the rest is sampled.
    "policy.micro_batch_tokens=200",
    "rollout.max_batch_tokens=800",
]


def until(directory: Path, begun: Forked, rounds: int) -> None:
    deadline = time.monotonic() + 300
    while len(read_metrics(directory / "metrics.jsonl")) <= rounds:
        assert time.monotonic() < deadline and begun.poll() is None
        time.sleep(0.02)


def test_each_worker_that_is_killed_comes_back_and_nothing_is_lost(tmp_path):
    directory = tmp_path / "run"
    begun = start(directory, *LONG)
    killed = ["JudgeWorker", "RolloutWorker", "ReferenceWorker", "RolloutWorker"]
    for number, name in enumerate(killed):
        until(directory, begun, 5 + 6 * number)
        kill_worker(name)
    output = finish(begun)
    records = read_metrics(directory / "metrics.jsonl")
    assert [one["round"] for one in records] == [*range(-1, 32)]
    last = {name: value for name, value in records[-1].items() if "cluster/" in name}
    assert last == {
        "cluster/restarts_judge": 1.0,
        "cluster/restarts_policy": 0.0,
        "cluster/restarts_reference": 1.0,
        "cluster/restarts_rollout": 2.0,
    }
    told = [line for line in output.splitlines() if "is started anew" in line]
    assert len(told) == 4 and all(line.startswith("warning: ") for line in told)
    for record in records[1:]:
        assert record["rollout/num_prompts"] == 16 and record["staleness/mean"] == 0
        assert record["weights/logprob_gap"] < 1e-3
    table = read(directory).to_pylist()
    pairs = [
        (row["round"], row["prompt_id"], row["chosen_sample"], row["rejected_sample"])
        for row in table
    ]
    assert len(set(pairs)) == len(pairs)


RANKS = [*LONG, "policy.num_ranks=2", "policy.zero_stage=2"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("unbroken")
    finish(start(directory, *RANKS))
    return directory


def ended_alike(unbroken: Path, broken: Path) -> None:
    expected, found = weights(unbroken), weights(broken)
    assert all((found[name] == value).all() for name, value in expected.items())
    assert untimed(broken) == untimed(unbroken)
    assert read(broken).equals(read(unbroken))


def test_with_a_policy_rank_the_run_goes_back_to_its_checkpoint_and_ends_with_the_same_bits(
    tmp_path, unbroken
):
    begun = start(tmp_path, *RANKS, "run.memory_checkpoints=0")
    for rounds in (3, 18):  # before the first checkpoint, and after two
        until(tmp_path, begun, rounds)
        ranks = workers("PolicyRank")
        ranks[rounds % 2].kill()
        while len(read_metrics(tmp_path / "metrics.jsonl")) > rounds:
            assert begun.poll() is None
            time.sleep(0.02)
    output = finish(begun)
    assert "round_000014" in output
    ended_alike(unbroken, tmp_path)
    assert read_metrics(tmp_path / "metrics.jsonl")[-1]["cluster/restarts_policy"] == 2


def test_without_a_checkpoint_on_disk_it_goes_back_to_the_last_round(tmp_path, unbroken):
    begun = start(tmp_path, *RANKS, "run.checkpoint_every=0", "run.memory_checkpoints=1")
    for rounds in (3, 18):
        until(tmp_path, begun, rounds)
        workers("PolicyRank")[rounds % 2].kill()
        lowest = rounds
        while (now := len(read_metrics(tmp_path / "metrics.jsonl")) - 1) <= rounds + 5:
            assert begun.poll() is None
            lowest = min(lowest, now)
            time.sleep(0.02)
        assert lowest >= rounds - 1
    finish(begun)
    assert len(list((tmp_path / "checkpoints").glob("round_*"))) == 2  # with the last
    ended_alike(unbroken, tmp_path)
