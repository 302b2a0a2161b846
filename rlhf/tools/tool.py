"""Tools that a model may use while it answers: each takes a text, and gives one back."""

from typing import Protocol

MAX_CHARS = 2000
"""Of an observation, its mark included where it is cut."""


class ToolFailed(Exception):
    """A call has no answer through no fault of its own, such as for lack of room; says why."""


class Tool(Protocol):
    name: str
    """By which the model calls it."""

    async def use(self, argument: str) -> str:
        """The text that the model reads. What the argument does wrong is said in it, after
        `error: `. Raises ToolFailed for what is not the call's doing, so that nobody is judged by
        it; any other exception means that the tool is out of order."""
        ...


def cut(text: str, max_chars: int) -> str:
    """The beginning of a text, and a mark with the number of characters that it leaves out."""
    if len(text) <= max_chars:
        return text
    # The mark's own length depends on the number, which is at most that of the text.
    room = max(0, max_chars - len(_mark(len(text))))
    return (text[:room] + _mark(len(text) - room))[:max_chars]


def _mark(num_chars: int) -> str:
    return f"... [{num_chars} characters left out]"
