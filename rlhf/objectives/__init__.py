"""What is minimised on preferences: one file per objective.

A file holds the objective's keys, its loss, and what it needs. To add one: its file here, one in
`conf/objective`, a test.
"""

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.late import Tensor
from rlhf.objectives.pairs import (
    Anchors,
    Judged,
    PairLogprobs,
    Peers,
    SideLogprobs,
    log_ratios,
    margin,
)
from rlhf.options import found_in

__all__ = [
    "OBJECTIVES",
    "Anchor",
    "Anchors",
    "Judged",
    "ObjectiveConfig",
    "PairLogprobs",
    "Peers",
    "SideLogprobs",
    "log_ratios",
    "margin",
    "pair_loss",
]

OBJECTIVES = found_in(__name__, ObjectiveConfig)
"""Name -> schema."""


def pair_loss(
    objective: ObjectiveConfig, policy: PairLogprobs, anchors: Anchors, judged: Judged
) -> Tensor:
    """The objective's loss per pair, `(B,)`; `anchors` has at least those that it needs."""
    if judged.win_prob_B.shape != policy.chosen_B.shape:
        raise ValueError(
            f"judgements of {len(judged.win_prob_B)} pairs for {len(policy.chosen_B)} pairs"
        )
    return objective.loss(policy, anchors, judged)
