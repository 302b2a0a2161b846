"""Conversations that ask for a better reply, and what of a long one is left out."""

from collections.abc import Iterator

from rlhf.config.data import INSTRUCTION
from rlhf.records import Message


def guided(
    history: tuple[Message, ...], reply: str, complaint: str, instruction: str = INSTRUCTION
) -> tuple[Message, ...]:
    """What a better reply is sampled from; what is trained on is the history alone.

    Complaint and instruction are one message of the user, since roles alternate.
    """
    asked = f"{complaint}\n\n{instruction}"
    return (*history, Message("assistant", reply), Message("user", asked))


def shortened(history: tuple[Message, ...]) -> Iterator[tuple[Message, ...]]:
    """The history, then without its first exchange, and so on down to the last user's turn.

    A system message stays. Whole turns go, from the left, so that what was said last survives.
    """
    start = int(history[0].role == "system")
    for first in range(start, len(history), 2):
        yield (*history[:start], *history[first:])
