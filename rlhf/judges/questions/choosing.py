"""A language model that is asked for one of a few labels, or to write, and what it has answered."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from rlhf.tools.syntax import Instrument

CACHE_SIZE = 1 << 16
"""Answers that are remembered: about 10 MiB."""

Clean = Callable[[str], str]
"""Takes the sting out of text that is not ours, such as control tokens."""


class Chooser(Protocol):
    """A language model that can be asked for one of a few labels, each a token."""

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        """How likely each label is as its next token, or as the first one after its thought; they
        make 1 together. None if it would rarely say any of them."""
        ...


class Writing(NamedTuple):
    """How something is written."""

    max_tokens: int
    """A thought before it, which is left out, not counted."""
    seed: int
    """The same question and seed, the same text."""
    instrument: Instrument | None = None
    """What may be called on the way; calls and replies are a part of what is written."""


class Author(Chooser, Protocol):
    """One that can also write."""

    async def write(self, question: str, writing: Writing) -> str | None:
        """None if nothing comes of it."""
        ...


class Remembering:
    """`Author` by another one, which is asked the same question for a label once."""

    def __init__(self, chooser: Author, size: int = CACHE_SIZE) -> None:
        self._chooser = chooser
        self._size = size
        self._known: OrderedDict[bytes, tuple[float, ...]] = OrderedDict()

    async def choose(self, question: str, labels: Sequence[str]) -> tuple[float, ...] | None:
        key = sha256("\0".join([*labels, question]).encode(errors="replace")).digest()
        if key in self._known:
            self._known.move_to_end(key)
            return self._known[key]
        answer = await self._chooser.choose(question, labels)
        # No answer may have been a passing trouble, so it is not remembered.
        if answer is not None:
            self._known[key] = answer
            if len(self._known) > self._size:
                self._known.popitem(last=False)
        return answer

    async def write(self, question: str, writing: Writing) -> str | None:
        return await self._chooser.write(question, writing)
