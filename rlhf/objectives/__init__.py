"""What is minimised on preferences: one pure function per objective, in a table by its schema.

To add an objective: its function, a line in `OBJECTIVES`, its schema in `rlhf.config`, a file in
`conf/objective`, a test.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rlhf.config import (
    Anchor,
    DPOConfig,
    IPOConfig,
    LNDPOConfig,
    ObjectiveConfig,
    RDPOConfig,
    RSOConfig,
    SimPOConfig,
    SLiCConfig,
)
from rlhf.objectives import pairwise
from rlhf.objectives.pairwise import Anchors, PairLogprobs, SideLogprobs, log_ratios

__all__ = [
    "OBJECTIVES",
    "Anchors",
    "Objective",
    "PairLogprobs",
    "SideLogprobs",
    "anchors_needed",
    "implicit_margin",
    "log_ratios",
    "pair_loss",
]

# The first argument is the key's own schema, which a dict type cannot say.
Objective = Callable[[Any, PairLogprobs, Anchors], Tensor]

OBJECTIVES: dict[type[ObjectiveConfig], Objective] = {
    DPOConfig: pairwise.dpo,
    RDPOConfig: pairwise.rdpo,
    IPOConfig: pairwise.ipo,
    RSOConfig: pairwise.rso,
    SLiCConfig: pairwise.slic,
    SimPOConfig: pairwise.simpo,
    LNDPOConfig: pairwise.ln_dpo,
}


def pair_loss(config: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """The objective's loss per pair, `(B,)`; `anchors` has at least those that it needs."""
    return OBJECTIVES[type(config)](config, policy, anchors)


def anchors_needed(config: ObjectiveConfig) -> tuple[str, ...]:
    """Names of the anchors that the objective compares with: every `Anchor` in its schema."""
    names = [value.value for value in vars(config).values() if isinstance(value, Anchor)]
    return tuple(dict.fromkeys(names))


def implicit_margin(config: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """How far the policy is on the chosen side, in summed nats, `(B,)`, without gradient.

    The difference of the log-ratios to the objective's first anchor, or of the log-probabilities
    if it has none; before β and per pair, not per token, so that objectives can be compared.
    `policy/margin` is its mean, and `policy/accuracy` the share that is above 0.
    """
    needed = anchors_needed(config)
    sides = log_ratios(policy, anchors[needed[0]]) if needed else policy
    return pairwise.margin(sides).detach()
