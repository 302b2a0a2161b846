"""What is minimised on preferences: one pure function per objective, in a table by its schema.

To add an objective: its function, a line in `OBJECTIVES`, its schema in `rlhf.config`, a file in
`conf/objective`, a test.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rlhf.config.objectives import (
    Anchor,
    DPOConfig,
    GPOConfig,
    INPOConfig,
    IPOConfig,
    KTOConfig,
    LNDPOConfig,
    NashMDConfig,
    ObjectiveConfig,
    RDPOConfig,
    RSOConfig,
    SimPOConfig,
    SLiCConfig,
    SPPOConfig,
    TPOConfig,
    VPOConfig,
    XPOConfig,
)
from rlhf.objectives import pairwise, self_play, setwise
from rlhf.objectives.pairs import (
    Anchors,
    Judged,
    PairLogprobs,
    Peers,
    SideLogprobs,
    log_ratios,
    margin,
)

__all__ = [
    "OBJECTIVES",
    "Anchors",
    "Judged",
    "Objective",
    "PairLogprobs",
    "Peers",
    "SideLogprobs",
    "anchors_needed",
    "implicit_margin",
    "implied_target",
    "log_ratios",
    "needs_whole_lists",
    "pair_loss",
]

# The first argument is the key's own schema, which a dict type cannot say.
Objective = Callable[[Any, PairLogprobs, Anchors, Judged], Tensor]

OBJECTIVES: dict[type[ObjectiveConfig], Objective] = {
    DPOConfig: pairwise.dpo,
    RDPOConfig: pairwise.rdpo,
    IPOConfig: pairwise.ipo,
    RSOConfig: pairwise.rso,
    SLiCConfig: pairwise.slic,
    SimPOConfig: pairwise.simpo,
    LNDPOConfig: pairwise.ln_dpo,
    KTOConfig: setwise.kto,
    TPOConfig: setwise.tpo,
    SPPOConfig: self_play.sppo,
    INPOConfig: self_play.inpo,
    GPOConfig: self_play.gpo,
    NashMDConfig: self_play.nash_md,
    XPOConfig: self_play.xpo,
    VPOConfig: self_play.vpo,
}


def pair_loss(
    config: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged
) -> Tensor:
    """The objective's loss per pair, `(B,)`; `anchors` has at least those that it needs."""
    if judged.win_prob_B.shape != policy.chosen_B.shape:
        raise ValueError(
            f"judgements of {len(judged.win_prob_B)} pairs for {len(policy.chosen_B)} pairs"
        )
    return OBJECTIVES[type(config)](config, policy, anchors, judged)


def anchors_needed(config: ObjectiveConfig) -> tuple[str, ...]:
    """Names of the anchors that the objective compares with: every `Anchor` in its schema."""
    names = [value.value for value in vars(config).values() if isinstance(value, Anchor)]
    return tuple(dict.fromkeys(names))


def needs_whole_lists(config: ObjectiveConfig) -> bool:
    """Whether the loss of a pair depends on the other completions of its prompt."""
    return isinstance(config, TPOConfig)


def implicit_margin(config: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors) -> Tensor:
    """How far the policy is on the chosen side, in summed nats, `(B,)`, without gradient.

    The difference of the log-ratios to the objective's first anchor, or of the log-probabilities
    if it has none; before β and per pair, not per token, so that objectives can be compared.
    `policy/margin` is its mean, and `policy/accuracy` the share that is above 0.
    """
    needed = anchors_needed(config)
    sides = log_ratios(policy, anchors[needed[0]]) if needed else policy
    return margin(sides).detach()


def implied_target(config: ObjectiveConfig) -> float | None:
    """The largest target of a squared loss, in nats (IPO under `reduce=mean`: per token).

    That of a pair's margin (INPO, IPO) or of one side's log-ratio (SPPO, GPO); None for a loss
    that has no such target.
    """
    match config:
        case SPPOConfig(step_size=step_size) | INPOConfig(step_size=step_size):
            return step_size / 2
        case IPOConfig(tau=tau):
            return 1 / (2 * tau)
        case GPOConfig(max_target=max_target):
            return max_target
        case _:
            return None
