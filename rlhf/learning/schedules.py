"""The learning rate as a pure function of progress, so there is no scheduler state to save."""

import math

from rlhf.config.models import PolicyConfig, Schedule


def step_progress(
    config: PolicyConfig, round: int, num_rounds: int, step: int, num_steps: int
) -> float:
    """How far the schedule is in the middle of a step, of which its round has `num_steps`.

    The middle, since a step at its beginning would be lost where the learning rate rises from 0,
    and with it a round that has no other.
    """
    within = (step + 0.5) / num_steps
    return within if config.restart_every_round else (round + within) / num_rounds


def learning_rate(config: PolicyConfig, progress: float) -> float:
    """`progress`: share of the run or round, in [0, 1]; rises linearly, then as scheduled."""
    rise = config.lr_warmup_ratio
    if progress < rise:
        return config.learning_rate * progress / rise
    left = (1 - progress) / (1 - rise)
    factor = {
        Schedule.constant: 1.0,
        Schedule.linear: left,
        Schedule.cosine: 0.5 * (1 - math.cos(math.pi * left)),
    }[config.schedule]
    return config.learning_rate * factor
