"""A policy rank and a rollout worker on one GPU, one piece at a time."""

import asyncio
from pathlib import Path

import pynvml
import pytest

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.policy import PolicyService
from actors.policy_rank import PolicyPlan, PolicyRank
from actors.rollout import RolloutService, RolloutWorker
from actors.taking_turns import WakingCarrier
from actors.weight_sync import (
    GpuCarrier,
    ObjectStoreCarrier,
    ProbedPublisher,
    WeightsDiffer,
)
from rlhf.config.models import DType, PolicyConfig, Transport, VllmRolloutConfig
from rlhf.objectives.dpo import DPOConfig
from rlhf.records import Completion, Preference, PreferenceBatch, Prompt, Sampling, SidePair, Tokens

pytestmark = [
    pytest.mark.gpu(1),
    pytest.mark.timeout(600),
    pytest.mark.usefixtures("ray_session"),
]

HALF = 0.5
SHARE = 0.4
"""Of the GPU's memory, for vLLM."""
MAX_GAP = 0.1


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(str(i), (), tuple((3 * i + k) % 250 + 3 for k in range(4 + i % 5)))
        for i in range(count)
    ]


def probe() -> list[Tokens]:
    return [Tokens(p.token_ids, tuple((7 * k) % 250 + 3 for k in range(16))) for p in prompts(8)]


def batch(round: int) -> PreferenceBatch:
    def side(prompt: Prompt, sample: int) -> Completion:
        tokens = tuple((11 * sample + 5 * i + int(prompt.id)) % 250 + 3 for i in range(12))
        return Completion(prompt.id, sample, tokens, (0.0,) * 12, str(tokens), False, round)

    pairs = [Preference.over(p, side(p, 0), side(p, 1), 1.0, 0.0, "test@1") for p in prompts(16)]
    return PreferenceBatch(round, pairs, {"initial": [SidePair(-60.0, -60.0)] * len(pairs)})


def mean_gap(a: list[list[float]], b: list[list[float]]) -> float:
    gaps = [abs(x - y) for u, v in zip(a, b, strict=True) for x, y in zip(u, v, strict=True)]
    return sum(gaps) / len(gaps)


def used_bytes() -> int:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used


def total_bytes() -> int:
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).total


@pytest.mark.parametrize("transport", [Transport.ipc, Transport.object_store])
async def test_a_sleeping_engine_gives_its_memory_back_and_wakes_as_the_policy(
    model: Path, transport: Transport
):
    config = VllmRolloutConfig(
        max_prompt_tokens=64, max_completion_tokens=64, gpu_memory_utilization=SHARE
    )
    plan = PolicyPlan(
        dtype=DType.bfloat16,
        policy=PolicyConfig(learning_rate=1e-3),
        objective=DPOConfig(),
        epochs=1,
        first_epochs=1,
        num_rounds=10,
        seed=1,
        shares_gpu=True,
    )
    arguments = (str(model), DType.bfloat16, config, transport, 1, True)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, HALF, 1), *arguments)
    ranks = start_workers(PolicyRank, Allotment("policy", 1, 1, HALF, 1), plan)
    try:
        await wait_ready(workers, 400)
        rollout = RolloutService(workers, calls_per_worker=1024, timeout_s=120)
        awake = used_bytes()
        await rollout.sleep()
        assert awake - used_bytes() > 0.75 * SHARE * total_bytes()

        policy = PolicyService(ranks, 240)
        await policy.connect()
        await policy.start(str(model))
        carrier = (
            GpuCarrier(policy, rollout, Transport.ipc, 120)
            if transport is Transport.ipc
            else ObjectStoreCarrier(policy, rollout, as_saved=True)
        )
        publisher = ProbedPublisher(
            WakingCarrier(carrier, rollout), policy, rollout, probe(), MAX_GAP
        )
        published = await publisher.publish(0)
        assert published["weights/logprob_gap"] < MAX_GAP

        before = await policy.token_logprobs(probe())
        for round in range(4):
            await policy.update(batch(round))
        moved = mean_gap(before, await policy.token_logprobs(probe()))
        assert moved > 2 * MAX_GAP  # so that the old weights could not pass for the new ones

        await rollout.sleep()
        published = await publisher.publish(1)
        assert published["weights/logprob_gap"] < min(MAX_GAP, moved / 4)

        asked = [rollout.generate(p, Sampling(4, 32), 100 * i) for i, p in enumerate(prompts(8))]
        groups = await asyncio.gather(*asked)
        rows = [
            Tokens(prompt.token_ids, completion.token_ids)
            for prompt, group in zip(prompts(8), groups, strict=True)
            for completion in group
        ]
        sampled = [list(completion.logprobs) for group in groups for completion in group]
        assert mean_gap(sampled, await policy.token_logprobs(rows)) < MAX_GAP
        assert {completion.policy_version for group in groups for completion in group} == {1}

        await policy.update(batch(4))
        unsent = ProbedPublisher(_Nothing(), policy, rollout, probe(), published_gap(published))
        with pytest.raises(WeightsDiffer, match="rollout-0"):
            await unsent.publish(2)
    finally:
        stop_workers([*workers, *ranks])


def published_gap(metrics: dict[str, float]) -> float:
    """Somewhat above the gap of weights that did arrive."""
    return 1.5 * metrics["weights/logprob_gap"]


class _Nothing:
    """A carrier that carries nothing."""

    async def carry(self, version: int) -> int:
        return 0
