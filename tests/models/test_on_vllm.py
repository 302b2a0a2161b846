"""vLLM's own engine, on CPUs or on a GPU, computes what was published to it.

python -m pytest tests/models/test_on_vllm.py -m "thorough or not thorough"
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, engines

HERE = Path(__file__).parent


# A mixture, a head without a layer of its own, and a tied one that has a layer.
ALWAYS = ("qwen3_moe", "gemma2", "qwen2")
ON_GPU = torch.cuda.is_available()
NAMES = [name for name in ARCHITECTURES if "vllm" in engines(name, ON_GPU)]
ROUNDING = 0.05 if ON_GPU else 1e-5
"""Nats per token, of bf16 and of float32."""


def some_always(always: Collection[str]) -> list:
    return [
        pytest.param(name, marks=() if name in always else pytest.mark.thorough) for name in NAMES
    ]


@pytest.mark.parametrize("name", some_always(ALWAYS))
def test_what_was_published_is_what_runs(name: str):
    found = published(name)
    assert found["before"] < ROUNDING and found["after"] < ROUNDING
    seen = max(0.01, 5 * found["before"], 5 * found["after"])
    assert found["unpublished"] > seen, "the change is seen"
    assert found["max_num_seqs"] == 3, "rollout.engine reaches vLLM"


@pytest.mark.parametrize("name", some_always(()))
def test_an_adapter_is_computed_or_refused(name: str):
    """Llama's is, in tests/integration/test_lora.py."""
    found = published(name, "adapter")
    assert found["before"] < ROUNDING and found["after"] < ROUNDING
    assert found["unpublished"] > max(0.01, 5 * found["before"], 5 * found["after"])


def published(*arguments: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "on_vllm.py"), *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
