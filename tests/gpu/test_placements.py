"""What only GPUs can show: weights from GPU to GPU, and vLLM asleep while the policy trains.

    python -m pytest tests/gpu

Needs one GPU for the colocated run and three for the others; skipped where there are fewer.
"""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "integration"))
from commands import SMALL, run

from rlhf.store import read_metrics

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(1200)]


def needs(num_gpus: int) -> pytest.MarkDecorator:
    found = torch.cuda.device_count()
    reason = f"needs {num_gpus} GPUs, and {found} are here"
    return pytest.mark.skipif(found < num_gpus, reason=reason)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(
            ["placement=colocated", "objective.anchor=previous",
             "rollout.gpu_memory_utilization=0.4"],
            marks=needs(1), id="colocated-ipc",
        ),
        pytest.param(["placement=disaggregated"], marks=needs(3), id="disaggregated-nccl"),
        pytest.param(
            ["placement=disaggregated", "rollout.tensor_parallel=2", "objective.anchor=previous"],
            marks=needs(3), id="tensor-parallel-nccl",
        ),
    ],
)  # fmt: skip
def test_rollouts_run_what_was_trained(tmp_path: Path, overrides: list[str]):
    run(tmp_path / "run", *SMALL, "rollout=vllm", "model.dtype=bfloat16", *overrides)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")[1:]
    assert [record["round"] for record in records] == [0, 1, 2, 3]
    assert all(record["weights/logprob_gap"] < 0.1 for record in records)
