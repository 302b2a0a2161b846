"""What publishing costs: CPU seconds of policy and rollout worker, against a plain copy in memory.

    python benchmarks/publish.py [--json FILE] [--sizes 1 10 100 300] [--engine vllm] \\
        [--ranks 2 --zero-stage 3]

Models of random float32 weights, of so many millions, by the object store on CPUs. CPU seconds are
those of all the workers' processes, so what others do on the machine matters little; a copy's are
measured beside them. Prints a line per size and, with `--json`, writes a JSON list.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.group import Allotment, Worker, start_workers, stop_workers, wait_ready
from actors.policy import PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from actors.rollout import RolloutService, RolloutWorker
from rlhf.config.models import (
    DType,
    PolicyConfig,
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    VllmRolloutConfig,
)
from rlhf.objectives.dpo import DPOConfig
from rlhf.toys.tiny import build_tiny_model

ENGINES = {"vllm": VllmRolloutConfig, "transformers": TransformersRolloutConfig}
WIDTHS = {1: 128, 10: 320, 100: 1024, 300: 1536}
"""Of a model of so many million weights."""
REPEATS = 3
TIMEOUT_S = 600


def build(millions: int, directory: Path) -> int:
    """A Llama of about so many weights; returns how many."""
    build_tiny_model(TinyModelConfig(num_layers=1), directory, seed=1)  # for its tokenizer
    width = WIDTHS.get(millions, 1024)
    a_layer = 4 * width**2 + 3 * width * (4 * width)
    config = LlamaConfig.from_pretrained(
        directory,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=max(1, round(millions * 1e6 / a_layer)),
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        head_dim=64,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.uniform_(-0.02, 0.02)
    model.tie_weights()
    model.save_pretrained(directory)
    return sum(parameter.numel() for parameter in model.parameters())


def processes(workers: Sequence[Worker]) -> list[psutil.Process]:
    """The workers' own, and those that they have started."""
    pids = ray.get([worker.handle.__ray_call__.remote(lambda _: os.getpid()) for worker in workers])
    found = [psutil.Process(pid) for pid in pids]
    return [one for parent in found for one in (parent, *parent.children(recursive=True))]


def cpu_s(found: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in found)


def copy_cpu_s(num_bytes: int) -> float:
    """Of a copy of so many bytes into memory that is in use already."""
    source, target = (torch.ones(num_bytes, dtype=torch.uint8) for _ in range(2))
    begin = time.process_time()
    for _ in range(REPEATS):
        target.copy_(source)
    return (time.process_time() - begin) / REPEATS


async def measure(millions: int, engine: str, ranks: int, stage: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        num_weights = build(millions, Path(scratch))
        policy_config = PolicyConfig(num_ranks=ranks, zero_stage=stage)
        plan = PolicyPlan(DType.float32, policy_config, DPOConfig(), 1, 1, 1, 1)
        allotment = Allotment("policy", ranks, 1, 0, 1)
        started = start_workers(PolicyRank, allotment, plan, env={"DS_ACCELERATOR": "cpu"})
        config = ENGINES[engine](max_prompt_tokens=16, max_completion_tokens=16)
        arguments = (scratch, DType.float32, config, Transport.object_store, 1)
        workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *arguments)
        try:
            await wait_ready(workers, TIMEOUT_S)
            rollout = RolloutService(workers, calls_per_worker=1, timeout_s=TIMEOUT_S)
            policy = PolicyService(started, TIMEOUT_S)
            await policy.connect()
            await policy.start(scratch)
            both = processes([*started, *workers])
            num_bytes = await publish(policy, rollout, engine)  # the first takes memory anew
            begin_s, begin = time.monotonic(), cpu_s(both)
            for _ in range(REPEATS):
                num_bytes = await publish(policy, rollout, engine)
            spent, seconds = cpu_s(both) - begin, time.monotonic() - begin_s
        finally:
            stop_workers([*started, *workers])
    copy = copy_cpu_s(num_bytes)
    return {
        "weights": num_weights,
        "engine": engine,
        "ranks": ranks,
        "zero_stage": stage,
        "bytes": num_bytes,
        "cpu_s": round(spent / REPEATS, 3),
        "seconds": round(seconds / REPEATS, 3),
        "copy_cpu_s": round(copy, 4),
        "copies": round(spent / REPEATS / copy, 1),
    }


async def publish(policy: PolicyService, rollout: RolloutService, engine: str) -> int:
    buckets, num_bytes = await policy.put_weights(engine == "vllm")
    await rollout.each("load_weights", buckets, 1)
    return num_bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 100, 300])
    parser.add_argument("--engine", choices=sorted(ENGINES), default="transformers")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--zero-stage", type=int, default=0)
    args = parser.parse_args()
    ray.init("local", num_cpus=16, include_dashboard=False, log_to_driver=False)
    found = []
    for millions in args.sizes:
        one = asyncio.run(measure(millions, args.engine, args.ranks, args.zero_stage))
        print(json.dumps(one), flush=True)
        found.append(one)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
