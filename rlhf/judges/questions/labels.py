"""The probabilities of a few labels, such as A and B, as how likely each is among them."""

import math
from collections.abc import Sequence

MIN_LABEL_PROBABILITY = 0.1
"""Of all labels together. Where a model hardly ever answers with any, as before a thought or an
explanation, which of them is likelier says nothing."""


def shares(nats: Sequence[float]) -> tuple[float, ...] | None:
    """How likely each label is among them, by their log-probabilities in nats.

    None if the model would rarely say any, and for what is no number.
    """
    if not sum(math.exp(min(one, 0.0)) for one in nats) >= MIN_LABEL_PROBABILITY:
        return None
    if len(nats) == 2:
        # By tanh, which gives exactly 1 minus itself when the two are swapped.
        first, second = nats
        halves = math.tanh((first - second) / 2) / 2
        return 0.5 + halves, 0.5 - halves
    highest = max(nats)
    odds = [math.exp(one - highest) for one in nats]
    return tuple(one / sum(odds) for one in odds)


def listed_shares(
    listed: Sequence[tuple[str, float]], labels: Sequence[str]
) -> tuple[float, ...] | None:
    """The same by the likeliest tokens and their log-probabilities; None if they are rarely any.

    A label that is not listed gets the most that it can have: no more than the least likely token
    that is, and no more than an equal part of what all of them leave.
    """
    tokens = [(token.strip(), math.exp(min(logprob, 0.0))) for token, logprob in listed]
    found = [sum(p for token, p in tokens if token == label) for label in labels]
    if not sum(found) >= MIN_LABEL_PROBABILITY:  # nor if they are no numbers
        return None
    left = (1 - sum(p for _, p in tokens)) / max(1, found.count(0))
    unlisted = max(0.0, min(min(p for _, p in tokens), left))
    filled = [one or unlisted for one in found]
    total = sum(filled)
    return tuple(one / total for one in filled) if math.isfinite(total) else None


def none_of(labels: Sequence[str]) -> str:
    """In words."""
    return f"neither {' nor '.join(labels)}" if len(labels) == 2 else f"none of {', '.join(labels)}"
