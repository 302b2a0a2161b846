"""vLLM's own engine, on the CPU, computes what was published to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import ON_VLLM

HERE = Path(__file__).parent


@pytest.mark.parametrize("name", [name for name in ON_VLLM if name != "llama"])
def test_a_mixture_of_experts_runs_what_was_published(name: str):
    done = subprocess.run(
        [sys.executable, str(HERE / "on_vllm.py"), name],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["before"] < 1e-4 and found["after"] < 1e-4
