"""vLLM through a rollout worker against vLLM alone: tokens a second, and CPU seconds a token.

    python benchmarks/rollout.py [--json FILE] [--turns 5] [--prompts 64] [--samples 8]
        [--longest 64] [--width 256] [--layers 4]

Both draw the same completions from the same engine with the same arguments: seeded, with
log-probabilities, each prompt with a limit of its own, so that they end at different times. Alone,
vLLM gets all prompts at once as its own offline batch; through Agon they come by the queue in front
of the worker, and completions go back by Ray. Each has processes of its own, and they take turns,
so that whatever else the machine does meets both; the first turn of either warms it up. Shares are
medians over turns of one beside the other. CPU seconds are those of all its processes. Every turn
is told on stderr; all of it takes some minutes on two idle cores. On a GPU, which both share, bf16:
`--prompts 512 --longest 256 --width 1024 --layers 24`.
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil

os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PROMPT_TOKENS, TIMEOUT_S = 32, 300
SHARE = 0.4
"""Of a GPU's memory, for either."""
Draw = Callable[[int], int]
"""Draws everything once, by a seed; returns how many tokens that were."""


class Turn(NamedTuple):
    tokens: int
    seconds: float
    cpu_s: float


def prompts(options: argparse.Namespace) -> list[tuple[int, ...]]:
    """Different from the first token on, so that no prefix is shared."""
    return [
        tuple((i * 37 + k * (i % 11 + 1)) % 250 + 3 for k in range(PROMPT_TOKENS))
        for i in range(options.prompts)
    ]


def limits(options: argparse.Namespace) -> list[int]:
    """Spread from an eighth of the longest up to it."""
    least, golden = options.longest // 8, 0.618034
    return [
        least + int(i * golden % 1 * (options.longest - least + 1)) for i in range(options.prompts)
    ]


def cpu_s() -> float:
    """Of this process and all that it has started, Ray's among them."""
    total = 0.0
    for one in (psutil.Process(), *psutil.Process().children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            times = one.cpu_times()
            total += times.user + times.system
    return total


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def model(directory: str, options: argparse.Namespace) -> str:
    from rlhf.config.models import TinyModelConfig, Vocabulary
    from rlhf.toys.tiny import build_tiny_model

    config = TinyModelConfig(
        num_layers=options.layers,
        width=options.width,
        num_heads=options.width // 64,
        vocabulary=Vocabulary.bytes,
    )
    build_tiny_model(config, Path(directory), seed=1)
    return directory


@contextmanager
def alone(options: argparse.Namespace, path: str) -> Iterator[Draw]:
    """vLLM's own offline batch."""
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    from vllm import LLM, SamplingParams

    from actors.vllm_engine import executor
    from rlhf.models.loading import read_generation_config, read_tokenizer
    from rlhf.models.turns import end_token_ids

    ends = end_token_ids(read_tokenizer(path), read_generation_config(path))
    engine = LLM(
        path,
        dtype="bfloat16" if on_gpu() else "float32",
        gpu_memory_utilization=SHARE,
        max_model_len=PROMPT_TOKENS + options.longest,
        enforce_eager=not on_gpu(),
        distributed_executor_backend=executor(1, on_gpu()),
        enable_prefix_caching=True,
        enable_chunked_prefill=None if on_gpu() else False,
    )

    def draw(seed: int) -> int:
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

    try:
        yield draw
    finally:  # else its process outlives this one
        engine.llm_engine.engine_core.shutdown()


@contextmanager
def agon(options: argparse.Namespace, path: str) -> Iterator[Draw]:
    """The same through a rollout worker."""
    import ray

    from actors.group import Allotment, start_workers, stop_workers, wait_ready
    from actors.rollout import RolloutService, RolloutWorker
    from rlhf.config.models import DType, Transport, VllmRolloutConfig
    from rlhf.records import Message, Prompt, Sampling

    gpus = int(on_gpu())
    ray.init("local", num_gpus=gpus, include_dashboard=False, log_to_driver=False)
    config = VllmRolloutConfig(
        max_prompt_tokens=PROMPT_TOKENS,
        max_completion_tokens=options.longest,
        gpu_memory_utilization=SHARE,
    )
    dtype = DType.bfloat16 if gpus else DType.float32
    arguments = (path, dtype, config, Transport.object_store, 1)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, gpus, 1), *arguments)
    asked = [Prompt(str(i), (Message("user", ""),), ids) for i, ids in enumerate(prompts(options))]
    calls = config.calls_per_worker
    service = RolloutService(workers, calls_per_worker=calls, timeout_s=TIMEOUT_S)

    async def drawn(seed: int) -> int:
        calls = (
            service.generate(prompt, Sampling(options.samples, limit), seed + 100 * i)
            for i, (prompt, limit) in enumerate(zip(asked, limits(options), strict=True))
        )
        groups = await asyncio.gather(*calls)
        return sum(len(one.token_ids) for group in groups for one in group)

    try:
        with asyncio.Runner() as runner:
            runner.run(wait_ready(workers, TIMEOUT_S))
            yield lambda seed: runner.run(drawn(seed))
    finally:
        stop_workers(workers)
        ray.shutdown()


