"""What is minimised on preferences: one file per objective.

A file holds the objective's keys, its loss, and what it needs. To add one: its file here, one in
`conf/objective`, a test.
"""

from rlhf.objectives.base import Anchor, ObjectiveConfig
from rlhf.objectives.pairs import (
    Anchors,
    Judged,
    PairLogprobs,
    Pairs,
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
    "Pairs",
    "Peers",
    "SideLogprobs",
    "log_ratios",
    "margin",
]

OBJECTIVES = found_in(__name__, ObjectiveConfig)
"""Name -> schema."""
