"""vLLM's own engine, on the CPU, computes what was published to it.

python -m pytest tests/models/test_on_vllm.py -m "thorough or not thorough"
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import ARCHITECTURES, engines

HERE = Path(__file__).parent


# A mixture, a head without a layer of its own, and a tied one that has a layer.
ALWAYS = ("qwen3_moe", "gemma2", "qwen2")
NAMES = [name for name in ARCHITECTURES if "vllm" in engines(name)]


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
    assert found["before"] < 1e-5 and found["after"] < 1e-5
    assert found["unpublished"] > 0.1, "the change is seen"
