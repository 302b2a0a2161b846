"""vLLM's own engine, on CPUs or on a GPU, computes what was published to it.

python -m pytest tests/models/test_on_vllm.py -m "thorough or not thorough"
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
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


class Engines:
    """A process that has imported vLLM, which starts one engine after another; pytest's own time
    limit is its."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: subprocess.Popen[str] | None = None

    def published(self, *words: str) -> dict[str, float]:
        """A process that has failed is followed by another."""
        process = self._process = self._process or self._start()
        assert process.stdin is not None and process.stdout is not None
        print(*words, file=process.stdin, flush=True)
        for line in process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self._process = None
        raise AssertionError(f"code {process.wait(60)}: {self._log.read_text()[-2000:]}")

    def _start(self) -> subprocess.Popen[str]:
        with self._log.open("w") as log:
            return subprocess.Popen(
                [sys.executable, str(HERE / "on_vllm.py")],
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), *sys.path])},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()  # it has nothing to keep, and its engines have ended
            self._process.wait(60)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    made = Engines(tmp_path_factory.mktemp("engines") / "log")
    yield made
    made.end()


@pytest.mark.parametrize("name", some_always(ALWAYS))
def test_what_was_published_is_what_runs(engines: Engines, name: str):
    found = engines.published(name)
    assert found["before"] < ROUNDING and found["after"] < ROUNDING
    seen = max(0.01, 5 * found["before"], 5 * found["after"])
    assert found["unpublished"] > seen, "the change is seen"
    assert found["max_num_seqs"] == 100, "rollout.engine reaches vLLM"
    assert found["max_num_batched_tokens"] >= 4096, "as in its own batches; a server has 2048"


@pytest.mark.parametrize("name", some_always(()))
def test_an_adapter_is_computed_or_refused(engines: Engines, name: str):
    """Llama's is, in tests/integration/test_lora.py."""
    found = engines.published(name, "adapter")
    assert found["before"] < ROUNDING and found["after"] < ROUNDING
    assert found["unpublished"] > max(0.01, 5 * found["before"], 5 * found["after"])
