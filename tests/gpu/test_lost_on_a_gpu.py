"""Workers that share a GPU, killed within a run: they come back beside those that live."""

from pathlib import Path

import pytest
from commands import SMALL

from rlhf.chaos.settings import Moment
from rlhf.chaos.striking import Broken, Failure
from rlhf.storage.store import read_metrics

pytestmark = [pytest.mark.gpu(1), pytest.mark.timeout(600)]

ROUNDS = 60
SETTINGS = [
    *SMALL,
    f"num_rounds={ROUNDS}",
    "rollout=vllm",
    "model.dtype=bfloat16",
    "placement=colocated",
    "objective.anchor=previous",
    "rollout.gpu_memory_utilization=0.3",
    "rollout.enforce_eager=true",
    "cluster.start_timeout_s=200",
    "run.checkpoint_every=30",
    "run.memory_checkpoints=0.2",
]


def test_workers_that_share_a_gpu_come_back(tmp_path: Path):
    """A rollout worker whose policy holds the same GPU, then that policy, from a checkpoint in
    memory, then again the worker while weights are published."""
    planned = [
        Failure(0.0, "kill", "rollout", rounds=5),
        Failure(0.0, "kill", "policy", rounds=20),
        Failure(0.0, "kill", "rollout", at=Moment.publishing, rounds=40),
    ]
    directory = tmp_path / "run"
    ended = Broken(SETTINGS, directory, planned, limit_s=400).through()
    log = directory.with_name("run.log").read_text()
    assert ended.code == 0, log
    for one in ended.struck:
        print(f"{one.role}: going again after {one.back_s}, repeated {one.repeated}")
    assert all(one.back_s is not None for one in ended.struck) and len(ended.struck) == 3
    assert ended.struck[1].repeated < 20  # nothing is on disk before round 30
    assert ended.left == []
    records = read_metrics(directory / "metrics.jsonl")[1:]
    assert [record["round"] for record in records] == list(range(ROUNDS))
    assert all(record["weights/logprob_gap"] < 0.1 for record in records)
