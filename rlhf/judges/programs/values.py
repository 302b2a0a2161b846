"""Values as data, in lines of JSON, between the processes of programs and tests and ourselves.

`rlhf.judges.programs.running` hands this file's source to the sandbox, too. Standard library only.
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

MOST_BYTES = 4 << 20
"""Of one value as data."""
MOST_ITEMS = 100_000
"""Of an iterator, which may never end."""
_MANY = 1000
_SMALL = 10**15
_SEQUENCES: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}


class Opaque:
    """In place of an object that is no data; equal to nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}, which is no data>"

    def __bool__(self) -> bool:
        raise TypeError(f"{self!r} is neither true nor false")


def encode(value: Any) -> Any:
    """A value of Python's own types as what JSON can say; see `decode`."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, int):
        return int(value) if -_SMALL < value < _SMALL else {"int": hex(value)}
    if isinstance(value, list):
        return [encode(each) for each in value]
    for name, kind in _SEQUENCES.items():
        if isinstance(value, kind):
            return {name: [encode(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(each)] for key, each in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [encode(each) for each in (value.start, value.stop, value.step)]}
    if isinstance(value, Iterator):
        return {"iterator": [encode(each) for each in itertools.islice(value, MOST_ITEMS)]}
    return {"object": type(value).__name__}


def decode(data: Any) -> Any:
    """What `encode` said, in Python's own types alone; raises ValueError or TypeError for what it
    cannot have said."""
    if isinstance(data, list):
        return [decode(each) for each in data]
    if not isinstance(data, dict):
        return data
    if len(data) != 1:
        raise ValueError("not a value")
    ((kind, body),) = data.items()
    if kind == "int":
        return int(body, 16)
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](_apart(kind, [decode(each) for each in body]))
    if kind == "dict":
        pairs = [(decode(key), decode(each)) for key, each in body]
        _apart(kind, [key for key, _ in pairs])
        return dict(pairs)
    if kind == "iterator":
        return iter([decode(each) for each in body])
    if kind == "object":
        return Opaque(str(body)[:50])
    plain: dict[str, Callable[[], Any]] = {
        "bytes": lambda: bytes.fromhex(body),
        "complex": lambda: complex(*body),
        "range": lambda: range(*map(decode, body)),
    }
    if kind not in plain:
        raise ValueError("not a value")
    return plain[kind]()


def _apart(kind: str, keys: list[Any]) -> list[Any]:
    """The keys; those made to collide would take a set or dict of them hours."""
    if kind != "tuple" and len(keys) > _MANY and max(Counter(map(hash, keys)).values()) > _MANY:
        raise ValueError("too many keys of one hash")
    return keys


# --- lines ----------------------------------------------------------------------------------------


def named(error: BaseException) -> list[str]:
    """An exception as its kind and its text."""
    try:
        text = str(error)
    except BaseException:
        text = ""
    return [type(error).__name__[:100], text[:1000]]


def tell(handle: int, what: dict[str, Any]) -> None:
    """Writes one line; if that cannot be said in JSON, why."""
    try:
        line = json.dumps(what)
    except (ValueError, RecursionError) as error:
        line = json.dumps({"error": named(error)})
    write_all(handle, line.encode() + b"\n")


def write_all(handle: int, text: bytes) -> None:
    """However little a pipe takes at a time."""
    left = memoryview(text)
    while left:
        left = left[os.write(handle, left) :]
