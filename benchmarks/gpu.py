"""What a GPU makes of Agon: updates, publishing, a run that learns.

    python benchmarks/gpu.py [--parts updates publishing learning] [--out DIR]

Each part runs in a process of its own and writes one JSON file to the folder; the ratios are what
to look at. The model is a Llama of 0.4 billion random weights, but for the part `learning`, which
trains 79 million weights from nothing on sums of several steps.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.policy import PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from actors.rollout import RolloutService, RolloutWorker
from actors.weight_sync import GpuCarrier, ObjectStoreCarrier
from rlhf.config.models import (
    DType,
    PolicyConfig,
    TinyModelConfig,
    Transport,
    VllmRolloutConfig,
    Vocabulary,
)
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, Preference, PreferenceBatch, Prompt, SidePair
from rlhf.toys.tiny import build_tiny_model

PROMPT_TOKENS, MAX_TOKENS = 64, 256
PAIRS, PAIR_PROMPT, PAIR_COMPLETION = 64, 128, 256
PEAK_FLOPS = 989e12
"""Of one H100 or H200 in dense bf16, by its data sheet."""
LEARNING = [
    "experiment=steps_whole", "placement=colocated", "rollout=vllm", "model.dtype=bfloat16",
    "model.num_layers=12", "model.width=640", "model.num_heads=10", "rollout.max_prompt_tokens=16",
    "rollout.max_completion_tokens=24", "rollout.gpu_memory_utilization=0.4",
    "objective.anchor=previous", "round.prompts=256", "algorithm.rule=all_pairs", "num_rounds=20",
    "warmup.steps=800", "warmup.learning_rate=3e-4", "policy.learning_rate=3e-5", "eval.every=10",
    "tracking=disabled",
]  # fmt: skip


def model(out: Path) -> Path:
    directory = out / "model"
    if not directory.exists():
        config = TinyModelConfig(
            num_layers=24,
            width=1024,
            num_heads=16,
            vocabulary=Vocabulary.bytes,
            dtype=DType.bfloat16,
        )
        build_tiny_model(config, directory, seed=1)
    return directory


def num_weights(directory: Path) -> int:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory).num_parameters()


def start_ray() -> None:
    ray.init("local", num_gpus=1, include_dashboard=False, log_to_driver=False)


# --- updates -------------------------------------------------------------------------------------


def batch(round: int) -> PreferenceBatch:
    def side(prompt: Prompt, sample: int) -> Completion:
        tokens = tuple((13 * sample + 7 * i + round) % 250 + 3 for i in range(PAIR_COMPLETION))
        return Completion(
            prompt.id, sample, tokens, (0.0,) * len(tokens), str(sample), False, round
        )

    asked = [
        Prompt(str(i), (), tuple((i * 37 + k) % 250 + 3 for k in range(PAIR_PROMPT)))
        for i in range(PAIRS)
    ]
    pairs = [Preference.over(p, side(p, 0), side(p, 1), 1.0, 0.0, "test@1") for p in asked]
    return PreferenceBatch(round, pairs, {"initial": [SidePair(-900.0, -900.0)] * PAIRS})


def policy(path: Path, share: float, **settings: Any) -> PolicyService:
    config = PolicyConfig(learning_rate=1e-6, **settings)
    plan = PolicyPlan(
        DType.bfloat16, config, DPOConfig(), 1, 1, num_rounds=99, seed=1, shares_gpu=share < 1
    )
    return PolicyService(start_workers(PolicyRank, Allotment("policy", 1, 1, share, 4), plan), 400)


def updates(out: Path) -> dict[str, Any]:
    """Tokens of preferences that are trained on each second, and the share of the GPU's peak."""
    start_ray()
    weights = num_weights(model(out))
    variants: dict[str, dict[str, Any]] = {
        "16k": {"micro_batch_tokens": 16384},
        "64k": {"micro_batch_tokens": 65536},
        "16k_checkpointing": {"micro_batch_tokens": 16384, "gradient_checkpointing": True},
    }

    async def measured(settings: dict[str, Any]) -> list[float]:
        service = policy(model(out), 1.0, **settings)
        await service.connect()
        await service.start(str(model(out)))
        times = []
        for round in range(6):
            start = time.perf_counter()
            await service.update(batch(round))
            times.append(time.perf_counter() - start)
        stop_workers(service.ranks)
        return times[1:]

    found: dict[str, Any] = {"num_weights": weights}
    tokens = 2 * PAIRS * (PAIR_PROMPT + PAIR_COMPLETION)
    for name, settings in variants.items():
        speed = tokens / statistics.median(asyncio.run(measured(settings)))
        found[f"update_{name}_tokens_per_s"] = speed
        found[f"update_{name}_share_of_peak"] = 6 * weights * speed / PEAK_FLOPS
    return found


