"""How much of a round is hidden: its time over that of its slower half.

`python benchmarks/overlap.py [--json FILE] [--rounds N] [--rollout ENGINE] [OVERRIDE ...]`. One
recipe is run twice from the same weights, with `round.overlap=false` and with `true`, on the same
machine, one after the other. Without it collecting, asking anchors and training take turns, and
their times say what either half takes; with it a round should take no longer than the slower half.
The weights after the last round must be the same, bit for bit.

The recipe: a Llama of width 256 and four layers, which nobody has trained, so that its answers end
anywhere; 160 prompts x 8 completions of at most 48 tokens a round, of which 64 are sampled at a
time, by vLLM as soon as one before has ended, by `--rollout transformers` batch after batch; the
longest against the shortest of each prompt, all pairs in one optimizer step. Further overrides are
the run's.
"""

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rlhf.config.models import TinyModelConfig
from rlhf.toys.tiny import build_tiny_model

WARM_ROUNDS = 2
RECIPE = [
    "experiment=demo", "algorithm=online_dpo", "algorithm.rule=best_worst",
    "algorithm.truncated=keep", "judge=text", "eval.every=0", "eval.num_prompts=8",
    "tracking=disabled", "warmup.steps=0", "round.prompts=160", "rollout.max_completion_tokens=48",
    "policy.batch_size=100000", "policy.micro_batch_tokens=600", "policy.schedule=constant",
    "policy.learning_rate=1e-6",
]  # fmt: skip
ROLLOUT = {
    "vllm": ["rollout=vllm", "+rollout.engine.max_num_seqs=64"],
    "transformers": ["rollout=transformers", "rollout.max_batch_tokens=4096"],
}


def train(directory: Path, *overrides: str) -> list[dict]:
    """The lines of the rounds that count: without the first ones, and the last, which evaluates."""
    command = [sys.executable, "-m", "rlhf", *RECIPE, *overrides, f"run.dir={directory}"]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr[-2000:])
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["round"] >= WARM_ROUNDS][:-1]


def seconds(lines: Sequence[dict], *stages: str) -> float:
    """Median over rounds of some stages' time together."""
    return median(sum(line[f"time/{stage}_s"] for stage in stages) for line in lines)


def weights(directory: Path) -> str:
    files = sorted((directory / "policy").glob("*.safetensors"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--rollout", choices=ROLLOUT, default="vllm")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "model"
        build_tiny_model(TinyModelConfig(num_layers=4, width=256, num_heads=4), model, seed=1)
        begin = [
            *ROLLOUT[given.rollout], "model=hf", f"model.path={model}", "model.dtype=float32",
            "model.rendering=plain", f"num_rounds={given.rounds}", *given.overrides,
        ]  # fmt: skip
        apart, together = Path(scratch) / "apart", Path(scratch) / "together"
        turns = train(apart, *begin, "round.overlap=false")
        overlapped = train(together, *begin, "round.overlap=true")
        equal = weights(apart) == weights(together)
    halves = {
        "collect": seconds(turns, "collect"),
        "anchors and update": seconds(turns, "anchor", "update"),
    }
    stages = ("collect", "anchor", "update")
    found = {
        **halves,
        "one after another": seconds(turns, *stages),
        "overlapped": seconds(overlapped, *stages),
        "whole round, one after another": seconds(turns, "round"),
        "whole round, overlapped": seconds(overlapped, "round"),
    }
    found["over the slower half"] = found["overlapped"] / max(halves.values())
    for name, value in found.items():
        print(f"{name:34}{value:10.3f}")
    print(f"weights {'equal bit for bit' if equal else 'DIFFER'}")
    if given.json:
        given.json.write_text(json.dumps({**found, "weights_equal": equal}, indent=2))
    if not equal:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
