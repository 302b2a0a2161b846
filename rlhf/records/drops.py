"""Would-be preferences that are kept out of training, and why."""

from dataclasses import dataclass
from enum import StrEnum

from rlhf.records.completions import Completion


class DropReason(StrEnum):
    """Why a would-be preference is not trained on; `preference/dropped_NAME` counts them."""

    label: str
    """In legends."""
    colour: str
    meaning: str
    good: str
    """What a good number is, if anything is to be said of it."""

    def __new__(
        cls, name: str, label: str, colour: str, meaning: str, good: str = ""
    ) -> "DropReason":
        reason = str.__new__(cls, name)
        reason._value_ = name
        reason.label, reason.colour, reason.meaning, reason.good = label, colour, meaning, good
        return reason

    TIE = (
        "tie", "tie", "#e07b00", "the judge prefers neither",
        "0 for SPPO, GPO, Nash-MD, XPO and VPO, which learn from ties",
    )  # fmt: skip
    IDENTICAL = (
        "identical", "same text", "#009e73", "both sides have the same text",
        "likewise 0 for those five",
    )  # fmt: skip
    DISPUTED = "disputed", "disputed", "#b2df8a", "too few of the judges agree with the label"
    TRUNCATED = "truncated", "cut off", "#c8382e", "a side met the token limit"
    SHORT_GROUP = (
        "short_group", "too few answers", "#8a5fbf", "too few completions to make a pair"
    )  # fmt: skip
    JUDGE_FAILED = "judge_failed", "judge failed", "#9a9a9a", "the judge failed"
    EMPTY = "empty", "empty", "#c8a000", "the reply is empty"
    NEAR_COPY = "near_copy", "near copy", "#56b4e9", "the reply is nearly the one that displeased"
    ROLE_MARKER = "role_marker", "role marker", "#8b5a2b", "the reply begins a turn of its own"
    REFERS_BACK = (
        "refers_back", "refers back", "#d783b5", "the reply apologises or speaks of an earlier one"
    )  # fmt: skip
    REFUSAL = "refusal", "was refused", "#3f3f6e", "what displeased was a refusal, perhaps rightly"
    UNVISITED = "unvisited", "not tried", "#56b4e9", "a side was never tried in the search tree"
    ALL_WRONG = "all_wrong", "none is right", "#8b5a2b", "none of the answers is right"
    NOT_SHORTER = (
        "not_shorter", "not shorter", "#e6ab02", "no right ending is shorter than the whole answer"
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dropped:
    """A would-be preference that is kept out of training, and why."""

    reason: DropReason
    chosen: Completion | None = None
    rejected: Completion | None = None
