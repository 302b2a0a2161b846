"""An adapter published by itself: rollout workers compute what the policy computes."""

from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from test_policy import policy
from test_rollout import ENGINES

from actors.group import Allotment, start_workers, stop_workers, wait_ready
from actors.policy import PolicyService
from actors.rollout import RolloutService, RolloutWorker
from actors.weight_sync import AdapterCarrier, ProbedPublisher
from rlhf.config.models import (
    DType,
    Lora,
    TinyModelConfig,
    TransformersRolloutConfig,
    Transport,
    Vocabulary,
)
from rlhf.records import Completion, Preference, PreferenceBatch, Prompt, Sampling, SidePair, Tokens
from rlhf.toys.tiny import build_tiny_model

pytestmark = pytest.mark.usefixtures("ray_session")

BATCH_TOKENS = 4096
NUM_PAIRS = 32
SMALL, LARGE = Lora(8, 64), Lora(8, 256)
"""Of how far a step goes."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of width 128, in bf16."""
    directory = tmp_path_factory.mktemp("model")
    config = TinyModelConfig(vocabulary=Vocabulary.bytes, dtype=DType.bfloat16)
    build_tiny_model(config, directory, seed=3)
    return directory


def pairs() -> list[Preference]:
    """Of which the chosen sides use other tokens than the rejected ones."""

    def side(i: int, sample: int) -> Completion:
        first = 5 + 100 * sample
        tokens = tuple(first + (7 * k + 13 * i) % 100 for k in range(24))
        return Completion(str(i), sample, tokens, (0.0,) * 24, "", False, 0)

    prompts = [
        Prompt(str(i), (), tuple(9 + (3 * i + k) % 200 for k in range(6))) for i in range(NUM_PAIRS)
    ]
    return [
        Preference.over(prompt, side(i, 0), side(i, 1), 1.0, 0.0, "test@1")
        for i, prompt in enumerate(prompts)
    ]


def rows() -> list[Tokens]:
    """Chosen sides, then rejected ones."""
    both = [[one.chosen.tokens for one in pairs()], [one.rejected.tokens for one in pairs()]]
    return [row for side in both for row in side]


def margin(before: list[float], after: list[float]) -> float:
    """Mean over pairs of what the log-ratio of the chosen side is above the rejected one's."""
    moved = torch.tensor(after) - torch.tensor(before)
    chosen, rejected = moved.chunk(2)
    return (chosen - rejected).mean().item()


@asynccontextmanager
async def rollout(engine: str, model: Path, dtype: DType, lora: Lora | None):
    config = ENGINES[engine](max_prompt_tokens=16, max_completion_tokens=32)
    if isinstance(config, TransformersRolloutConfig):
        config.max_batch_tokens = BATCH_TOKENS
    arguments = (str(model), dtype, config, Transport.object_store, 1, False, lora)
    workers = start_workers(RolloutWorker, Allotment("rollout", 1, 1, 0, 1), *arguments)
    try:
        await wait_ready(workers, 300)
        yield RolloutService(workers, calls_per_worker=1024, timeout_s=120)
    finally:
        stop_workers(workers)


@dataclass
class Margins:
    policy: float
    published: float


async def sums(service: RolloutService) -> list[float]:
    (found,) = (await service.each("logprobs", rows())).values()
    return [sum(values) for values in found]


async def learnt(policy: PolicyService, service: RolloutService, carrier) -> Margins:
    """After two rounds, by the policy's own log-probabilities and by the engine's."""
    publisher = ProbedPublisher(carrier, policy, service, rows()[:8], 0.1)
    await publisher.publish(0)
    before = await policy.logprobs(rows()), await sums(service)
    anchors = {"initial": [SidePair(-100.0, -100.0)] * len(pairs())}
    for round in range(2):
        await policy.update(PreferenceBatch(round, pairs(), anchors))
    await publisher.publish(2)
    after = await policy.logprobs(rows()), await sums(service)
    (completion, *_) = await service.generate(pairs()[0].prompt, Sampling(1, 4), 1)
    assert completion.policy_version == 2
    return Margins(margin(before[0], after[0]), margin(before[1], after[1]))


def settings(lora: Lora, stage: int) -> dict[str, float]:
    """64 steps in all; with `SMALL` merged weights would be 4 % short of the margin."""
    return {
        "lora_rank": lora.rank,
        "lora_alpha": lora.alpha,
        "zero_stage": stage,
        "learning_rate": 1e-6,
        "batch_size": NUM_PAIRS // 16,
        "micro_batch_tokens": BATCH_TOKENS,
    }


@pytest.mark.parametrize(
    ("engine", "lora", "stage"),
    [
        ("transformers", SMALL, 3),
        ("vllm", LARGE, 2),  # whose bf16 is another, which a small margin would drown in
    ],
)
async def test_what_a_small_learning_rate_moves_in_bf16_is_published(model, engine, lora, stage):
    async with (
        rollout(engine, model, DType.bfloat16, lora) as service,
        policy(model, DType.bfloat16, **settings(lora, stage)) as trained,
    ):
        margins = await learnt(trained, service, AdapterCarrier(trained, service))
    assert margins.policy > 0.02
    assert margins.published == pytest.approx(margins.policy, rel=0.02), margins
