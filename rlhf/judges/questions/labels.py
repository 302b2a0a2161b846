"""The probabilities of the letters A and B, as a verdict between the two."""

import math
from collections.abc import Sequence

from rlhf.judges.questions.template import LABELS

MIN_LABEL_PROBABILITY = 0.1
"""Of both letters together. Where a model hardly ever answers with either, as before a thought or
an explanation, which of them is likelier says nothing."""


def preference(first: float, second: float) -> float | None:
    """The probability of A against B by the log-probabilities of both, in nats.

    None if the model would rarely say either, and for what is no number.
    """
    if not math.exp(min(first, 0.0)) + math.exp(min(second, 0.0)) >= MIN_LABEL_PROBABILITY:
        return None
    # By tanh, which overflows nowhere and gives exactly 1 minus itself when the two are swapped.
    return (1 + math.tanh((first - second) / 2)) / 2


def listed_preference(listed: Sequence[tuple[str, float]]) -> float | None:
    """The probability of A against B by the likeliest tokens; None if they are rarely either.

    A label that is not listed gets the most that it can have: no more than the least likely token
    that is, and no more than what all of them leave.
    """
    tokens = [(token.strip(), math.exp(min(logprob, 0.0))) for token, logprob in listed]
    first, second = (sum(p for token, p in tokens if token == label) for label in LABELS)
    if not first + second >= MIN_LABEL_PROBABILITY:  # nor if they are no numbers
        return None
    unlisted = max(0.0, min(min(p for _, p in tokens), 1 - sum(p for _, p in tokens)))
    answer = (first or unlisted) / ((first or unlisted) + (second or unlisted))
    return answer if math.isfinite(answer) else None
