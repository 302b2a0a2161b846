"""Where a user's function stands, and its module made from its source wherever it is to run.

Workers get the text and not a pickle, so that nothing of a function has to be picklable, and what
ran is known by its hash.
"""

import ast
import importlib.util
import inspect
import linecache
import math
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from hashlib import sha256
from io import BytesIO, TextIOWrapper
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.problems import InputError, one_line, some

_ROOT = Path(__file__).parents[2]
SHOWN_CHARS = 80


@dataclass(frozen=True, slots=True)
class FunctionSource:
    """A function as it travels: the text of its file, and its name in it."""

    key: str
    """The key that names it, for messages."""
    reference: str
    """As it was typed: `rewards.py:score`."""
    file: str
    """Absolute, on the machine where it was typed."""
    name: str
    text: str

    @property
    def digest(self) -> str:
        """Of the file's text, eight letters: another text is another function."""
        return sha256(self.text.encode()).hexdigest()[:8]

    @property
    def version(self) -> str:
        """What stands in records of what it gave."""
        return f"{self.reference}@{self.digest}"

    def refused(self, why: str) -> InputError:
        return InputError([f"{self.key}={self.reference}: {why}"])


def read_source(key: str, reference: str) -> FunctionSource:
    """Finds the file, and reads it without running any of it.

    Raises InputError if there is none, or if it is no Python.
    """
    place, colon, name = reference.rpartition(":")
    if not (colon and place and name.isidentifier()):
        example = place or reference if (place or reference).endswith(".py") else "rewards.py"
        raise InputError([f"{key}={reference}: names no function; write {example}:NAME"])
    file = located(place)
    if file is None:
        what = "file" if place.endswith(".py") else "module"
        hint = "" if what == "file" else ", nor as a file; write FILE.py:NAME or MODULE:NAME"
        raise InputError([f"{key}={reference}: there is no {what} {place}{hint}"])
    try:
        with TextIOWrapper(BytesIO(content(file)), encoding="utf-8") as lines:
            text = lines.read()
        ast.parse(text, str(file))
    except OSError as error:
        raise InputError([f"{key}={reference}: {file} cannot be read: {error.strerror}"]) from error
    except SyntaxError as error:
        told = f"{file} line {error.lineno}: {error.msg}"
        raise InputError([f"{key}={reference}: {told}"]) from error
    except ValueError as error:  # no UTF-8, or a null byte
        raise InputError([f"{key}={reference}: {file} is no Python ({error})"]) from error
    return FunctionSource(key, reference, str(file), name, text)


_READ: ContextVar[dict[Path, bytes] | None] = ContextVar("files of functions", default=None)
"""What has been read since a run began to start; None outside of that."""


@contextmanager
def reading_once() -> Iterator[None]:
    """Within it every file of a function is read once, so that what is checked, tried, recorded and
    sent to workers is one text, whatever happens to the file meanwhile."""
    if _READ.get() is not None:
        yield
        return
    token = _READ.set({})
    try:
        yield
    finally:
        _READ.reset(token)


def content(file: Path) -> bytes:
    """Raises OSError."""
    known = _READ.get()
    if known is None:
        return file.read_bytes()
    if file not in known:
        known[file] = file.read_bytes()
    return known[file]


def located(place: str) -> Path | None:
    """The file of `file.py` or of `package.module`, absolute; None if there is none.

    A file that is not there from the working directory is looked for from Agon's own folder, so
    that recipes name their examples wherever they are used.
    """
    if place.endswith(".py"):
        files = Path(place).expanduser().absolute(), _ROOT / place
        return next((file for file in files if file.is_file()), None)
    try:
        found = importlib.util.find_spec(place)
    except (ImportError, ValueError):  # no such package, or no name of a module
        return None
    if found is None or found.origin is None or not found.origin.endswith(".py"):
        return None
    return Path(found.origin)


def load(source: FunctionSource) -> Callable[..., Any]:
    """Runs the file, and gives what it calls by the name.

    It becomes a module of its own, whatever its file is called, and can import what lies beside
    it; `package.module` takes the installed package's place, for imports relative to it. Raises
    InputError if it fails, or if there is no such function.
    """
    module, folder = _module(source)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    lines = source.text.splitlines(keepends=True)
    linecache.cache[source.file] = (len(source.text), None, lines, source.file)
    sys.modules[module.__name__] = module
    try:
        exec(compile(source.text, source.file, "exec"), vars(module))
    except (Exception, SystemExit) as error:  # whatever a stranger's file does, its key is told
        raise source.refused(failure(error, source.file)) from error
    found = getattr(module, source.name, None)
    if found is None:
        known = [name for name, value in vars(module).items() if callable(value)]
        own = [name for name in known if not name.startswith("_")]
        near = get_close_matches(source.name, own, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        there = f"there is {some(own, 10)}" if own else "it defines nothing"
        raise source.refused(f"{source.file} has no {source.name}; {hint}{there}")
    if not callable(found):
        raise source.refused(f"is a {type(found).__name__}, not a function")
    return found


Adapt = Callable[[FunctionSource, Callable[..., Any]], Callable[..., Any]]
"""Makes what is called of what the file has; raises InputError if that cannot be used."""


def taking(*parameters: str) -> Adapt:
    """The function as it is, if it can be called with these arguments, by position."""
    return partial(_taking, parameters)


def _taking(
    parameters: tuple[str, ...], source: FunctionSource, function: Callable[..., Any]
) -> Callable[..., Any]:
    if (signature := unfit(function, parameters)) is not None:
        wanted = f"({', '.join(parameters)})"
        raise source.refused(
            f"takes {signature}, and is called with {wanted}; write def {source.name}{wanted}"
        )
    return function


def unfit(function: Callable[..., Any], parameters: tuple[str, ...]) -> str | None:
    """What the function takes, if it cannot be called with so many arguments."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of some that are written in C nobody knows
        return None
    try:
        signature.bind(*parameters)
    except TypeError:
        return str(signature)
    return None


def callable_with(source: FunctionSource, parameters: Sequence[str]) -> Callable[..., Any]:
    """`load`, of what is to be called with these arguments, by position.

    Raises InputError if it cannot be.
    """
    return taking(*parameters)(source, load(source))


def is_async(function: Callable[..., Any]) -> bool:
    call = getattr(function, "__call__", None)  # noqa: B004  an object's, which may be async
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _module(source: FunctionSource) -> tuple[ModuleType, Path]:
    """An empty one, and the folder from which it imports others."""
    place, _, _ = source.reference.rpartition(":")
    file = Path(source.file)
    if place.endswith(".py"):
        # Of its content too: two files of one name are two modules.
        path = sha256(source.file.encode()).hexdigest()[:8]
        module, folder = ModuleType(f"{file.stem}_{path}_{source.digest}"), file.parent
    else:
        module = ModuleType(place)
        is_package = file.name == "__init__.py"
        module.__package__ = place if is_package else place.rpartition(".")[0]
        if is_package:
            module.__path__ = [str(file.parent)]
        folder = file.parents[place.count(".") + is_package]
    module.__file__ = source.file
    return module, folder


def failure(error: BaseException, file: str) -> str:
    """An error in one line, with the line of the user's file that it comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == file]
    where = f" ({Path(file).name} line {lines[-1]})" if lines else ""
    return one_line(error) + where


def shown(value: object) -> str:
    """What a function returned, in a message: its beginning."""
    told = " ".join(repr(value).split())
    return told if len(told) <= SHOWN_CHARS else f"{told[:SHOWN_CHARS]}..."


def is_finite(value: float) -> bool:
    """Whether a number that a function returned is one of ours; JSON knows larger ones."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
