"""`python tests/models/on_vllm.py NAME`: a tiny model of it on vLLM's CPU engine, published to;
prints a JSON line with the mean gap in nats per token before, after, and had it not been published.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}

import torch
from test_architectures import build, named

from actors.vllm_engine import VllmEngine
from rlhf.config.models import DType, Transport, VllmRolloutConfig
from rlhf.learning.logprobs import row_logprobs
from rlhf.models.loading import load_causal, quietly, read_generation_config, read_tokenizer
from rlhf.models.saving import as_saved
from rlhf.models.turns import end_token_ids
from rlhf.records import Tokens

ROWS = [Tokens((5, 6, 7), tuple(range(8, 24))), Tokens((40, 30, 20, 10), tuple(range(60, 76)))]


async def published(name: str, directory: Path) -> dict[str, float]:
    with quietly():
        folder = build(name, directory / "model")
        policy = load_causal(folder, torch.float32).eval()
    config = VllmRolloutConfig(1, 32, 32)
    ends = end_token_ids(read_tokenizer(folder), read_generation_config(folder))
    engine = VllmEngine(str(folder), DType.float32, config, ends, Transport.object_store, 1)
    try:
        found = {"before": await gap(engine, policy)}
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter.add_(0.03 * torch.randn_like(parameter))
        # Tied weights travel under both of their names.
        weights = {n: value.clone() for n, value in as_saved(policy, named(policy).items())}
        found["unpublished"] = await gap(engine, policy)
        await engine.load_weights([weights], 1)
        return found | {"after": await gap(engine, policy)}
    finally:
        engine._engine.shutdown()


async def gap(engine: VllmEngine, policy) -> float:
    expected = row_logprobs(policy, ROWS, 1000, torch.device("cpu"))
    found = await engine.logprobs(ROWS)
    gaps = [
        abs(a - b) for u, v in zip(expected, found, strict=True) for a, b in zip(u, v, strict=True)
    ]
    return sum(gaps) / len(gaps)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(asyncio.run(published(sys.argv[1], Path(scratch)))), flush=True)
