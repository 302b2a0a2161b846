"""A language model that is asked for one of a few labels, and what it has answered before."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Protocol

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


class Remembering:
    """`Chooser` by another one, which is asked the same question once."""

    def __init__(self, chooser: Chooser, size: int = CACHE_SIZE) -> None:
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