# --- publishing ----------------------------------------------------------------------------------


def publishing(out: Path) -> dict[str, Any]:
    """Seconds that one publish of every weight takes, policy and rollouts on one GPU."""
    start_ray()
    found = {}

    async def measured(transport: Transport) -> list[float]:
        config = VllmRolloutConfig(
            1, PROMPT_TOKENS, MAX_TOKENS, gpu_memory_utilization=0.4, enforce_eager=True
        )
        arguments = (str(model(out)), DType.bfloat16, config, transport, 1, True)
        workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0.5, 4), *arguments)
        await wait_ready(workers, 400)
        rollout = RolloutService(workers, calls_per_worker=1024, timeout_s=300)
        service = policy(model(out), 0.5)
        await service.connect()
        await service.start(str(model(out)))
        carrier = (
            GpuCarrier(service, rollout, transport, 300)
            if transport is Transport.ipc
            else ObjectStoreCarrier(service, rollout, as_saved=True)
        )
        times: dict[str, list[float]] = {"sleep": [], "wake": [], "carry": []}
        for version in range(5):
            for name, call in (
                ("sleep", rollout.sleep),
                ("wake", rollout.wake),
                ("carry", lambda version=version: carrier.carry(version)),
            ):
                start = time.perf_counter()
                await call()
                times[name].append(time.perf_counter() - start)
        stop_workers([*workers, *service.ranks])
        return {name: statistics.median(some[1:]) for name, some in times.items()}

    for transport in (Transport.ipc, Transport.object_store):
        for name, took in asyncio.run(measured(transport)).items():
            found[f"{transport.value}_{name}_s"] = took
    return found


# --- learning ------------------------------------------------------------------------------------


def learning(out: Path) -> dict[str, Any]:
    """A model from nothing: supervised steps, then preferences, through the ordinary command."""
    directory = out / "run"
    start = time.perf_counter()
    command = [sys.executable, "-m", "rlhf", *LEARNING, f"run.dir={directory}"]
    with (out / "learning.log").open("w") as log:
        subprocess.run(command, check=True, stdout=log, stderr=log)
    took = time.perf_counter() - start
    summary = json.loads((directory / "summary.json").read_text())
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    rounds = [line for line in lines if "time/round_s" in line]
    return {
        "run_s": took,
        "eval": summary["eval"],
        "median": {
            key: statistics.median(line[key] for line in rounds if key in line)
            for key in sorted(rounds[-1])
            if key.startswith(("time/", "weights/", "rollout/tokens"))
        },
        "largest_gap": max(line["weights/logprob_gap"] for line in rounds),
    }


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "updates": updates,
    "publishing": publishing,
    "learning": learning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu"))
    parser.add_argument("--timeout-s", type=float, default=600)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out = options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        (part,) = options.parts
        found = PARTS[part](options.out)
        card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
        text = json.dumps({"card": card, "torch": torch.__version__} | found, indent=1)
        (options.out / f"{part}.json").write_text(text)
        print(text, flush=True)
        return
    for part in options.parts:
        command = [sys.executable, __file__, "--here", "--parts", part, "--out", str(options.out)]
        print(f"--- {part}", flush=True)
        try:
            code = subprocess.run(command, timeout=options.timeout_s).returncode
        except subprocess.TimeoutExpired:
            code = f"not within {options.timeout_s:g} s"
        if code:
            print(f"{part}: {code}", flush=True)


if __name__ == "__main__":
    main()
