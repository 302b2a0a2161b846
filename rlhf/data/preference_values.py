"""What stands in the columns of preferences, into ours; each raises ValueError with the end of a
sentence that begins with the column's name.
"""

import math
from typing import NamedTuple

from rlhf.data.messages import read_reply, white_or_text
from rlhf.records import Message

MASK = -100
"""How HelpSteer2 writes that an attribute is unknown."""


class Side(NamedTuple):
    before: tuple[Message, ...]
    """The turns that the file repeats before the answer, or has between prompt and answer."""
    steps: tuple[str, ...]


def one_step(value: object) -> Side:
    before, reply = read_reply(value)
    return Side(before, (reply,))


def in_steps(value: object) -> Side:
    """One step as text, which may be empty, or a list of steps, which may not."""
    if not isinstance(value, list):
        return Side((), (white_or_text(value),))
    if not value:
        raise ValueError("is a list without steps")
    if not all(isinstance(step, str) for step in value):
        raise ValueError("must be text, or a list of texts, one per step")
    if "" in value:
        raise ValueError("has an empty step; leave it out")
    return Side((), tuple(map(white_or_text, value)))


def optional_text(value: object) -> str:
    return "" if value is None else white_or_text(value)


def finite(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        kind = "null or missing" if value is None else f"not a number but {type(value).__name__}"
        raise ValueError(f"is {kind}")
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("is not finite")
    return number


def attribute(value: object) -> float:
    """nan where it is unknown."""
    return math.nan if value is None or value == MASK else finite(value)


def probability(value: object) -> float:
    number = finite(value)
    if not 0 <= number <= 1:
        raise ValueError("is no probability, between 0 and 1")
    return number


def vote(value: object) -> float:
    """nan where it is unknown."""
    return math.nan if value is None else probability(value)


def strengths(value: object) -> tuple[float, ...]:
    """Of each member of an ensemble, or their mean alone."""
    if not isinstance(value, list):
        return (finite(value),)
    if not value:
        raise ValueError("is a list without numbers")
    return tuple(map(finite, value))


def source(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("must be a text that is not empty")
    return value


def margin(value: object) -> float:
    margin = finite(value)
    if margin < 0:
        raise ValueError("is below 0; exchange the two sides of such rows")
    return margin
