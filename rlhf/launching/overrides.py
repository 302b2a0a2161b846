"""The words of a command line, as people type them, into overrides as Hydra reads them.

Hydra's grammar knows numbers, lists, sweeps and more, and refuses `#`, `=`, `ü` and others outside
of quotes, which a shell takes away. Where the schema says that a value is text, it is text: what
the grammar would refuse, or take for something else, is put in quotes here.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from fnmatch import fnmatchcase
from functools import cache
from os.path import expanduser
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from rlhf.config.texts import FILLED, LOCATION
from rlhf.launching import secrets
from rlhf.launching.configuration import SCHEMAS
from rlhf.problems import InputError

_WORD = re.compile(r"(?P<key>\+{0,2}(?P<name>[A-Za-z_][\w.@/:]*))=(?P<value>.*)", re.DOTALL)
_HYDRA_FOLDERS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_STRUCTURED = re.compile(r"""["'()\[\]{}\\]""")
"""With these a comma may be something else than the end of a sweep's value."""


def as_hydra_reads(words: Sequence[str], schema: type) -> list[str]:
    """Flags and all, in order; `schema` is the configuration's.

    Raises InputError, naming key and value, for what cannot be meant one way only.
    """
    # First of all: nothing below keeps from repeating a value, and Hydra writes it to a file.
    if secret := list(secrets.in_words(words)):
        raise InputError(secret)
    sweeping = any(word in ("-m", "--multirun") for word in words)
    keys = _keys(schema)
    read, problems = [], []
    for word in words:
        try:
            read.append(_read(word, keys, sweeping))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return read


def quoted(key: str, value: object) -> str:
    """The override that gives a key exactly this text."""
    return f"{key}={QuotedString(str(value), Quote.single).with_quotes()}"


def empty_texts(section: Any, prefix: str = "") -> Iterator[str]:
    """One line for each text of a configuration that is empty, and must not be."""
    for name, part in sections(section):
        yield from empty_texts(part, f"{prefix}{name}.")
    for field in dataclasses.fields(section):
        key, value = f"{prefix}{field.name}", getattr(section, field.name)
        if value == "" and FILLED in field.metadata:
            yield _is_empty(key)


PLAIN = (str, int, float, Enum, type(None))
"""What most keys have; there are no sections in it."""


def sections(section: Any) -> Iterator[tuple[str, Any]]:
    """The dataclasses in a dataclass and in its mappings, by their keys in it."""
    for field in dataclasses.fields(section):
        if not isinstance(value := getattr(section, field.name), PLAIN):
            yield from within(field.name, value)


def within(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A dataclass itself, or those in a mapping; nothing of any other value."""
    if dataclasses.is_dataclass(value):
        yield key, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from within(f"{key}.{name}", one)


def _is_empty(key: str) -> str:
    return f"{key}=: is empty; give it a value (is a variable of the shell unset?)"


class _Keys:
    """What the schema says of its keys, whatever is chosen from the groups."""

    def __init__(self, schema: type) -> None:
        fields = list(_fields(schema))
        self._texts = {
            key: LOCATION in metadata for key, hint, metadata in fields if _is_text(hint)
        }
        self._texts |= dict.fromkeys(_HYDRA_FOLDERS, True)
        self._mappings = [key for key, hint, _ in fields if get_origin(hint) is dict]

    def is_place(self, name: str) -> bool | None:
        """Of a key that holds text; None of another."""
        if name in self._texts:
            return self._texts[name]
        return next((is_place for key, is_place in self._texts.items() if _fits(key, name)), None)

    def is_entry(self, name: str) -> bool:
        """Whether it is a mapping of names that users choose, or one of those."""
        names = (name, name.rpartition(".")[0])
        return any(_fits(key, one) for key in self._mappings for one in names)


_keys = cache(_Keys)


def _fits(key: str, name: str) -> bool:
    """A `*` stands for the name of a member, or of a member of one."""
    return key == name or ("*" in key and fnmatchcase(name, key))


def _fields(
    schema: type, prefix: str = "", around: tuple[type, ...] = ()
) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    """Keys that hold no section, their types and what is said of them; `around`: what it is in."""
    hints = get_type_hints(schema)
    around = (*around, schema)
    for field in dataclasses.fields(schema):
        key, hint = f"{prefix}{field.name}", hints[field.name]
        (*_, inner) = [one for one in get_args(hint) if one is not type(None)] or [hint]
        if not (isinstance(inner, type) and dataclasses.is_dataclass(inner)):
            yield key, hint, field.metadata
        elif get_origin(hint) is not dict:
            yield from _of_variants(inner, key, around)
        elif "*" not in key:  # one stands for those within it too
            yield from _of_variants(inner, f"{key}.*", ())


def _of_variants(
    schema: type, key: str, around: tuple[type, ...]
) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
    options = [option for group in SCHEMAS.values() for option in group.values()]
    for variant in (schema, *(option for option in options if schema in option.__mro__[1:])):
        if variant not in around:  # one that takes another of its kind takes none like itself
            yield from _fields(variant, f"{key}.", around)


def _is_text(hint: Any) -> bool:
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return {str}.issuperset(set(kinds) - {type(None)})


def _read(word: str, keys: _Keys, sweeping: bool) -> str:
    parts = _WORD.fullmatch(word)
    if parts is None:  # a flag, a deletion, or nothing that Hydra knows
        return word
    key, value, is_place = parts["key"], parts["value"], keys.is_place(parts["name"])
    if not value and parts["name"] in _HYDRA_FOLDERS:
        raise InputError([_is_empty(key)])
    if keys.is_entry(parts["name"]) and not key.startswith("+"):
        word, key = f"++{word}", f"++{key}"  # Hydra has it that a new name is added
    if is_place is None:
        return _other(word, key, value, sweeping)
    home = expanduser if is_place else str
    override = _parsed(word)
    if override is not None and (sweeping or not override.is_sweep_override()):
        return word if _stays(override, value) else quoted(key, home(value))
    if sweeping and "," in value:
        if _STRUCTURED.search(value):
            raise InputError([_needs_quotes(key, value)])
        each = [quoted(key, home(one.strip())) for one in value.split(",")]
        return f"{key}={','.join(one.removeprefix(f'{key}=') for one in each)}"
    return quoted(key, home(value))


def _stays(override: Override, value: str) -> bool:
    """Whether Hydra takes it for this text, for nothing, or for a sweep of texts."""
    bare = value.strip()
    if bare != value and bare[:1] not in ("'", '"'):
        return False
    return override.is_sweep_override() or isinstance(override.value(), str | QuotedString | None)


def _other(word: str, key: str, value: str, sweeping: bool) -> str:
    """A group, or a key that holds no text."""
    override = _parsed(word)
    if override is not None:
        if override.is_sweep_override() and not sweeping:
            raise InputError(
                [
                    f"{key}={value}: has several values; add -m for a sweep, or give one (a list "
                    f"is written '{key}=[{value}]')"
                ]
            )
        return word
    if value.startswith(("[", "{")) or "," in value:
        raise InputError([_needs_quotes(key, value)])
    return quoted(key, value)


def _needs_quotes(key: str, value: str) -> str:
    return (
        f"{key}={value}: cannot be read; put each text in quotes, and all of it in quotes for the "
        f'shell, such as \'{key}=["#"]\' for a list or \'{key}="a,b","c"\' for a sweep'
    )


def _parsed(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None
