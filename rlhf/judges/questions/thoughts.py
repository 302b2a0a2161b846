"""Models that think before they answer: where a thought begins and ends, and how long it may be."""

from typing import Any

from rlhf.seeds import derive_seed

THOUGHT_TOKENS = 4096
"""A thought that has not ended by then is no answer."""
TEMPERATURE = 0.6
"""Of thoughts, as those who train such models advise: greedy ones tend to go round in circles."""

MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""How models write the beginning and the end of a thought."""


def end_of_thought(text: str) -> int | None:
    """Where the first thought's end mark is over; None if there is no such mark."""
    ends = [place + len(mark) for _, mark in MARKS if (place := text.find(mark)) >= 0]
    return min(ends, default=None)


def after_thought(text: str) -> str:
    """What follows the thought, or all of a text in which no thought ends."""
    return text[end_of_thought(text) or 0 :]


def is_open(text: str) -> bool:
    """Whether a thought that began in the text goes on at its end."""
    return any(text.rfind(begin) > text.rfind(end) for begin, end in MARKS)


def thinking_options(question: str) -> dict[str, Any]:
    """What a request to a server says so that its model has the time to think."""
    seed = derive_seed("thought", question) % 2**31
    return {"max_tokens": THOUGHT_TOKENS, "temperature": TEMPERATURE, "seed": seed}
