"""Token ids and their log-probabilities: four bytes each, and quick to pickle and to compare.

A tuple of Python's numbers takes ten times as much, and a process that is sent one makes each
number anew.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, SupportsIndex, TypeVar, overload

Number = TypeVar("Number", int, float)


class Numbers(Sequence[Number]):
    """Numbers that do not change; to whoever reads, adds, compares or hashes them, a tuple."""

    __slots__ = ("_content", "_hash")
    _code = "i"
    """As `array` has it."""

    def __init__(self, values: Iterable[Number] = ()) -> None:
        """Raises TypeError or OverflowError for what is no number of the kind."""
        if isinstance(values, type(self)):
            self._content: bytes = values._content
            self._hash: int | None = values._hash
        else:
            values = tuple(values)
            self._content = array(self._code, values).tobytes()
            # Of fractions it is another once they are rounded.
            self._hash = hash(values) if self._code == "i" else None

    @property
    def view(self) -> memoryview:
        """The numbers where they lie."""
        return memoryview(self._content).cast(self._code)  # type: ignore[call-overload]

    @property
    def array(self) -> Any:
        """The same, as numpy has it; not to be written to."""
        import numpy as np

        return np.frombuffer(self._content, self._code)

    def __len__(self) -> int:
        return len(self._content) >> 2

    def __iter__(self) -> Iterator[Number]:
        return iter(self.view)  # type: ignore[return-value]

    @overload
    def __getitem__(self, index: SupportsIndex) -> Number: ...
    @overload
    def __getitem__(self, index: slice) -> "Numbers[Number]": ...
    def __getitem__(self, index: Any) -> Any:
        found = self.view[index]
        return _made(type(self), found.tobytes()) if isinstance(index, slice) else found

    def __add__(self, others: Iterable[Number]) -> Any:
        return _made(type(self), self._content + type(self)(others)._content)

    def __radd__(self, others: Iterable[Number]) -> Any:
        return _made(type(self), type(self)(others)._content + self._content)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, type(self)):
            return self._content == other._content
        return tuple(self) == other if isinstance(other, tuple) else NotImplemented

    def __lt__(self, other: Iterable[Number]) -> bool:
        return tuple(self) < tuple(other)

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(tuple(self))
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        # A hash of numbers is the same in every process; who is sent them need not hash them.
        return _made, (type(self), self._content, self._hash)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        import numpy as np

        return np.array(self.array, dtype=dtype)

    def __repr__(self) -> str:
        return repr(tuple(self))


class TokenIds(Numbers[int]):
    """Ids of a vocabulary."""

    __slots__ = ()


class Nats(Numbers[float]):
    """Log-probabilities, in the single precision in which engines give them."""

    __slots__ = ()
    _code = "f"


def _made(kind: type[Numbers], content: bytes, hashed: int | None = None) -> Numbers:
    made = kind.__new__(kind)
    made._content, made._hash = content, hashed
    return made
