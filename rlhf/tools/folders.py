"""Measures and deletes folders that hostile code has filled, and that may be anything but tidy."""

import os
import stat
import uuid

MAX_DEPTH = 8
"""Of folders in folders; deeper, a path could become longer than the system takes."""


def exceeds(folder: str, num_bytes: int, num_entries: int) -> bool:
    """Whether a folder that is being written to holds more than this, or cannot be looked through.

    Takes no longer for a fuller one: it stops at the limit. A file counts with its length, though
    it may be sparse.
    """
    found, size, left = 0, 0, [(folder, 0)]
    while left:
        path, depth = left.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    found += 1
                    if found > num_entries or depth > MAX_DEPTH:
                        return True
                    if entry.is_dir(follow_symlinks=False):
                        left.append((entry.path, depth + 1))
                    else:
                        size += _length(entry)
        except FileNotFoundError:  # Gone since we listed it.
            continue
        except PermissionError:  # A folder whose owner may not list it.
            return True
    return size > num_bytes


def _length(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except FileNotFoundError:
        return 0


def delete(folder: str) -> None:
    """Deletes a folder into which nobody writes any more, however deep, and follows no link.

    What lies deeper is moved up until nothing does: recursion would run out of stack, of open
    files, or of characters for the path.
    """
    prefix, count = uuid.uuid4().hex, 0
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        while names := os.listdir(top):
            for name in names:
                if not _is_folder(name, top):
                    os.unlink(name, dir_fd=top)
                    continue
                inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
                try:
                    for child in os.listdir(inner):
                        _is_folder(child, inner)
                        count += 1
                        os.rename(child, f"{prefix}-{count}", src_dir_fd=inner, dst_dir_fd=top)
                finally:
                    os.close(inner)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _is_folder(name: str, parent: int) -> bool:
    """Whether it is a folder, which is then made one that we may open and move."""
    if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
        return False
    os.chmod(name, 0o700, dir_fd=parent)
    return True
