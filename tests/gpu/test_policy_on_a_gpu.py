"""A policy rank alone on a GPU: bf16 numbers, and training that goes on where it was left."""

from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import torch
from test_sharing_a_gpu import batch, mean_gap, probe
from transformers import AutoModelForCausalLM

from actors.group import Allotment, start_workers, stop_workers
from actors.policy import PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from rlhf.config.models import DType, PolicyConfig
from rlhf.learning.reading import row_logprobs
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, Preference, PreferenceBatch, Prompt, SidePair
from rlhf.storage.tensor_files import TensorReader

pytestmark = [
    pytest.mark.gpu(1),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_session"),
]


@asynccontextmanager
async def policy(model: Path, **settings):
    config = PolicyConfig(**{"learning_rate": 1e-4, "micro_batch_tokens": 400} | settings)
    plan = PolicyPlan(DType.bfloat16, config, DPOConfig(), 1, 1, num_rounds=10, seed=1)
    ranks = start_workers(PolicyRank, Allotment("policy", 1, 1, 1, 1), plan)
    service = PolicyService(ranks, 240)
    try:
        await service.connect()
        await service.start(str(model))
        yield service
    finally:
        stop_workers(ranks)


def tensors(directory: Path) -> dict[str, torch.Tensor]:
    reader = TensorReader(directory / "policy")
    return {name: reader.read(name) for name in reader._files}


async def test_bf16_logprobs_are_those_of_float32_but_for_rounding(model: Path):
    exact = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    expected = row_logprobs(exact, probe(), 1000, torch.device("cpu"))
    async with policy(model) as service:
        found = await service.token_logprobs(probe())
    assert mean_gap(expected, found) < 0.02


@pytest.mark.parametrize("packing", [True, False])
async def test_rows_of_different_lengths_have_finite_gradients(model: Path, packing: bool):
    """Long enough for every attention kernel, and padded where they are not packed."""
    pairs = []
    for i in range(12):
        asked = Prompt(str(i), (), tuple((7 * i + 3 * k) % 250 + 3 for k in range(300 + 40 * i)))
        sides = []
        for s in range(2):
            ids = tuple((11 * s + 5 * k + i) % 250 + 3 for k in range(40 + 9 * i))
            sides.append(Completion(asked.id, s, ids, (0.0,) * len(ids), str(s), False, 0))
        pairs.append(Preference.over(asked, *sides, 1.0, 0.0, "test@1"))
    anchors = {"initial": [SidePair(-300.0, -300.0)] * len(pairs)}
    async with policy(model, packing=packing, micro_batch_tokens=16_384) as service:
        metrics = await service.update(PreferenceBatch(0, pairs, anchors))
    assert metrics["policy/skipped_steps"] == 0 and metrics["policy/grad_norm"] > 0


@pytest.mark.parametrize("settings", [
    {"zero_stage": 0}, {"zero_stage": 2}, {"zero_stage": 3, "gradient_checkpointing": True},
], ids=["0", "2", "3"])  # fmt: skip
async def test_a_resumed_policy_ends_bit_for_bit_where_an_unbroken_one_does(
    model: Path, tmp_path: Path, settings: dict
):
    async with policy(model, **settings) as service:
        losses = [(await service.update(batch(round)))["policy/loss"] for round in range(2)]
        await service.save(tmp_path / "middle")
        for round in range(2, 4):
            losses.append((await service.update(batch(round)))["policy/loss"])
        await service.save(tmp_path / "unbroken")
    assert losses[-1] < losses[0]
    async with policy(model, **settings) as service:
        await service.load(tmp_path / "middle")
        for round in range(2, 4):
            await service.update(batch(round))
        await service.save(tmp_path / "resumed")
    unbroken, resumed = tensors(tmp_path / "unbroken"), tensors(tmp_path / "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    assert len(unbroken) == len(resumed)
