"""Every objective's gradient through real ranks: packed or padded, on one or two, at every ZeRO
stage; and in bf16 by each of the optimizers in which DeepSpeed adds gradients up.

A group of ranks starts once for all that it is asked. All of it takes minutes:

    python -m pytest tests/integration/test_every_objective.py -m thorough
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray
from every_objective import BUDGET_TOKENS, batch_of, distance, every_objective, gradient, norm
from test_policy import TIMEOUT_S, policy
from torch import Tensor
from transformers import AutoModelForCausalLM

from actors.policy import PolicyService
from rlhf.config.models import DType, Optimizer
from rlhf.objectives import ObjectiveConfig
from rlhf.records import Columns, PreferenceBatch, SidePair

pytestmark = [pytest.mark.thorough, pytest.mark.usefixtures("ray_session")]

RATE = 1000.0
"""Of plain gradient descent: a step then takes so much off the weights that their own rounding is
little beside it. It is taken back."""
PLAIN = {"optimizer": Optimizer.sgd, "learning_rate": RATE, "micro_batch_tokens": BUDGET_TOKENS}
IN_FP32 = {"deepspeed": {"data_types": {"grad_accum_dtype": "fp32"}}}


class Stepped(NamedTuple):
    """What came of one update."""

    metrics: Mapping[str, float]
    packed: bool
    optimizer: str
    """DeepSpeed's class."""
    gradient: dict[str, Tensor]
    """What was taken off the weights, over the learning rate."""


async def stepped(
    service: PolicyService,
    objective: ObjectiveConfig,
    *portions: PreferenceBatch,
    packing: bool = True,
) -> Stepped:
    """One step on the portions by the ranks that there are, which is then taken back."""
    sent = [Columns.of(portion) for portion in portions]

    def step(rank: Any) -> tuple:  # of what ranks know too, which this file is not
        engine, settings = rank._engine, replace(rank._plan.policy, packing=packing)
        rank._plan = replace(rank._plan, policy=settings, objective=objective)
        rank._memory, rank._version = dict(objective.first_memory()), 0
        rank._reader = replace(rank._reader, packing=rank._packing())
        before = {name: value.clone() for name, value in engine.state()}
        for portion in sent[:-1]:
            rank.accumulate(portion)
        metrics = rank.update(sent[-1])
        taken = {
            name.removeprefix("master/"): (before[name] - value) / RATE
            for name, value in engine.state()
        }
        engine.load_state(before.__getitem__, 0)
        kind = type(engine._engine.optimizer).__name__
        return metrics, rank._reader.packing is not None, kind, taken

    asked = [rank.handle.__ray_call__.remote(step) for rank in service.ranks]
    first, *_ = await asyncio.to_thread(ray.get, asked, timeout=TIMEOUT_S)
    return Stepped(*first)


async def expected_of(model: Path, objective: ObjectiveConfig) -> dict[str, Tensor]:
    """The gradient of plain torch on padded rows, in one process and fp32."""
    return gradient(_loaded(str(model)), objective, await batch_of(objective))


@cache
def _loaded(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
async def test_every_loss_has_one_gradient_packed_or_padded(tiny_model, ranks, stage):
    settings = {"num_ranks": ranks, "zero_stage": stage, "max_grad_norm": 1e9}
    async with policy(tiny_model, epochs=1, **PLAIN | settings) as service:
        for name, objective in every_objective().items():
            expected = await expected_of(tiny_model, every_objective()[name])
            assert norm(expected) > 0.01, name
            for packing in (False, True):
                batch = await batch_of(objective)
                found = await stepped(service, objective, batch, packing=packing)
                assert found.packed == packing and found.metrics["policy/num_steps"] == 1
                assert distance(found.gradient, expected) < 1e-5, (name, packing)
                told = found.metrics["policy/grad_norm"]
                assert told == pytest.approx(norm(expected), rel=1e-5), (name, packing)


@pytest.mark.parametrize(
    ("stage", "ranks", "settings", "optimizer"),
    [
        (0, 1, {}, "FP16_UnfusedOptimizer"),
        (0, 2, {}, "FP16_UnfusedOptimizer"),
        (1, 1, {}, "DeepSpeedZeroOptimizer"),
        (1, 2, {}, "DeepSpeedZeroOptimizer"),
        (1, 1, IN_FP32, "BF16_Optimizer"),
        (1, 2, IN_FP32, "BF16_Optimizer"),
        (2, 2, {}, "DeepSpeedZeroOptimizer"),
        (2, 2, IN_FP32, "DeepSpeedZeroOptimizer"),
        (3, 2, {}, "DeepSpeedZeroOptimizer_Stage3"),
        (3, 2, IN_FP32, "DeepSpeedZeroOptimizer_Stage3"),
    ],
)
async def test_a_bf16_update_is_that_of_fp32_but_for_rounding(
    tiny_model, stage, ranks, settings, optimizer
):
    """Whole or in portions, clipped (ORPO's gradient is longer than 1/2) or not (DPO's), and not
    at all where it is not finite."""
    settings = {"num_ranks": ranks, "zero_stage": stage, "max_grad_norm": 0.5} | settings
    async with policy(tiny_model, DType.bfloat16, epochs=1, **PLAIN | settings) as service:
        for name, is_clipped in (("dpo", False), ("orpo", True)):
            objective = every_objective()[name]
            expected, batch = await expected_of(tiny_model, objective), await batch_of(objective)
            length = norm(expected)
            assert (length > 0.6) == is_clipped and (length < 0.4) != is_clipped
            kept = min(1.0, 0.5 / length)
            clipped = {name: value * kept for name, value in expected.items()}
            for portions in ([range(18)], [range(6), range(6, 12), range(12, 18)]):
                parts = [part_of(batch, places) for places in portions]
                found = await stepped(service, objective, *parts)
                assert found.optimizer == optimizer and found.metrics["policy/skipped_steps"] == 0
                assert distance(found.gradient, clipped) < 0.02, (name, portions)
                assert found.metrics["policy/grad_norm"] == pytest.approx(length, rel=0.02)
        broken = replace(batch, anchors={"initial": [SidePair(float("nan"), 0.0)] * 18})
        found = await stepped(service, every_objective()["dpo"], broken)
        assert found.metrics["policy/skipped_steps"] == 1 and norm(found.gradient) == 0


def part_of(batch: PreferenceBatch, places: range) -> PreferenceBatch:
    def part(values):
        return [values[i] for i in places]

    anchors = {name: part(values) for name, values in batch.anchors.items()}
    return PreferenceBatch(0, part(batch.preferences), anchors)
