"""Whole runs: weights from GPU to GPU, and vLLM asleep while the policy trains.

    python -m pytest tests/gpu

Needs one GPU for the colocated runs and three for the others.
"""

from pathlib import Path

import pytest
from commands import SMALL, run

from rlhf.storage.store import read_metrics

pytestmark = pytest.mark.timeout(1200)

COLOCATED = ["placement=colocated", "rollout.gpu_memory_utilization=0.4"]
APART = ["placement=disaggregated"]
EAGER = "rollout.enforce_eager=true"


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            [*COLOCATED, "objective.anchor=previous"],
            marks=pytest.mark.gpu(1), id="colocated",
        ),
        pytest.param(
            [*COLOCATED, EAGER, "policy.lora_rank=8", "policy.zero_stage=3"],
            marks=pytest.mark.gpu(1), id="colocated-lora-zero3",
        ),
        pytest.param(
            [*COLOCATED, EAGER, "objective.anchor=previous", "weights.transport=object_store"],
            marks=pytest.mark.gpu(1), id="colocated-object-store",
        ),
        pytest.param(APART, marks=pytest.mark.gpu(3), id="disaggregated-nccl"),
        pytest.param(
            [*APART, "rollout.tensor_parallel=2", "objective.anchor=previous"],
            marks=pytest.mark.gpu(3), id="tensor-parallel-nccl",
        ),
    ],
)  # fmt: skip
def test_rollouts_run_what_was_trained(tmp_path: Path, overrides: list[str]):
    run(tmp_path / "run", *SMALL, "rollout=vllm", "model.dtype=bfloat16", *overrides)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert all(record["weights/logprob_gap"] < 0.1 for record in records)
