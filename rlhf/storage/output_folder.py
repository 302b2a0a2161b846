"""A folder that a command makes: it is there complete, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def output_problems(key: str, path: str) -> Iterator[str]:
    """What would keep a command from making `path`, told before its work rather than after."""
    folder = Path(path)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        yield f"{key}={folder}: there is something already; choose another, or move it away"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent):
            pass
    except OSError as error:
        yield f"{key}={folder}: cannot be written ({error.strerror}); choose another"


@contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `path` at the end; an error leaves nothing."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
