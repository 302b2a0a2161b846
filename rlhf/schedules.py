"""The learning rate as a pure function of progress, so there is no scheduler state to save."""

import math

from rlhf.config.models import PolicyConfig, Schedule


def learning_rate(config: PolicyConfig, progress: float) -> float:
    """`progress`: share of the run that is done, in [0, 1]; rises linearly, then as scheduled."""
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
