"""Checkpoints that are complete or absent, and are verified before they are used.

A checkpoint is written under a temporary name; a manifest with the size and hash of every file is
written last; then it is renamed, and LATEST replaced. Only what the manifest verifies is loaded.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf.storage.ledger import Ledger

MANIFEST = "manifest.json"
STATE = "state.json"
LATEST = "LATEST"


class SavesState(Protocol):
    """What the policy does for a checkpoint."""

    async def save(self, directory: Path) -> None: ...


class CheckpointDamaged(Exception):
    """A checkpoint does not match its manifest; says which file, and how."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One that has been verified."""

    directory: Path
    state: dict[str, Any]
    """`num_rounds` done, `policy_version`, and whatever the run added."""


class RoundCheckpoints:
    """Writes `checkpoints/round_NNNNNN`, keeping the newest few."""

    def __init__(
        self,
        directory: Path,
        policy: SavesState,
        ledger: Ledger,
        *,
        keep: int,
        state: dict[str, Any],
    ) -> None:
        """`state`: what every checkpoint of the run notes besides its round, as JSON."""
        self._directory = directory
        self._policy = policy
        self._ledger = ledger
        self._keep = keep
        self._state = state

    async def save(self, num_rounds: int) -> Path:
        name = f"round_{num_rounds:06d}"
        final = self._directory / name
        if final.exists():  # renamed when it was complete
            _replace(self._directory / LATEST, name)
            return final
        temporary = self._directory / f".{name}.partial"
        for leftover in self._directory.glob(".round_*"):  # of a save that was killed
            shutil.rmtree(leftover)
        temporary.mkdir(parents=True)
        await self._policy.save(temporary)
        self._ledger.save(temporary, num_rounds)
        state = {"num_rounds": num_rounds, "policy_version": num_rounds, **self._state}
        (temporary / STATE).write_text(json.dumps(state, indent=1))
        _write_manifest(temporary)
        os.rename(temporary, final)
        _fsync(self._directory)
        _replace(self._directory / LATEST, name)
        for old in complete_names(self._directory)[: -self._keep]:
            _remove(self._directory / old)
        return final


def newest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest complete checkpoint, verified; None if there is none.

    Raises CheckpointDamaged rather than silently going further back.
    """
    names = complete_names(directory)
    if not names:
        return None
    path = directory / names[-1]
    verify(path)
    return Checkpoint(path, json.loads((path / STATE).read_text()))


def complete_names(directory: Path) -> list[str]:
    """Names of renamed checkpoints, oldest first."""
    return sorted(path.name for path in directory.glob("round_*") if path.is_dir())


def verify(directory: Path) -> None:
    """Compares every file with the manifest."""
    advice = f"delete {directory} to go on from an older checkpoint"
    try:
        manifest = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointDamaged(
            f"{directory / MANIFEST} cannot be read ({error}): {advice}"
        ) from error
    for name, expected in manifest.items():
        file = directory / name
        found = _describe(file) if file.is_file() else "missing"
        if found != expected:
            raise CheckpointDamaged(
                f"{file} is {found}, and the manifest says {expected}: {advice}"
            )


def _write_manifest(directory: Path) -> None:
    paths = sorted(directory.rglob("*"))
    files = {str(path.relative_to(directory)): _describe(path) for path in paths if path.is_file()}
    for path in paths:  # folders too, or a power cut could lose the names of the files in them
        _fsync(path)
    _replace(directory / MANIFEST, json.dumps(files, indent=1))


def _remove(checkpoint: Path) -> None:
    """Under another name first, so that a kill on the way leaves no half checkpoint."""
    hidden = checkpoint.with_name(f".{checkpoint.name}.removed")
    os.rename(checkpoint, hidden)
    shutil.rmtree(hidden)


def _describe(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16))
    return {"bytes": file.stat().st_size, "blake2b": digest.hexdigest()}


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    _fsync(temporary)
    os.replace(temporary, path)
    _fsync(path.parent)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
