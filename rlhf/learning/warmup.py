"""Supervised steps on demonstrations, so that preference learning has a policy to improve."""

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
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
    demonstrations: Mapping[str, Tokens],
    config: WarmupConfig,
    seed: int,
    show: Callable[[int, int, float], None],
) -> None:
    """Trains on seeded batches of demonstrations; `show(step, steps, loss)` after each.

    With `easy_first` each third of the steps adds harder demonstrations.
    """
    rng = random.Random(derive_seed(seed, "warmup"))
    stages = easy_to_hard(demonstrations) if config.easy_first else [list(demonstrations)]
    last, recent = config.steps, deque(maxlen=20)
    for step in range(config.steps):
        rate = config.learning_rate * min((step + 1) / RISE_STEPS, (last - step) / FALL_STEPS, 1)
        number = len(stages) * step // config.steps
        stage = stages[number]
        batch = rng.sample(stage, min(config.batch_size, len(stage)))
        loss = await policy.supervise([demonstrations[id] for id in batch], rate)
        show(step + 1, last, loss)
        if number == len(stages) - 1:
            recent.append(loss)
        is_full = len(recent) == recent.maxlen
        if is_full and sum(recent) / len(recent) <= (config.stop_loss or 0.0):
            last = min(last, step + 1 + FALL_STEPS)
        if step + 1 == last:
            break


def easy_to_hard(demonstrations: Mapping[str, Tokens]) -> list[list[str]]:
    """Ids of the easiest third, two thirds, and all; fewer stages if there are fewer of them."""
    # Zeng et al. 2025 (iTool), arXiv 2501.09766, whose measure is how many calls and how long; what
    # is easy stays in, since a policy that sees it no more forgets it.
    ordered = sorted(demonstrations, key=lambda id: _difficulty(demonstrations[id]))
    ends = dict.fromkeys(len(ordered) * i // 3 for i in (1, 2, 3))
    return [ordered[:end] for end in ends if end]


def _difficulty(one: Tokens) -> tuple[int, int]:
    return len(one.observed), len(one.prompt) + len(one.completion)
