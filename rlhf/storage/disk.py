"""A disk that is full, read-only or gone: told in one line, and nothing complete is damaged."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from rlhf.problems import RunFailed

GIB = 1 << 30


class DiskFailed(RunFailed):
    """Something cannot be written; names the path, why, and how much room there is."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it, what the system refuses of a file or folder raises DiskFailed."""
    try:
        yield
    except DiskFailed:
        raise
    except OSError as error:
        raise DiskFailed(cannot_be_written(path, error.strerror or str(error))) from error
    except SafetensorError as error:  # in its own words, what the system refused
        raise DiskFailed(cannot_be_written(path, str(error))) from error


def cannot_be_written(path: Path, why: str) -> str:
    return f"{path}: cannot be written ({why}; {room(path)})"


def room(path: Path) -> str:
    """How much is free where the path is or would be, in words."""
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        usage = shutil.disk_usage(path)
    except OSError as error:
        return f"how much is free there cannot be told: {error.strerror}"
    return f"{gib(usage.free)} of {gib(usage.total)} are free"


def gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.3g} GiB"


def append(path: Path, text: str, sync: bool = True) -> None:
    """Adds to a file all of it or nothing; `sync`: a power cut cannot take it any more.

    Raises DiskFailed.
    """
    left = text.encode()
    with writing(path), path.open("ab", buffering=0) as file:  # a buffer would keep what failed
        before = file.tell()
        try:
            while left:
                left = left[file.write(left) :]
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):  # where not even that can be done, a reader passes over it
                os.truncate(path, before)
            raise


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file, which is old or new at any time, never half, and on disk on return.

    Raises DiskFailed.
    """
    unfinished = path.with_name(f"{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
        fsync(path.parent)


def fsync(path: Path) -> None:
    """Of a file, what it holds, and of a folder, the names in it, are on disk on return."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size_of(folder: Path) -> int:
    """In bytes, of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_room(path: Path, num_bytes: int) -> None:
    """Raises DiskFailed where less than that is free."""
    with writing(path):
        free = shutil.disk_usage(path).free
    if free < num_bytes:
        needed = f"as large as the one before, it takes {gib(num_bytes)}"
        raise DiskFailed(cannot_be_written(path, needed))


class Ballast:
    """Some room that is kept free by a file, for what has to be written at the end."""

    NAME = ".room"
    BYTES = 1 << 18

    def __init__(self, directory: Path) -> None:
        self._file = directory / self.NAME
        with writing(self._file):
            directory.mkdir(parents=True, exist_ok=True)
            self._file.write_bytes(bytes(self.BYTES))

    def drop(self) -> None:
        with suppress(OSError):  # on a disk that is read-only it stays
            self._file.unlink()


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `path` at the end; until then, and after an
    error, what was there is as it was."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    earlier = path.with_name(f".{path.name}.earlier")
    with writing(path):
        for leftover in (unfinished, earlier):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            yield unfinished
            if path.exists():
                os.rename(path, earlier)
            os.rename(unfinished, path)
        finally:
            for leftover in (unfinished, earlier):
                shutil.rmtree(leftover, ignore_errors=True)
