"""What is handed over between stages, in the order in which it comes into being."""

from rlhf.records.completions import (
    LOGGED,
    PROMPT_MESSAGES,
    USER,
    Asked,
    Completion,
    Emphasis,
    Message,
    Prompt,
    Sampling,
    Tokens,
    UserFeedback,
    transcript,
)
from rlhf.records.drops import (
    Dropped,
    DropReason,
)
from rlhf.records.preferences import (
    Collected,
    Preference,
    PreferenceBatch,
    Search,
    Side,
    SidePair,
    SideTokens,
)
from rlhf.records.verdicts import (
    Comparison,
    Failures,
    Judgement,
    Parts,
    Verdict,
)

__all__ = [
    "LOGGED",
    "PROMPT_MESSAGES",
    "USER",
    "Asked",
    "Collected",
    "Comparison",
    "Completion",
    "DropReason",
    "Dropped",
    "Emphasis",
    "Failures",
    "Judgement",
    "Message",
    "Parts",
    "Preference",
    "PreferenceBatch",
    "Prompt",
    "Sampling",
    "Search",
    "Side",
    "SidePair",
    "SideTokens",
    "Tokens",
    "UserFeedback",
    "Verdict",
    "transcript",
]
