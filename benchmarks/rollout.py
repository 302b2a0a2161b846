"""vLLM through a rollout worker against vLLM alone: tokens a second, and CPU seconds a token.

    python benchmarks/rollout.py [--json FILE] [--prompts 128] [--samples 8] [--longest 128]

Both draw the same completions from the same engine with the same arguments: seeded, with
log-probabilities, each prompt with a limit of its own, so that they end at different times. Alone,
vLLM gets all prompts at once as its own offline batch; through Agon they come by the queue in front
of the worker, and completions go back by Ray. Each runs in processes of its own, several times;
figures are medians. CPU seconds are those of all its processes, so that what others do on the
machine matters little.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROMPT_TOKENS, REPEATS, TIMEOUT_S = 32, 3, 600


def prompts(options: argparse.Namespace) -> list[tuple[int, ...]]:
    """Different from the first token on, so that no prefix is shared."""
    return [
        tuple((i * 37 + k * (i % 11 + 1)) % 250 + 3 for k in range(PROMPT_TOKENS))
        for i in range(options.prompts)
    ]


def limits(options: argparse.Namespace) -> list[int]:
    """From an eighth of the longest up to it."""
    least = options.longest // 8
    return [least + (i * 29) % (options.longest - least + 1) for i in range(options.prompts)]


def cpu_s() -> float:
    """Of this process and all that it has started, Ray's among them."""
    mine = psutil.Process()
    own = mine.cpu_times()
    total = own.user + own.system
    for one in mine.children(recursive=True):
        times = one.cpu_times()
        total += times.user + times.system
    return total


def measured(times: list[tuple[float, float, int]]) -> dict[str, float]:
    """Of (seconds, CPU seconds, tokens) of each repeat, without the first, which warms up."""
    kept = times[1:]
    return {
        "tokens": kept[0][2],
        "tokens_per_s": statistics.median(tokens / took for took, _, tokens in kept),
        "cpu_us_per_token": statistics.median(1e6 * cpu / tokens for _, cpu, tokens in kept),
    }


def model(directory: Path) -> str:
    from rlhf.config.models import TinyModelConfig, Vocabulary
    from rlhf.toys.tiny import build_tiny_model

    config = TinyModelConfig(num_layers=4, width=256, num_heads=4, vocabulary=Vocabulary.bytes)
    build_tiny_model(config, directory, seed=1)
    return str(directory)


def alone(options: argparse.Namespace, directory: Path) -> dict[str, float]:
    """vLLM's own offline batch."""
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    import torch
    from vllm import LLM, SamplingParams

    from rlhf.models.loading import read_generation_config, read_tokenizer
    from rlhf.models.turns import end_token_ids

    path = model(directory)
    ends = end_token_ids(read_tokenizer(path), read_generation_config(path))
    on_gpu = torch.cuda.is_available()
    engine = LLM(
        path,
        dtype="float32",
        max_model_len=PROMPT_TOKENS + options.longest,
        enforce_eager=not on_gpu,
        distributed_executor_backend="uni",
        enable_prefix_caching=True,
        enable_chunked_prefill=None if on_gpu else False,
    )

    def once(seed: int) -> int:
        asked = [{"prompt_token_ids": list(one)} for one in prompts(options)]
        how = [
            SamplingParams(
                n=options.samples,
                max_tokens=limit,
                seed=seed + 100 * i,
                stop_token_ids=list(ends),
                logprobs=0,
                detokenize=False,
            )
            for i, limit in enumerate(limits(options))
        ]
        answers = engine.generate(asked, how, use_tqdm=False)
        return sum(len(one.token_ids) for answer in answers for one in answer.outputs)

    return measured([timed(lambda k=k: once(1000 * k)) for k in range(REPEATS + 1)])


def timed(work: Callable[[], int]) -> tuple[float, float, int]:
    start, cpu = time.perf_counter(), cpu_s()
    tokens = work()
    return time.perf_counter() - start, cpu_s() - cpu, tokens


def agon(options: argparse.Namespace, directory: Path) -> dict[str, float]:
    """The same through a rollout worker."""
    import ray

    from actors.group import Allotment, start_workers, stop_workers, wait_ready
    from actors.rollout import RolloutService, RolloutWorker
    from rlhf.config.models import DType, Transport, VllmRolloutConfig
    from rlhf.records import Message, Prompt, Sampling

    path = model(directory)
    ray.init("local", include_dashboard=False, log_to_driver=False)
    config = VllmRolloutConfig(
        max_prompt_tokens=PROMPT_TOKENS, max_completion_tokens=options.longest
    )
    arguments = (path, DType.float32, config, Transport.object_store, 1)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *arguments)
    asked = [Prompt(str(i), (Message("user", ""),), ids) for i, ids in enumerate(prompts(options))]

    async def once(service: RolloutService, seed: int) -> int:
        calls = (
            service.generate(prompt, Sampling(options.samples, limit), seed + 100 * i)
            for i, (prompt, limit) in enumerate(zip(asked, limits(options), strict=True))
        )
        groups = await asyncio.gather(*calls)
        return sum(len(one.token_ids) for group in groups for one in group)

    async def all_of_it() -> dict[str, float]:
        await wait_ready(workers, TIMEOUT_S)
        calls = config.calls_per_worker
        service = RolloutService(workers, calls_per_worker=calls, timeout_s=TIMEOUT_S)
        times = []
        for k in range(REPEATS + 1):
            start, cpu = time.perf_counter(), cpu_s()
            tokens = await once(service, 1000 * k)
            times.append((time.perf_counter() - start, cpu_s() - cpu, tokens))
        return measured(times)

    try:
        return asyncio.run(all_of_it())
    finally:
        stop_workers(workers)
        ray.shutdown()


PARTS = {"alone": alone, "agon": agon}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--longest", type=int, default=128)
    parser.add_argument("--here", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        with tempfile.TemporaryDirectory() as directory:
            found: dict[str, Any] = PARTS[options.here](options, Path(directory))
    else:
        found = {part: run_part(part, options) for part in PARTS}
        shares = {
            "speed": found["agon"]["tokens_per_s"] / found["alone"]["tokens_per_s"],
            "cpu": found["alone"]["cpu_us_per_token"] / found["agon"]["cpu_us_per_token"],
        }
        found |= {f"share_of_vllm_by_{name}": value for name, value in shares.items()}
        print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def run_part(part: str, options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("prompts", "samples", "longest")]
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, __file__, "--here", part, "--json", file.name, *sizes]
        subprocess.run(command, check=True, timeout=1800)
        return json.load(file)


if __name__ == "__main__":
    main()
