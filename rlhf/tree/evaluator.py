"""Who says how promising a partial answer is, and what they say."""

from typing import NamedTuple, Protocol

from rlhf.records import Completion, Prompt, Verdict


class Opinion(NamedTuple):
    """What an evaluator says of one partial answer."""

    confidence: float | None
    """From 0 to 1; None if it cannot tell."""
    verdict: Verdict | None = None
    """The judge's that it comes of, if a judge was asked."""


class Evaluator(Protocol):
    """Says how promising partial answers are."""

    async def opinion(self, prompt: Prompt, answer: Completion) -> Opinion:
        """Of the answer so far."""
        ...