PARTS = {"alone": alone, "agon": agon}


def serve(name: str, options: argparse.Namespace, connection: Any) -> None:
    """One part, in a process of its own: a turn for every seed, until there are no more."""
    with (
        tempfile.TemporaryDirectory() as directory,
        suppress(EOFError),
        PARTS[name](options, model(directory, options)) as draw,
    ):
        connection.send("ready")
        while True:
            seed = connection.recv()
            start, cpu = time.perf_counter(), cpu_s()
            tokens = draw(seed)
            connection.send(Turn(tokens, time.perf_counter() - start, cpu_s() - cpu))


class Part:
    """That process, as the one that compares sees it."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        context = get_context("spawn")
        self._name, start = name, time.perf_counter()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(name, options, theirs))
        self._process.start()
        theirs.close()
        self._answer()
        tell(f"{name} is ready after {time.perf_counter() - start:.0f} s")

    def turn(self, seed: int) -> Turn:
        self._connection.send(seed)
        turn: Turn = self._answer()
        tell(f"{self._name}: {turn.tokens} tokens in {turn.seconds:.1f} s, CPU {turn.cpu_s:.1f} s")
        return turn

    def _answer(self) -> Any:
        if not self._connection.poll(TIMEOUT_S):
            raise SystemExit(f"{self._name} said nothing for {TIMEOUT_S} s")
        try:
            return self._connection.recv()
        except EOFError:
            self._process.join(10)
            raise SystemExit(f"{self._name} ended with {self._process.exitcode}") from None

    def end(self) -> None:
        self._connection.close()
        self._process.join(60)
        self._process.kill()


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """Both parts' turns, and what Agon has of vLLM's own speed; warm-up left out."""
    parts: dict[str, Part] = {}
    turns: dict[str, list[Turn]] = {name: [] for name in PARTS}
    try:
        for name in PARTS:
            parts[name] = Part(name, options)
        for k in range(options.turns + 1):
            for name in sorted(PARTS, reverse=bool(k % 2)):  # each is first as often
                turns[name].append(parts[name].turn(1000 * k))
    finally:
        for part in parts.values():
            part.end()
    kept = {name: all[1:] for name, all in turns.items()}
    found: dict[str, Any] = {
        name: {
            "tokens": sum(one.tokens for one in all),
            "tokens_per_s": statistics.median(one.tokens / one.seconds for one in all),
            "cpu_us_per_token": statistics.median(1e6 * one.cpu_s / one.tokens for one in all),
        }
        for name, all in kept.items()
    }
    pairs = list(zip(kept["agon"], kept["alone"], strict=True))
    shares = {
        "speed": [a.tokens / a.seconds / (b.tokens / b.seconds) for a, b in pairs],
        "cpu": [b.cpu_s / b.tokens / (a.cpu_s / a.tokens) for a, b in pairs],
    }
    for name, values in shares.items():
        found[f"share_of_vllm_by_{name}"] = statistics.median(values)
        found[f"from_and_to_by_{name}"] = [min(values), max(values)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--turns", type=int, default=5, help="of each, beside the first")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--longest", type=int, default=64, help="tokens of a completion")
    parser.add_argument("--width", type=int, default=256, help="of the model, in 64s")
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    found = compared(options)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
