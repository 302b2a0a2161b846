"""`python -m rlhf.feedback`: which log is read, who labels it, and where the complaints go."""

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from rlhf.config.numbers import number


class LabelSource(Enum):
    given = "given"
    """The labels in the log; turns without one are unknown, and yield nothing."""
    rules = "rules"
    """Phrases (`rlhf.feedback.rules`); compared with the labels in the log where it has some."""


@dataclass
class FeedbackConfig:
    """The whole configuration of `python -m rlhf.feedback`."""

    path: str = MISSING
    """A .jsonl, .parquet or .json file of conversations, or a folder of them."""
    out: str = MISSING
    """The folder that is written; it must be empty or absent."""
    label: LabelSource = LabelSource.given
    heldout_share: float = number(0.05, above=0, below=1)
    """Share of the conversations that are held out, by a hash of their ids."""
