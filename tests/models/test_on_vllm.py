"""vLLM's own engine, on CPUs or on a GPU, computes what was published to it.

python -m pytest tests/models/test_on_vllm.py -m "thorough or not thorough"
"""

import json
import os
import subprocess
import sys
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


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.thorough) for name in NAMES],
)
def test_what_was_published_is_what_runs(name: str):
    done = subprocess.run(
        [sys.executable, str(HERE / "on_vllm.py"), name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] < ROUNDING and found["after"] < ROUNDING
    seen = max(0.01, 5 * found["before"], 5 * found["after"])
    assert found["unpublished"] > seen, "the change is seen"
