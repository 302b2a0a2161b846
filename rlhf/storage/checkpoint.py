"""Checkpoints that are complete or absent, and are verified before they are used.

A checkpoint is written under a temporary name; a manifest with the size and hash of every file is
written last; then it is renamed, and LATEST replaced. Only what the manifest verifies is loaded.
"""

import hashlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.problems import InputError
from rlhf.storage.disk import (
    DiskFailed,
    fsync,
    require_room,
    size_of,
    write_atomically,
    writing,
)
from rlhf.storage.reading import read_json
from rlhf.storage.threads import in_thread

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "LATEST"
BEST = "BEST"
"""Names the one that `run.keep_best` keeps."""
UNFINISHED = ".round_*.partial"
"""What a checkpoint is called while it is written."""


class CheckpointDamaged(Exception):
    """A checkpoint does not match its manifest; says which file, and how."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that has been verified."""

    directory: Path
    state: dict[str, Any]
    """`num_rounds` done, `policy_version`, and whatever the run added."""


@asynccontextmanager
async def being_written(directory: Path, num_rounds: int) -> AsyncIterator[Path]:
    """Gives a folder for the files of a checkpoint after so many rounds, which is complete, under
    its own name, once this ends without an error; all files are read again for that, which takes
    minutes for a large model, in a thread.

    Raises DiskFailed where there is no room, which leaves all that is there as it is.
    """
    name = name_of(num_rounds)
    temporary = directory / f".{name}.partial"
    with writing(directory / name):
        await in_thread(_make_room, directory)
        try:
            temporary.mkdir(parents=True)
            yield temporary
            await in_thread(_complete, temporary, directory / name)
        except (OSError, DiskFailed):
            shutil.rmtree(temporary, ignore_errors=True)  # the room is needed for other things
            raise


def _make_room(directory: Path) -> None:
    for leftover in directory.glob(".round_*"):  # of one that was killed
        shutil.rmtree(leftover)
    if names := complete_names(directory):
        require_room(directory, size_of(directory / names[-1]))


def _complete(unfinished: Path, checkpoint: Path) -> None:
    _write_manifest(unfinished)
    os.rename(unfinished, checkpoint)
    fsync(checkpoint.parent)


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint, verified; None if there is none.

    Raises CheckpointDamaged rather than silently going further back, and says how to.
    """
    names = complete_names(directory)
    if not names:
        return None
    path = directory / names[-1]
    try:
        return _verified(path)
    except CheckpointDamaged as damage:
        older = (directory / name for name in reversed(names[:-1]))
        sound = next((one.name for one in older if _is_sound(one)), None)
        then = f"go on from {sound}, which is complete" if sound else "begin anew: none is complete"
        raise CheckpointDamaged(f"{damage}: delete {path} to {then}") from damage


def _verified(path: Path) -> Checkpoint:
    verify(path)
    state = _read_object(path / STATE)
    if type(num_rounds := state.get("num_rounds")) is not int or path.name != name_of(num_rounds):
        raise CheckpointDamaged(f"{path / STATE} is not of {path.name}: it has {num_rounds} rounds")
    return Checkpoint(path, state)


def _is_sound(path: Path) -> bool:
    try:
        _verified(path)
    except CheckpointDamaged:
        return False
    return True


def name_of(num_rounds: int) -> str:
    """Of a checkpoint after so many rounds."""
    return f"round_{num_rounds:06d}"


def complete_names(directory: Path) -> list[str]:
    """Names of renamed checkpoints, oldest first; people's copies have others."""
    folders = (path.name for path in directory.glob("round_*") if path.is_dir())
    return sorted(name for name in folders if name.removeprefix("round_").isdecimal())


def last_sound(directory: Path, before: int | None = None) -> Path | None:
    """The newest checkpoint that is complete, and matches its manifest; of fewer rounds than
    `before`, if that is given."""
    names = complete_names(directory)
    if before is not None:
        names = [name for name in names if name < name_of(before)]
    return next((directory / one for one in reversed(names) if _is_sound(directory / one)), None)


def verify(directory: Path) -> None:
    """Compares every file with the manifest; raises CheckpointDamaged."""
    manifest = _read_object(directory / MANIFEST)
    for name in sorted(manifest.keys() | {STATE} | _written(directory)):
        if not _is_inside(name):
            raise CheckpointDamaged(f"{directory / MANIFEST} names {name[:80]!r}, no file of it")
        file = directory / name
        found = _describe(file) if file.is_file() else "missing"
        expected = manifest.get(name, "nothing of it")
        if found != expected:
            raise CheckpointDamaged(f"{file} is {found}, and the manifest says {expected}")


def _is_inside(name: str) -> bool:
    """Whether it is the path of a file below a folder that any system could have."""
    parts = name.split("/")
    return all(0 < len(p.encode(errors="replace")) < 256 and p != ".." for p in parts) and (
        name.isprintable() and len(parts) < 20
    )


def _written(directory: Path) -> set[str]:
    """Names of the files that a checkpoint consists of; hidden ones are a file system's own."""
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return {
        str(file)
        for file in files
        if str(file) != MANIFEST and not any(part.startswith(".") for part in file.parts)
    }


def _read_object(file: Path) -> dict[str, Any]:
    try:
        return read_json(file, {}, "")
    except InputError as error:
        raise CheckpointDamaged(str(error).rstrip("; ")) from error


def _write_manifest(directory: Path) -> None:
    paths = sorted(directory.rglob("*"))
    files = {str(path.relative_to(directory)): _describe(path) for path in paths if path.is_file()}
    for path in paths:  # folders too, or a power cut could lose the names of the files in them
        fsync(path)
    write_atomically(directory / MANIFEST, json.dumps(files, indent=1))


def remove(checkpoint: Path) -> None:
    """Under another name first, so that a kill on the way leaves no half checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden)


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
    return {"bytes": file.stat().st_size, "blake2b": digest.hexdigest()}
