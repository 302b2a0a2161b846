"""Which freshly sampled replies are not fit to be the chosen side; English phrases."""

import re
from enum import Enum

from rlhf.collecting.similarity import similarity
from rlhf.records import Completion, DropReason


class Filter(Enum):
    """Why a chosen side is not trained on."""

    empty = "empty"
    """No text."""
    role_marker = "role_marker"
    """A turn of its own begins in it, such as `User:`."""
    near_copy = "near_copy"
    """It repeats the rejected side but for little: more than `max_similarity`."""
    refers_back = "refers_back"
    """It apologises, or speaks of an earlier answer, which whoever reads the prompt never saw."""
    refusal = "refusal"
    """It does what the rejected side refused to do, and perhaps rightly."""


_ROLE = re.compile(
    r"(?:^|\n)\s*(?:\*\*|#+ ?)?(?:user|assistant|human|system|ai)(?:\*\*)?\s*:"
    r"|<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)
_REFERS_BACK = re.compile(
    r"\bsorry (?:about|for) (?:that|this|the|my|any)\b"
    r"|^\W*(?:oh,? )?(?:i'm (?:so |very |really )?)?sorry\b(?! for)"
    r"|\bi apologi[sz]e\b|\b(?:my|sincere|our) apologies\b|\bapologies for\b"
    r"|\b(?:my (?:mistake|bad|error)|i misunderstood)\b"
    r"|\b(?:my|the|our) (?:previous|earlier|last|first|prior|original|initial) "
    r"(?:\w+ )?(?:answer|reply|response|message|attempt|version)\b"
    r"|\byour (?:feedback|correction|complaint|remark|criticism)\b"
    r"|\b(?:you(?:'re| are) (?:absolutely |completely |quite )?right)\b"
    r"|\bthank(?:s| you) for (?:pointing|the correction|correcting|clarifying|your)\b"
    r"|\b(?:improved|corrected|revised|updated) (?:answer|reply|response|version)\b"
    r"|\bas you (?:said|mentioned|pointed out|requested)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\bi (?:can(?:'t|not)|am (?:not able|unable) to|won't|will not|must decline)\b"
    r"|\bi'm (?:sorry, but|not able|unable)\b|\bas an ai\b|\bi (?:do not|don't) feel comfortable\b"
    r"|\b(?:against|violates?) (?:my|the|our) (?:\w+ )?(?:guidelines|policy|policies|principles)\b",
    re.IGNORECASE,
)
OPENING_CHARS = 300
"""Apologies and refusals come first; further on the words may be about anything."""


def reason_to_drop(
    fresh: Completion, rejected: Completion, filters: list[Filter], max_similarity: float
) -> DropReason | None:
    """The first filter that holds, in the order of `Filter`; None if the reply may be chosen."""
    found = {
        Filter.empty: lambda: not fresh.text.strip(),
        Filter.role_marker: lambda: bool(_ROLE.search(fresh.text)),
        Filter.near_copy: lambda: similarity(fresh.token_ids, rejected.token_ids) > max_similarity,
        Filter.refers_back: lambda: _opens(_REFERS_BACK, fresh.text),
        Filter.refusal: lambda: (
            _opens(_REFUSAL, rejected.text) and not _opens(_REFUSAL, fresh.text)
        ),
    }
    holds = (name for name in Filter if name in filters and found[name]())
    first = next(holds, None)
    return DropReason(first.value) if first else None


def _opens(pattern: re.Pattern[str], text: str) -> bool:
    return bool(pattern.search(text[:OPENING_CHARS].replace("’", "'")))
