"""Words that the keys of several sources of data share."""

from enum import Enum

INSTRUCTION = (
    "Answer my earlier message once more, and take into account what I have just said. Give the "
    "improved answer alone: no apology, and no mention of your earlier answer or of my remark."
)
"""What a guided conversation asks for; replies that refer to what is not in the bare prompt would
teach the policy to refer to nothing."""


class Overlong(Enum):
    error = "error"
    drop = "drop"


class LabelSource(Enum):
    given = "given"
    """The labels in the log; turns without one are unknown, and yield nothing."""
    rules = "rules"
    """Phrases (`rlhf.feedback.rules`); compared with the labels in the log where it has some."""
    llm = "llm"
    """A language model (`judge`); compared likewise."""
