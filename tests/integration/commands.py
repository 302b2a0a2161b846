"""Starting runs as people do: from the command line."""

import os
import subprocess
import sys
from pathlib import Path

SMALL = [
    "experiment=demo",
    "num_rounds=4",
    "round.prompts=16",
    "warmup.steps=40",
    "eval.num_prompts=32",
    "eval.every=0",
    "tracking=disabled",
    "model.num_layers=1",
    "model.width=64",
    "model.num_heads=2",
]


def start(directory: Path, *overrides: str, module: str = "rlhf") -> subprocess.Popen:
    return _start(directory, module, *overrides, f"run.dir={directory}")


def start_sweep(directory: Path, *overrides: str) -> subprocess.Popen:
    return _start(directory, "rlhf", "-m", *overrides, f"hydra.sweep.dir={directory}")


def _start(directory: Path, module: str, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", module, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=directory.parent,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])},
    )


def finish(process: subprocess.Popen, code: int = 0, timeout_s: float = 400) -> str:
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()  # with it go its Ray and its workers
        output, _ = process.communicate(timeout=30)
        raise AssertionError(f"not within {timeout_s} s:\n{output}") from None
    assert process.returncode == code, output
    return output


def run(directory: Path, *overrides: str, code: int = 0) -> str:
    return finish(start(directory, *overrides), code)
