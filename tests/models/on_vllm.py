"""`python tests/models/on_vllm.py` reads lines of `NAME [adapter]`: a tiny model of it on vLLM,
published to: all its weights, or a LoRA adapter alone.

Prints for each a line of JSON: the mean gap in nats per token before, after, and had it not been
published; and what became of an argument of vLLM's own.

On a GPU the engine is in bf16 and the weights go by CUDA IPC; on CPUs it is in float32.
"""

import asyncio
import functools
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "OMP_NUM_THREADS": "1",
    # Forked, the engine would have this process's CUDA.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}

import torch
from test_architectures import build, named

from actors import cuda_ipc, vllm_engine
from actors.buckets import pack
from actors.vllm_engine import VllmEngine
from rlhf.config.models import DType, Lora, Transport, VllmRolloutConfig
from rlhf.learning.reading import row_logprobs
from rlhf.models.adapters import adapter_parameters, with_adapter
from rlhf.models.loading import load_causal, quietly, read_generation_config, read_tokenizer
from rlhf.models.saving import as_saved
from rlhf.models.turns import end_token_ids
from rlhf.records import Tokens

ROWS = [Tokens((5, 6, 7), tuple(range(8, 24))), Tokens((40, 30, 20, 10), tuple(range(60, 76)))]


ON_GPU = torch.cuda.is_available()
if ON_GPU:
    # Several of these share a GPU, and vLLM would take each other's memory for its own.
    arguments = functools.partial(vllm_engine.AsyncEngineArgs, kv_cache_memory_bytes=1 << 28)
    vllm_engine.AsyncEngineArgs = arguments  # type: ignore[misc]
DTYPE = DType.bfloat16 if ON_GPU else DType.float32
TRANSPORT = Transport.ipc if ON_GPU else Transport.object_store


async def published(name: str, directory: Path, lora: Lora | None) -> dict[str, float]:
    with quietly():
        folder = build(name, directory / "model")
        policy = as_sent(load_causal(folder, torch.float32).eval())
    config = VllmRolloutConfig(
        max_prompt_tokens=32,
        max_completion_tokens=32,
        engine={"max_num_seqs": 100},
        gpu_memory_utilization=0.05,
        enforce_eager=True,
    )
    ends = end_token_ids(read_tokenizer(folder), read_generation_config(folder))
    engine = VllmEngine(str(folder), DTYPE, config, ends, TRANSPORT, 1, lora=lora)
    try:
        chosen = engine._engine.vllm_config.scheduler_config
        found = {name: getattr(chosen, name) for name in ("max_num_seqs", "max_num_batched_tokens")}
        found["before"] = await gap(engine, policy)
        if lora is not None:
            policy = with_adapter(policy, lora).eval()
            weights = moved_adapter(policy)
            found["unpublished"] = await gap(engine, policy)
            await engine.load_adapter(weights, 1)
            return found | {"after": await gap(engine, policy)}
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        as_sent(policy)
        # Tied weights travel under both of their names.
        weights = {n: value.clone() for n, value in as_saved(policy, named(policy).items())}
        found["unpublished"] = await gap(engine, policy)
        await (send if ON_GPU else load)(engine, weights)
        return found | {"after": await gap(engine, policy)}
    finally:
        engine._engine.shutdown()


def moved_adapter(policy) -> dict[str, torch.Tensor]:
    """A random adapter in the engine's type, which the policy computes too."""
    with torch.no_grad():
        for _, parameter in adapter_parameters(policy):
            parameter.copy_((0.3 * torch.randn_like(parameter)).to(getattr(torch, DTYPE.value)))
    return {name: value.detach().clone() for name, value in adapter_parameters(policy)}


def as_sent(policy):
    """Its weights rounded to the engine's type, so that only the arithmetic differs."""
    return policy.to(getattr(torch, DTYPE.value)).float()


async def load(engine: VllmEngine, weights: dict[str, torch.Tensor]) -> None:
    await engine.load_weights([pack(weights)], 1)


async def send(engine: VllmEngine, weights: dict[str, torch.Tensor]) -> None:
    rounded = {name: value.to(torch.bfloat16) for name, value in weights.items()}
    bucket = pack(rounded)
    buffer = torch.from_numpy(bucket.data).to("cuda")
    places = [list(place) for place in bucket.places]
    handles = {cuda_ipc._gpu(buffer.device): cuda_ipc.export(buffer)}
    await engine.weight_transfer("start")
    await engine.weight_transfer("update", {"handles": handles, "places": places})
    await engine.weight_transfer("finish", 1)


async def gap(engine: VllmEngine, policy) -> float:
    expected = row_logprobs(policy, ROWS, 1000, torch.device("cpu"))
    found = await engine.logprobs(ROWS)
    gaps = [
        abs(a - b) for u, v in zip(expected, found, strict=True) for a, b in zip(u, v, strict=True)
    ]
    return sum(gaps) / len(gaps)


if __name__ == "__main__":
    for line in sys.stdin:
        name, *kind = line.split()
        lora = Lora(4, 4) if kind == ["adapter"] else None
        with tempfile.TemporaryDirectory() as scratch:
            found = asyncio.run(published(name, Path(scratch), lora))
        print(json.dumps(found), flush=True)
