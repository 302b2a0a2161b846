"""Supervised steps on demonstrations, so that preference learning has a policy to improve."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from rlhf.config.run import WarmupConfig
from rlhf.records import Tokens
from rlhf.seeds import derive_seed

RISE_STEPS = 20
FALL_STEPS = 30


class Supervised(Protocol):
    """What the policy does for a warm start."""

    async def supervise(self, rows: Sequence[Tokens], learning_rate: float) -> float: ...


async def warm_up(
    policy: Supervised,
    demonstrations: Sequence[Tokens],
    config: WarmupConfig,
    seed: int,
    show: Callable[[int, int, float], None],
) -> None:
    """Trains on seeded batches of demonstrations; `show(step, steps, loss)` after each."""
    rng = random.Random(derive_seed(seed, "warmup"))
    last, recent = config.steps, deque(maxlen=20)
    for step in range(config.steps):
        rate = config.learning_rate * min((step + 1) / RISE_STEPS, (last - step) / FALL_STEPS, 1)
        batch = rng.sample(demonstrations, min(config.batch_size, len(demonstrations)))
        loss = await policy.supervise(batch, rate)
        recent.append(loss)
        show(step + 1, last, loss)
        low = sum(recent) / len(recent) <= (config.stop_loss or 0.0)
        if low and len(recent) == recent.maxlen:
            last = min(last, step + 1 + FALL_STEPS)
        if step + 1 == last:
            break
