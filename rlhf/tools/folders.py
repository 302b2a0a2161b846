"""Measures and deletes folders that hostile code has filled, and that may be anything but tidy."""

import itertools
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress

MAX_DEPTH = 8
"""Of folders in folders; deeper, a path could become longer than the system takes."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def exceeds(folder: str, num_bytes: int, num_entries: int) -> bool:
    """Whether a folder that is being written to holds more than this, or cannot be looked through.

    Takes no longer for a fuller one: it stops at the limit. A file counts with its length, though
    it may be sparse, or with what is reserved for it, if that is more.
    """
    found, size, left = 0, 0, [(folder, 0)]
    while left:
        path, depth = left.pop()
        try:
            _let_in(path)
            with os.scandir(path) as entries:
                for entry in entries:
                    found += 1
                    if found > num_entries or depth > MAX_DEPTH:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        left.append((entry.path, depth + 1))
                    else:
                        size += _length(entry)
        except (FileNotFoundError, NotADirectoryError):  # Gone since we listed it.
            continue
        except OSError:
            return True
    return size > num_bytes


def _length(entry: os.DirEntry[str]) -> int:
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return 0
    return max(found.st_size, found.st_blocks * 512)


def delete(folder: str) -> None:
    """Deletes a folder into which nobody writes any more, however deep, and follows no link.

    What lies deeper is moved up until nothing does: recursion would run out of stack, of open
    files, or of characters for the path.
    """
    prefix = uuid.uuid4().hex
    new_names = (f"{prefix}-{number}" for number in itertools.count())
    _let_in(folder)
    top = os.open(folder, _FOLDER)
    try:
        while names := os.listdir(top):
            for name in names:
                # Gone, or something else by now, it is met again in the next list.
                with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                    _delete_one(name, top, new_names)
    finally:
        os.close(top)
    os.rmdir(folder)


def _delete_one(name: str, top: int, new_names: Iterator[str]) -> None:
    if not _let_in(name, top):
        os.unlink(name, dir_fd=top)
        return
    inner = os.open(name, _FOLDER, dir_fd=top)
    try:
        for child in os.listdir(inner):
            _let_in(child, inner)
            os.rename(child, next(new_names), src_dir_fd=inner, dst_dir_fd=top)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _let_in(name: str, parent: int | None = None) -> bool:
    """Whether it is a folder, which is then made one that its owner may list, open and move."""
    try:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except NotADirectoryError:
        return False
    try:
        if os.fstat(handle).st_mode & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)
    return True
